"""Memory for a worker that is not the first: it shall be as large as that one was, though others hold theirs still.

On SIGHUP the new worker starts while the old one finishes its answers. What is free then says nothing about what will
be, so all go by what was free for the first. Where that much cannot be had beside the old worker, its end is awaited.
Knows processes and bytes; what the bytes are for is `server.sizing`'s business.
"""

from __future__ import annotations

import logging
import mmap
import os
import select
import struct
import time
from collections.abc import Callable
from contextlib import suppress

log = logging.getLogger("server")


class Succession:
    """What the workers of one server know of each other. Make it in the master process, before the first fork."""

    _FREE = struct.Struct("Q")

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, self._FREE.size)
        #: In a worker that a reload forks: the process ids of those that it replaces. The master sets it meanwhile.
        self.leaving: tuple[int, ...] = ()

    @property
    def free(self) -> int:
        """Bytes that were free when the first worker began to load; 0 before that."""
        count: int = self._FREE.unpack_from(self._memory)[0]
        return count

    @free.setter
    def free(self, count: int) -> None:
        self._FREE.pack_into(self._memory, 0, count)

    def memory(self, fits: Callable[[int, int], bool], patience: float, stop: Callable[[], bool]) -> int:
        """Return for how many free bytes this worker is to be sized.

        `fits(size, free)` says whether what is sized for `size` free bytes can be had where there are `free`.
        `patience`, in seconds, and `stop` end the wait for others.
        """
        from engine.memory import free_memory  # not above: the master process must not load llama.cpp

        free = free_memory()
        if not self.free:
            self.free = free
            return free
        if fits(self.free, free):
            return self.free
        if self.leaving:
            log.info("there is no room beside the worker that is replaced; loading waits for its end")
            self.wait(patience, stop)
            free = free_memory()
            if fits(self.free, free):
                return self.free
        log.warning(
            "%.2f GB are free, %.2f GB were when the server began: sizes that are not configured are chosen smaller",
            free / 1e9,
            self.free / 1e9,
        )
        return free

    def wait(self, patience: float, stop: Callable[[], bool]) -> None:
        """Wait until those that this worker replaces have ended, but no longer than `patience` seconds."""
        deadline = time.monotonic() + patience
        for worker in self.leaving:
            with suppress(OSError):  # it has ended, or this kernel cannot tell: then there is no wait
                process = os.pidfd_open(worker)
                try:
                    while time.monotonic() < deadline and not stop():
                        if select.select([process], [], [], 0.2)[0]:  # readable when it has ended
                            break
                finally:
                    os.close(process)
