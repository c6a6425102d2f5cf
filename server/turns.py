"""Bounds what requests may take of the processor before the engine sees them.

Rendering and tokenizing a megabyte takes a second and tens of megabytes of memory. Were every HTTP thread free to do
that at once, the engine's threads would be a few among a hundred, and answers under way would come to a stand. So
requests take turns, in two lines, so that a short chat never waits for a long text. Knows sizes and threads; knows
nothing of text.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from server.errors import unavailable

#: Bodies of so many bytes stand in the line for large ones. Smaller ones take some milliseconds each.
LARGE: Final = 16 << 10

#: Longest wait for a turn, in seconds.
PATIENCE: Final = 30.0


class Turns:
    """Lets a few threads at once prepare requests; the others wait."""

    def __init__(self, places: int) -> None:
        """At most `places` large requests may have their turn or wait for it, so that threads are left for others."""
        # In each line, a quarter of the processors: half of them stay with the engine.
        at_once = max(1, (os.cpu_count() or 1) // 4)
        self._places = threading.BoundedSemaphore(places)
        self._small = threading.BoundedSemaphore(at_once)
        self._large = threading.BoundedSemaphore(at_once)

    @contextmanager
    def take(self, size: int) -> Iterator[None]:
        """Have a turn for a request whose body has `size` bytes. Raises `ApiError` (503) if there is none."""
        if size < LARGE:
            with self._turn(self._small):
                yield
            return
        if not self._places.acquire(blocking=False):
            raise unavailable("The server is at its limit: too many large requests wait.", "queue_full", 1)
        try:
            with self._turn(self._large):
                yield
        finally:
            self._places.release()

    @contextmanager
    def _turn(self, line: threading.BoundedSemaphore) -> Iterator[None]:
        if not line.acquire(timeout=PATIENCE):
            message = f"The server is at its limit: other requests were read for {PATIENCE:g} s."
            raise unavailable(message, "queue_timeout", 1)
        try:
            yield
        finally:
            line.release()
