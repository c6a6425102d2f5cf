"""What this host can do apart from any model: how fast its memory is read and copied.

Reading bounds decode, since every step reads all weights once. The loops are numpy's, one a thread, over arrays larger
than any cache: numpy gives up the GIL while it runs, and its maximum over integers is a vectorised read.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import numpy as np
import numpy.typing as npt

#: Bytes all threads read together in one pass, each at least so many, and passes, the best of which counts.
TOTAL_BYTES: Final = 384 * 2**20
LEAST_BYTES: Final = 16 * 2**20
PASSES: Final = 3

Array = npt.NDArray[np.int64]


def memory_bandwidth(threads: int, total_bytes: int = TOTAL_BYTES) -> dict[str, float]:
    """Bytes per second that `threads` threads read together, and copy (bytes read plus bytes written).

    The best of a few passes: what the memory can do, not what neighbours left of it.
    """
    size = max(LEAST_BYTES, total_bytes // threads)
    arrays = [np.ones(size // 8, dtype=np.int64) for _ in range(threads)]
    copies = [np.zeros_like(array) for array in arrays]

    def read(index: int) -> None:
        arrays[index].max()

    def copy(index: int) -> None:
        np.copyto(copies[index], arrays[index])

    with ThreadPoolExecutor(threads) as pool:
        seconds = [min(_timed(pool, work, threads) for _ in range(PASSES)) for work in (read, copy)]
    total = arrays[0].nbytes * threads
    return {"read": total / seconds[0], "copy": 2 * total / seconds[1]}


def _timed(pool: ThreadPoolExecutor, work: Callable[[int], None], threads: int) -> float:
    begin = time.perf_counter()
    list(pool.map(work, range(threads)))
    return time.perf_counter() - begin
