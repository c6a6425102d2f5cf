"""Joules that the host used while the engine was busy.

Reads Intel's and AMD's RAPL counters through Linux's powercap tree (Documentation/power/powercap/powercap.rst) and the
total energy of NVIDIA GPUs through NVML, where they can be read; where not there is no metric rather than a zero. The
counters know the whole processor or GPU, not processes: what others do in the same moment is in the figure too.
"""

from __future__ import annotations

import importlib
import logging
import re
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from engine import EngineStats, clock

log = logging.getLogger(__name__)

POWERCAP: Final = Path("/sys/class/powercap")

#: Seconds between two readings. The counters of large processors wrap around after some minutes.
PERIOD: Final = 1.0


class EnergyCounter(Protocol):
    """Something that counts joules."""

    domain: str

    def joules(self) -> float:
        """Return the joules used since the last call. Raises OSError if they cannot be read any more."""


class RaplDomain:
    """One zone of the powercap tree: a processor package or its memory."""

    def __init__(self, zone: Path, domain: str) -> None:
        """Raises OSError or ValueError if the zone cannot be read (since Linux 5.10 that takes root)."""
        self.domain = domain
        self._file = zone / "energy_uj"
        self._range = int((zone / "max_energy_range_uj").read_text())
        self._last = self._read()

    def joules(self) -> float:
        """Return the joules since the last call; the counter starts again at 0 after `max_energy_range_uj`."""
        now, last = self._read(), self._last
        self._last = now
        return ((now - last) if now >= last else (now + self._range - last)) / 1e6

    def _read(self) -> int:
        return int(self._file.read_text())


class NvidiaGpu:
    """One NVIDIA GPU, through NVML (the package nvidia-ml-py)."""

    def __init__(self, nvml: Any, index: int) -> None:
        """Raises `nvml.NVMLError` for GPUs that do not count energy (before Volta)."""
        self.domain = f"gpu-{index}"
        self._nvml = nvml
        self._handle = nvml.nvmlDeviceGetHandleByIndex(index)
        self._last = self._read()

    def joules(self) -> float:
        """Return the joules since the last call."""
        last = self._last
        try:
            self._last = self._read()
        except self._nvml.NVMLError as error:
            raise OSError(str(error)) from error
        return (self._last - last) / 1e3

    def _read(self) -> int:
        return int(self._nvml.nvmlDeviceGetTotalEnergyConsumption(self._handle))  # millijoules


def rapl_domains(powercap: Path = POWERCAP) -> list[EnergyCounter]:
    """Return every readable package and its memory; empty where there are none.

    Cores and graphics are part of their package, and `psys` contains the packages, so they are left out.
    """
    domains: list[EnergyCounter] = []
    for zone in sorted(powercap.glob("intel-rapl:*")):
        try:
            name = (zone / "name").read_text().strip()
            if re.fullmatch(r"package-\d+(-die-\d+)?", name):
                domains.append(RaplDomain(zone, name))
            elif name == "dram":
                domains.append(RaplDomain(zone, f"dram-{zone.name.split(':')[1]}"))
        except (OSError, ValueError) as error:
            log.info("no energy figures of %s: %s", zone, error)
    return domains


def nvidia_gpus() -> list[EnergyCounter]:
    """Return every NVIDIA GPU that counts its energy; empty, with a line in the log, without any or nvidia-ml-py."""
    try:
        nvml: Any = importlib.import_module("pynvml")
    except ImportError:
        log.info("no energy figures of GPUs: they need pip install 'lucid-llm[nvml]'")
        return []
    try:
        nvml.nvmlInit()
        count = nvml.nvmlDeviceGetCount()
    except nvml.NVMLError as error:
        log.info("no energy figures of GPUs: %s", error)
        return []
    gpus: list[EnergyCounter] = []
    for index in range(count):
        try:
            gpus.append(NvidiaGpu(nvml, index))
        except nvml.NVMLError as error:
            log.info("no energy figures of GPU %d: %s", index, error)
    return gpus


class EnergyMeter(Collector):
    """Adds up what `counters` say, each reading by the share of its time in which the engine was busy."""

    def __init__(
        self, counters: Sequence[EnergyCounter], stats: Callable[[], EngineStats], instance_label: str
    ) -> None:
        self._counters = list(counters)
        self._stats = stats
        self._label = instance_label
        self._joules = {counter.domain: 0.0 for counter in self._counters}
        self._lock = threading.Lock()
        self._at = clock()
        self._busy = stats().counters.busy_until(self._at)

    def start(self) -> None:
        """Read the counters every `PERIOD` seconds, from a daemon thread. Nothing happens where there are none."""
        if self._counters:
            threading.Thread(target=self._run, name="energy", daemon=True).start()

    def sample(self) -> None:
        """Read the counters and add the engine's share of what was used since the last reading."""
        with self._lock:
            now = clock()
            busy = self._stats().counters.busy_until(now)
            share = min(1.0, (busy - self._busy) / (now - self._at)) if now > self._at else 0.0
            self._at, self._busy = now, busy
            for counter in list(self._counters):
                try:
                    self._joules[counter.domain] += counter.joules() * share
                except (OSError, ValueError) as error:
                    log.warning("energy of %s cannot be read any more: %s", counter.domain, error)
                    self._counters.remove(counter)
                    del self._joules[counter.domain]

    def collect(self) -> Iterable[Metric]:
        """Yield the joules by domain, and for each token that the engine made; nothing where nothing can be read."""
        if not self._counters:
            return
        self.sample()
        family = CounterMetricFamily(
            "lucid_energy_joules", "Energy used while the engine was busy.", labels=("instance_label", "domain")
        )
        for domain, joules in self._joules.items():
            family.add_metric((self._label, domain), joules)
        yield family
        tokens = self._stats().counters.generated_tokens
        if tokens:
            gauge = GaugeMetricFamily(
                "lucid_energy_joules_per_token",
                "Energy used while the engine was busy, for each token that it made so far.",
                labels=("instance_label",),
            )
            gauge.add_metric((self._label,), sum(self._joules.values()) / tokens)
            yield gauge

    def _run(self) -> None:
        while self._counters:
            time.sleep(PERIOD)
            self.sample()
