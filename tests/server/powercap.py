"""Writes zones of Linux's powercap tree (Documentation/power/powercap/powercap.rst) into a folder."""

from pathlib import Path

#: What the kernel gives for a desktop processor, in microjoules.
RANGE = 262_143_328_850


def write_zone(powercap: Path, zone: str, name: str, microjoules: int) -> Path:
    """Make or update a zone; returns its folder."""
    folder = powercap / zone
    folder.mkdir(exist_ok=True)
    (folder / "name").write_text(f"{name}\n")
    (folder / "energy_uj").write_text(f"{microjoules}\n")
    (folder / "max_energy_range_uj").write_text(f"{RANGE}\n")
    return folder
