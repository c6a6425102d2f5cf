"""How much of the processors other work took while this process measured something.

Knows /proc/stat (proc(5)); on systems without it nothing is ever reported.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from engine.timings import clock

#: Columns of a cpu line that are time at work: user, nice, system, irq, softirq, steal.
_BUSY = (1, 2, 3, 6, 7, 8)


class OtherWork:
    """Watches the processors this process may use, from its creation on."""

    def __init__(self) -> None:
        self._begin = clock()
        self._own = time.process_time()
        self._all = _busy_seconds()

    def share(self) -> float:
        """The share of those processors' time since creation that others took, 0 to 1 (stolen time included)."""
        busy = _busy_seconds() - self._all
        own = time.process_time() - self._own
        capacity = (clock() - self._begin) * len(os.sched_getaffinity(0))
        return max(0.0, (busy - own) / capacity) if capacity else 0.0


def _busy_seconds() -> float:
    """Seconds at work of all processors this process may use; 0 where the system does not say."""
    try:
        lines = Path("/proc/stat").read_text("ascii").splitlines()
    except OSError:
        return 0.0
    mine = {f"cpu{number}" for number in os.sched_getaffinity(0)}
    rows = [line.split() for line in lines]
    ticks = sum(int(row[column]) for row in rows if row and row[0] in mine for column in _BUSY)
    return ticks / os.sysconf("SC_CLK_TCK")
