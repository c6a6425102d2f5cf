"""What /proc says of a group of processes: resident memory, descriptors and threads, over time and in windows."""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Sample:
    """Sums over the processes `seconds` after the beginning. Memory in bytes; `anonymous` is without mapped files."""

    seconds: float
    rss: int
    anonymous: int
    descriptors: int
    threads: int
    processes: int
    running: int
    waiting: int


def sample(pids: Iterable[int], seconds: float, running: int, waiting: int) -> Sample:
    """Look at the processes now; one that ends meanwhile is left out."""
    rss = anonymous = descriptors = threads = processes = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            folder = Path(f"/proc/{pid}")
            lines = (line.partition(":") for line in (folder / "status").read_text().splitlines())
            status = {name: value.strip() for name, _, value in lines}
            opened = len(list((folder / "fd").iterdir()))
            rss += _bytes(status["VmRSS"])
            anonymous += _bytes(status["RssAnon"])
            threads += int(status["Threads"])
            descriptors += opened
            processes += 1
    return Sample(seconds, rss, anonymous, descriptors, threads, processes, running, waiting)


def _bytes(text: str) -> int:
    return int(text.removesuffix(" kB")) * 1024


@dataclass(frozen=True, slots=True)
class Windows:
    """Medians of one figure in the last third of a run and in the third before it."""

    before: float
    last: float

    @property
    def growth(self) -> float:
        """The change as a share of the window before."""
        return self.last / self.before - 1


def windows(samples: Sequence[Sample], figure: str, duration: float) -> Windows | None:
    """The two windows of a run of `duration` seconds; None if one of them has no sample."""
    before = [getattr(it, figure) for it in samples if duration / 3 <= it.seconds < duration * 2 / 3]
    last = [getattr(it, figure) for it in samples if duration * 2 / 3 <= it.seconds]
    if not before or not last:
        return None
    return Windows(statistics.median(before), statistics.median(last))
