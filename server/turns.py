"""Bounds what requests may take of the processor before the engine sees them.

Rendering and tokenizing a megabyte takes a second and tens of megabytes of memory. Were every HTTP thread free to do
that at once, the engine's threads would be a few among a hundred, and answers under way would come to a stand. So
requests take turns, in two lines, so that a short chat never waits for a long text; in each, who came first goes
first. Knows sizes, threads and where waiting is booked; knows nothing of text.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple

from engine import Timings, clock
from llama_native import available_cpus
from server.errors import unavailable

#: Bodies of so many bytes stand in the line for large ones. Smaller ones take some milliseconds each.
LARGE: Final = 16 << 10

#: Longest wait for a turn, in seconds.
PATIENCE: Final = 30.0


class _Waiter(NamedTuple):
    called: threading.Event
    since: float


class Line:
    """Lets a few threads at once pass, first come, first served.

    A semaphore would not: whoever comes while a woken thread is not yet running takes its place, and those who have
    waited longest wait on.
    """

    def __init__(self, at_once: int) -> None:
        """At most `at_once` threads are between `enter` and `leave`."""
        self._lock = threading.Lock()
        self._free = at_once  # 0 while anybody waits
        self._waiting: deque[_Waiter] = deque()

    @property
    def waiting(self) -> int:
        """How many threads wait."""
        return len(self._waiting)

    @property
    def oldest_wait(self) -> float:
        """Seconds the first of them has waited; 0 when none waits."""
        with self._lock:
            return clock() - self._waiting[0].since if self._waiting else 0.0

    def enter(self, seconds: float | None) -> bool:
        """Wait for a place, for ever if `seconds` is None. Returns whether there was one; then `leave` is due."""
        with self._lock:
            if self._free:
                self._free -= 1
                return True
            waiter = _Waiter(threading.Event(), clock())
            self._waiting.append(waiter)
        if waiter.called.wait(seconds):
            return True
        with self._lock:
            if waiter.called.is_set():  # in the moment in which patience ended
                return True
            self._waiting.remove(waiter)
            return False

    def leave(self) -> None:
        """Give the place to the thread that has waited longest."""
        with self._lock:
            if self._waiting:
                self._waiting.popleft().called.set()
            else:
                self._free += 1


class Turns:
    """Lets a few threads at once prepare requests; the others wait."""

    def __init__(self, places: int) -> None:
        """At most `places` large requests may have their turn or wait for it, so that threads are left for others."""
        # A quarter of the processors for each line, at least one: from four on, half of them stay with the engine.
        at_once = max(1, available_cpus() // 4)
        self._places = threading.BoundedSemaphore(places)
        self._small = Line(at_once)
        self._large = Line(at_once)

    @property
    def waiting(self) -> int:
        """How many requests wait for their turn."""
        return self._small.waiting + self._large.waiting

    @property
    def oldest_wait(self) -> float:
        """Seconds the first of them has waited; 0 when none waits."""
        return max(self._small.oldest_wait, self._large.oldest_wait)

    @contextmanager
    def take(self, size: int, timings: Timings) -> Iterator[None]:
        """Have a turn for a request whose body has `size` bytes; the wait is its phase `turn`.

        Raises `ApiError` (503) if too many large requests wait, or if this one has waited for `PATIENCE`.
        """
        if size < LARGE:
            with self._turn(self._small, timings):
                yield
            return
        if not self._places.acquire(blocking=False):
            raise unavailable("The server is at its limit: too many large requests wait.", "queue_full", 1)
        try:
            with self._turn(self._large, timings):
                yield
        finally:
            self._places.release()

    @contextmanager
    def _turn(self, line: Line, timings: Timings) -> Iterator[None]:
        with timings.phase("turn"):
            entered = line.enter(PATIENCE)
        if not entered:
            message = f"The server is at its limit: other requests were read for {PATIENCE:g} s."
            raise unavailable(message, "queue_timeout", 1)
        try:
            yield
        finally:
            line.leave()
