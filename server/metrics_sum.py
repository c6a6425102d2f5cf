"""The metrics of several worker processes as one.

Each worker leaves snapshots of its metrics in a folder that all share; whoever is scraped adds them up. Nothing is
ever shown that is not in a file, so counters never fall: what a dead worker had counted is kept, while its gauges go
with it. Knows prometheus_client's families and files; knows nothing of what is counted.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Final

import msgspec
from prometheus_client import CollectorRegistry, Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar, Sample

#: How gauges of several workers become one, where the sum would be wrong.
GAUGES: Final[dict[str, Callable[[Iterable[float]], float]]] = {
    "lucid_queue_age_seconds": max,
    "lucid_kv_cache_usage_ratio": fmean,
    "lucid_cache_config_info": max,
    "lucid_knowledge_files": max,
    "lucid_knowledge_files_skipped": max,
    "lucid_knowledge_chunks": max,
    "lucid_knowledge_tokens": max,
    "lucid_knowledge_bytes": max,
    "lucid_knowledge_age_seconds": min,
    "process_start_time_seconds": min,
    "process_max_fds": min,
}

#: Gauges that are the quotient of two counters' sums.
RATIOS: Final = {"lucid_energy_joules_per_token": ("lucid_energy_joules", "lucid_decoded_tokens")}

#: Types whose values only grow; a process that ended still counts.
_TOTALS: Final = frozenset({"counter", "histogram"})

#: Seconds between snapshots while there is more than one worker; as old as another worker's figures can be.
PERIOD: Final = 1.0

#: The counter that nobody but the master process can move: a worker that died does not count itself.
WORKERS_LOST: Final = "lucid_workers_lost"

_DEPARTED: Final = "departed"

#: How the folders' names begin; the process id of the server follows.
_PREFIX: Final = "lucid-llm-metrics."

log = logging.getLogger("server")


class _Sample(msgspec.Struct, array_like=True):
    name: str
    labels: dict[str, str]
    value: float
    exemplar: tuple[dict[str, str], float, float] | None = None


class _Family(msgspec.Struct, array_like=True):
    name: str
    documentation: str
    type: str
    samples: list[_Sample]


class _Snapshot(msgspec.Struct, array_like=True):
    families: list[_Family]
    #: The file that was added to this one last; where both are seen, it is in here already.
    contains: str = ""


_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(_Snapshot).decode


class Folder:
    """The shared folder: a file for each living worker, and one for all that have ended.

    The process that makes it and those forked from it hold a lock on it. One that nobody holds was left behind by a
    server that was killed; the next one to start removes it.
    """

    def __init__(self) -> None:
        memory = Path("/dev/shm")
        where = memory if os.access(memory, os.W_OK) else Path(tempfile.gettempdir())
        for left in where.glob(f"{_PREFIX}*"):
            _remove_if_left(left)
        while True:
            self.path = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}.", dir=where))
            try:
                self._lock = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
            except FileNotFoundError:  # another server took it for one left behind, in the moment before
                continue
            fcntl.flock(self._lock, fcntl.LOCK_EX)
            if self.path.exists():  # else the same, a moment later
                return
            os.close(self._lock)

    def remove(self) -> None:
        """Delete everything."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)

    def write(self, name: str, snapshot: _Snapshot) -> None:
        """Replace the file `name`, at once."""
        new = self.path / f".{name}"
        new.write_bytes(_encode(snapshot))
        new.rename(self.path / name)

    def names(self) -> list[str]:
        """Return the files' names; none when the server has ended and the folder is gone."""
        try:
            return [path.name for path in self.path.iterdir() if not path.name.startswith(".")]
        except FileNotFoundError:
            return []

    def read(self, name: str) -> _Snapshot:
        """Return a file's content; FileNotFoundError if it is gone."""
        return _decode((self.path / name).read_bytes())

    def others(self, own: str) -> list[_Snapshot]:
        """Return the snapshots of all but `own`, each worker counted once whatever ends meanwhile."""
        while True:
            names = self.names()
            try:
                departed = self.read(_DEPARTED) if _DEPARTED in names else _Snapshot([])
                rest = [name for name in names if name not in (own, _DEPARTED, departed.contains)]
                return [departed, *map(self.read, rest)]
            except FileNotFoundError:
                continue  # a worker's file went into the departed one after it was listed: look again

    def depart(self, pid: str) -> None:
        """Keep the totals of a worker that has ended, and forget the rest of it."""
        for name in self.names():
            if name.startswith(f"{pid}-"):
                families = _add([self._departed().families, self.read(name).families])
                totals = [family for family in families if family.type in _TOTALS]
                self.write(_DEPARTED, _Snapshot(totals, contains=name))
                (self.path / name).unlink()

    def count(self, name: str, labels: dict[str, str]) -> None:
        """Add one to the counter `name`, as if a worker that has ended had counted it."""
        before = self._departed()
        one = _Family(name, "", "counter", [_Sample(f"{name}_total", labels, 1.0)])
        self.write(_DEPARTED, _Snapshot(_add([before.families, [one]]), before.contains))

    def _departed(self) -> _Snapshot:
        return self.read(_DEPARTED) if _DEPARTED in self.names() else _Snapshot([])


class SummedMetrics(Collector):
    """This worker's `registry` and the other workers' snapshots, added up at each scrape."""

    def __init__(self, registry: CollectorRegistry, folder: Folder) -> None:
        self._registry = registry
        self._folder = folder
        self._name = f"{os.getpid()}-{time.time_ns()}"
        self._lock = threading.Lock()

    def start(self) -> None:
        """Leave a snapshot now, and every `PERIOD` seconds while there are other workers.

        One costs milliseconds, so a worker that is alone leaves them when it is scraped, and when it ends.
        """
        self.publish()
        threading.Thread(target=self._run, name="metrics-publisher", daemon=True).start()

    def collect(self) -> Iterable[Metric]:
        """Return the sum of all workers, dead ones included."""
        with self._lock:
            own = self._publish()
        return [
            _metric(family) for family in _add([own, *(other.families for other in self._folder.others(self._name))])
        ]

    def publish(self) -> None:
        """Leave a snapshot for the others. Where that cannot be done now, a warning says why."""
        try:
            with self._lock:
                self._publish()
        except OSError as error:  # the process has no file descriptor left to read its own figures with
            log.warning("no figures for the other workers: %s", error)

    def _publish(self) -> list[_Family]:
        families = [_family(metric) for metric in self._registry.collect()]
        try:
            self._folder.write(self._name, _Snapshot(families))
        except OSError as error:  # the others will not see this worker's newest figures
            log.warning("%s: %s", self._folder.path, error)
        return families

    def _run(self) -> None:
        while True:
            time.sleep(PERIOD)
            try:
                others = any(name not in (self._name, _DEPARTED) for name in self._folder.names())
            except OSError:  # no file descriptor is left; one will be
                continue
            if others:
                self.publish()


def _remove_if_left(folder: Path) -> None:
    """Delete a folder that no living server holds. Those of other users are not ours to judge."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    except BlockingIOError:
        pass
    finally:
        os.close(descriptor)


def _family(metric: Metric) -> _Family:
    samples = [_Sample(s.name, s.labels, s.value, s.exemplar and tuple(s.exemplar)) for s in metric.samples]  # type: ignore[arg-type]
    return _Family(metric.name, metric.documentation, metric.type, samples)


def _metric(family: _Family) -> Metric:
    metric = Metric(family.name, family.documentation, family.type)
    metric.samples = [
        Sample(s.name, s.labels, s.value, None, Exemplar(*s.exemplar) if s.exemplar else None) for s in family.samples
    ]
    return metric


def _add(snapshots: Sequence[list[_Family]]) -> list[_Family]:
    """Return one family for each name, one sample for each name and labels."""
    present = [snapshot for snapshot in snapshots if snapshot]
    if len(present) == 1:
        return present[0]
    families: dict[str, list[_Family]] = {}
    for snapshot in present:
        for family in snapshot:
            families.setdefault(family.name, []).append(family)
    added = {name: _add_family(same) for name, same in families.items()}
    for name, (over, under) in RATIOS.items():
        if name in added:
            (sample,) = added[name].samples
            sample.value = _total(added[over]) / _total(added[under])
    return list(added.values())


def _total(counter: _Family) -> float:
    return sum(sample.value for sample in counter.samples if sample.name.endswith("_total"))


def _add_family(same: list[_Family]) -> _Family:
    first = same[0]
    one = sum if first.type in _TOTALS else max if first.type == "info" else GAUGES.get(first.name, sum)
    samples: dict[tuple[str, tuple[tuple[str, str], ...]], list[_Sample]] = {}
    for family in same:
        for sample in family.samples:
            samples.setdefault((sample.name, tuple(sample.labels.items())), []).append(sample)
    added = [
        _Sample(alike[0].name, alike[0].labels, one([s.value for s in alike]), _newest(alike))
        for alike in samples.values()
    ]
    return _Family(first.name, first.documentation, first.type, added)


def _newest(samples: list[_Sample]) -> tuple[dict[str, str], float, float] | None:
    return max((s.exemplar for s in samples if s.exemplar), key=lambda exemplar: exemplar[2], default=None)
