"""Energy of the processor packages by RAPL, read through powercap.

Knows /sys/class/powercap (Linux, Documentation/power/powercap): energy_uj counts up and wraps at
max_energy_range_uj. Most virtual machines show none of it, and since 2020 only root may read it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

POWERCAP = Path("/sys/class/powercap")


@dataclass(frozen=True, slots=True)
class _Zone:
    counter: Path
    range: int


class EnergyMeter:
    """Joules between `start` and `joules`, summed over all processor packages."""

    def __init__(self, root: Path = POWERCAP) -> None:
        self._zones: list[_Zone] = []
        #: Why there is nothing to read; None where there is.
        self.missing: str | None = None
        for zone in sorted(root.glob("intel-rapl:*")):
            try:
                if zone.name.count(":") != 1 or not (zone / "name").read_text().startswith("package"):
                    continue
                int((zone / "energy_uj").read_text())
                self._zones.append(_Zone(zone / "energy_uj", int((zone / "max_energy_range_uj").read_text())))
            except (OSError, ValueError) as error:
                self.missing = f"{zone} cannot be read: {error}"
        if not self._zones and self.missing is None:
            self.missing = f"this host shows no RAPL counters under {root}"
        self._begin: list[int] = []

    def start(self) -> None:
        """Remember the counters."""
        self._begin = self._read()

    def joules(self) -> float | None:
        """Joules since `start`; None where the host shows none."""
        if not self._zones or not self._begin:
            return None
        microjoules = 0
        for zone, begin, now in zip(self._zones, self._begin, self._read(), strict=True):
            microjoules += now - begin if now >= begin else now - begin + zone.range
        return microjoules / 1e6

    def _read(self) -> list[int]:
        return [int(zone.counter.read_text()) for zone in self._zones]
