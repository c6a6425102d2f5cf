"""Computing in a thread that ends, so that the compute threads which OpenMP gives it end too.

libgomp keeps a team of compute threads for every thread that has ever computed, until that thread ends. As soon as all
teams together have more threads than there are processors, it lets them spin at barriers a hundred times at most,
whatever GOMP_SPINCOUNT says (`gomp_throttled_spin_count_var`), and a decode step waits for a wake-up by the kernel at
each. One thread that goes on computing may keep its team; everyone else computes in passing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

_Result = TypeVar("_Result")


def in_passing(work: Callable[[], _Result]) -> _Result:
    """Returns what `work` returns, or raises what it raises; it runs in a thread that ends before this returns."""
    outcome: Future[_Result] = Future()

    def run() -> None:
        try:
            outcome.set_result(work())
        except BaseException as error:  # noqa: BLE001 (raised again by `result`)
            outcome.set_exception(error)

    thread = threading.Thread(target=run, name="compute")
    try:
        thread.start()
    except RuntimeError:  # the system gives no more threads: slower is better than not at all
        return work()
    thread.join()
    return outcome.result()
