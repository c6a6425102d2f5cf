"""Vectors in memory, grouped by file, and exact search over them.

One copy of all vectors lies in blocks, so that it grows without copying and memory stays near the vectors' own size.
Searching is a matrix product with each block. Knows numbers only; not thread-safe, its owner locks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llama_native.arrays import Floats

_BLOCK_BYTES = 1 << 24


@dataclass(frozen=True, slots=True)
class Match:
    """A vector that was found: number `index` of file `file_id`, with its cosine similarity."""

    file_id: int
    index: int
    score: float


class Vectors:
    """All vectors of a store, each of length 1 with `dimensions` numbers."""

    def __init__(self, dimensions: int) -> None:
        self.dimensions = dimensions
        self._rows_per_block = max(256, _BLOCK_BYTES // (4 * dimensions))
        self._blocks: list[Floats] = []
        self._file_ids = np.empty(0, np.int64)  # of each row, -1 for removed ones
        self._indices = np.empty(0, np.int32)
        self._n_rows = 0
        self._n_removed = 0
        self.file_ids: set[int] = set()
        """The files whose vectors are here."""

    def __len__(self) -> int:
        return self._n_rows - self._n_removed

    def add(self, file_id: int, vectors: Floats) -> None:
        """Takes the vectors (n, dimensions) of a file that is not here yet."""
        self.file_ids.add(file_id)
        n, first = len(vectors), self._n_rows
        self._reserve(first + n)
        self._file_ids[first : first + n] = file_id
        self._indices[first : first + n] = np.arange(n)
        done = 0
        while done < n:
            block, row = divmod(first + done, self._rows_per_block)
            size = min(n - done, self._rows_per_block - row)
            self._blocks[block][row : row + size] = vectors[done : done + size]
            done += size
        self._n_rows += n

    def remove(self, file_ids: set[int]) -> None:
        """Forgets the vectors of these files."""
        self.file_ids -= file_ids
        gone = np.isin(self._file_ids[: self._n_rows], list(file_ids))
        self._file_ids[: self._n_rows][gone] = -1
        self._n_removed += int(np.count_nonzero(gone))
        if self._n_removed > max(1024, self._n_rows // 8):
            self._close_gaps()

    def search(self, vector: Floats, limit: int) -> list[Match]:
        """Returns up to `limit` vectors with the largest dot product with `vector` (dimensions,), best first."""
        n, limit = self._n_rows, min(limit, len(self))
        if limit < 1:
            return []
        scores = np.empty(n, np.float32)
        for number, block in enumerate(self._blocks):
            start = number * self._rows_per_block
            if start < n:
                part = scores[start : start + self._rows_per_block]
                np.matmul(block[: len(part)], vector, out=part)
        if self._n_removed:
            scores[self._file_ids[:n] < 0] = -np.inf
        best = np.argpartition(scores, n - limit)[n - limit :]
        best = best[np.argsort(-scores[best], kind="stable")]
        return [Match(int(self._file_ids[i]), int(self._indices[i]), float(scores[i])) for i in best]

    def _reserve(self, n: int) -> None:
        while len(self._blocks) * self._rows_per_block < n:
            self._blocks.append(np.empty((self._rows_per_block, self.dimensions), np.float32))
        if n > len(self._file_ids):
            capacity = max(n, len(self._file_ids) * 3 // 2)
            self._file_ids = _grown(self._file_ids, capacity)
            self._indices = _grown(self._indices, capacity)

    def _close_gaps(self) -> None:
        """Moves the rows that are left together, within the memory that they have."""
        kept = np.flatnonzero(self._file_ids[: self._n_rows] >= 0)
        for target, source in enumerate(kept.tolist()):
            if target != source:
                self._row(target)[:] = self._row(source)
        self._file_ids[: len(kept)] = self._file_ids[kept]
        self._indices[: len(kept)] = self._indices[kept]
        self._n_rows, self._n_removed = len(kept), 0
        del self._blocks[-(-len(kept) // self._rows_per_block) :]

    def _row(self, number: int) -> Floats:
        block, row = divmod(number, self._rows_per_block)
        vector: Floats = self._blocks[block][row]
        return vector


def _grown(array: NDArray[Any], capacity: int) -> NDArray[Any]:
    larger = np.empty(capacity, array.dtype)
    larger[: len(array)] = array
    return larger
