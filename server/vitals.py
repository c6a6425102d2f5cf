"""What the master process may know of the life of a worker, in memory that both share: it outlives the worker.

A worker that a signal ends (an abort in libllama, the kernel for want of memory) can tell nobody any more. So it notes
beforehand what matters then. Knows shared memory; decides nothing.
"""

from __future__ import annotations

import mmap
import struct
from enum import IntEnum


class Ending(IntEnum):
    """How a worker ended. `CRASH`: it said nothing, so it was a signal or an error below us."""

    CRASH = 0
    STOPPED = 1
    ENGINE_FAILED = 2
    ENGINE_STUCK = 3

    @property
    def label(self) -> str:
        """As the metrics say it."""
        return self.name.lower()


class Vitals:
    """The notes of one worker. Make it before the fork."""

    _READY = struct.Struct("d")
    _ANSWERED = _READY.size
    _ENDING = _ANSWERED + 1

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, self._ENDING + 1)

    @property
    def ready_at(self) -> float:
        """When it could first answer, as a time of `time.monotonic`; 0 if it never could."""
        moment: float = self._READY.unpack_from(self._memory)[0]
        return moment

    @ready_at.setter
    def ready_at(self, moment: float) -> None:
        self._READY.pack_into(self._memory, 0, moment)

    @property
    def answered(self) -> bool:
        """Whether it has completed an answer, or a batch of embeddings."""
        return bool(self._memory[self._ANSWERED])

    @answered.setter
    def answered(self, value: bool) -> None:
        self._memory[self._ANSWERED] = value

    @property
    def ending(self) -> Ending:
        """How it ended, or is about to."""
        return Ending(self._memory[self._ENDING])

    @ending.setter
    def ending(self, value: Ending) -> None:
        self._memory[self._ENDING] = value
