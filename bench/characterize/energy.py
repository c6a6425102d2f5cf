"""Joules that this host used while something was asked of a target.

The counters are the server's own (`server.energy`: RAPL of processor packages and their memory, NVML of GPUs). They
know the whole host: idle power and what others do in the same moment are in the figure.
"""

from __future__ import annotations

from pathlib import Path

from server.energy import POWERCAP, EnergyCounter, nvidia_gpus, rapl_domains


class EnergyMeter:
    """Joules between `start` and `joules`, summed over everything that counts them."""

    def __init__(self, powercap: Path = POWERCAP, *, gpus: bool = False) -> None:
        """With `gpus`, every NVIDIA GPU counts: for models that have layers there. Others would count idle ones."""
        self._counters: list[EnergyCounter] = [*rapl_domains(powercap), *(nvidia_gpus() if gpus else ())]

    @property
    def missing(self) -> str | None:
        """Why there is nothing to read; None where there is."""
        if self._counters:
            return None
        return f"no counter can be read: RAPL under {POWERCAP} (as root), or with --gpu-energy a GPU's (NVML)"

    def start(self) -> None:
        """Count from now on."""
        self._sum()

    def joules(self) -> float | None:
        """Joules since `start`; None where the host shows none."""
        return self._sum() if self._counters else None

    def _sum(self) -> float:
        return sum(counter.joules() for counter in self._counters)
