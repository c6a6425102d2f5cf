"""Counts the KV cells in use, exactly.

A model of llama.cpp's cell table in the unified layout: a cell holds one position's keys and values and may belong to
several sequences; it is free again when the last of them lets go. Knows numbers only, and lets the scheduler tell
whether a request fits before it is admitted. With one stream per sequence nothing is shared and the count is the sum
of the sequences' lengths; the same code serves both.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


class Cells:
    """Which of `total` cells each of `sequences` sequences holds, at most `context` positions each."""

    def __init__(self, total: int, sequences: int, context: int) -> None:
        self.total = total
        self._owners = np.zeros(total, dtype=np.int32)
        self._held = np.zeros((sequences, context), dtype=np.int32)
        self._lengths = [0] * sequences
        self._free = np.arange(total - 1, -1, -1, dtype=np.int32)
        self._n_free = total
        # The same memory for one cell at a time: numpy's code is out of the processor's caches after a step.
        self._one_owner = self._owners.data
        self._one_held = [row.data for row in self._held]
        self._one_free = self._free.data

    @property
    def free(self) -> int:
        """Cells that belong to no sequence."""
        return self._n_free

    @property
    def used(self) -> int:
        """Cells that belong to at least one sequence."""
        return self.total - self._n_free

    def exclusive(self, sequence: int, start: int = 0) -> int:
        """Cells that would come free if `sequence` were cut at position `start`."""
        held = self._held[sequence, start : self._lengths[sequence]]
        return int(np.count_nonzero(self._owners[held] == 1))

    def extend(self, sequence: int, count: int) -> None:
        """Give `count` new cells to `sequence`. The caller has made sure that they are free."""
        assert count <= self._n_free, f"{count} cells wanted, {self._n_free} free"
        length = self._lengths[sequence]
        new = self._free[self._n_free - count : self._n_free]
        self._held[sequence, length : length + count] = new
        self._owners[new] = 1
        self._n_free -= count
        self._lengths[sequence] = length + count

    def append(self, sequence: int) -> None:
        """Give one new cell to `sequence`, which is `extend` by one, at each token of an answer."""
        assert self._n_free > 0, "a cell wanted, none free"
        length = self._lengths[sequence]
        self._n_free -= 1
        cell = self._one_free[self._n_free]
        self._one_held[sequence][length] = cell
        self._one_owner[cell] = 1
        self._lengths[sequence] = length + 1

    def share(self, source: int, target: int, count: int) -> None:
        """Let `target`, which must be empty, hold the first `count` cells of `source` too."""
        assert self._lengths[target] == 0 and count <= self._lengths[source]
        held = self._held[source, :count]
        self._held[target, :count] = held
        self._owners[held] += 1
        self._lengths[target] = count

    def cut(self, sequence: int, length: int) -> None:
        """Let `sequence` keep its first `length` cells only."""
        dropped = self._held[sequence, length : self._lengths[sequence]]
        self._owners[dropped] -= 1
        freed = dropped[self._owners[dropped] == 0]
        self._free[self._n_free : self._n_free + freed.size] = freed
        self._n_free += int(freed.size)
        self._lengths[sequence] = length

    def owned(self, sequence: int) -> npt.NDArray[np.int32]:
        """The cells of `sequence` in order of position (a view)."""
        return self._held[sequence, : self._lengths[sequence]]
