"""Vectors in memory, grouped by file, and exact search over them.

One copy of all vectors lies in one matrix, so that a search is a single matrix product; in pieces, the threads that
compute it would have to meet after each. Knows numbers only; not thread-safe, its owner locks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from llama_native.arrays import Floats


@dataclass(frozen=True, slots=True)
class Match:
    """A vector that was found: number `index` of file `file_id`, with its dot product with what was searched for."""

    file_id: int
    index: int
    score: float


class Vectors:
    """All vectors of a store, each with `dimensions` numbers."""

    def __init__(self, dimensions: int) -> None:
        self.dimensions = dimensions
        self._matrix = np.empty((0, dimensions), np.float32)
        self._file_ids = np.empty(0, np.int64)  # of each row, -1 for removed ones
        self._indices = np.empty(0, np.int32)
        self._n_rows = 0
        self._n_removed = 0
        self.file_ids: set[int] = set()
        """The files whose vectors are here."""

    def __len__(self) -> int:
        return self._n_rows - self._n_removed

    def reserve(self, n: int) -> None:
        """Makes room for `n` more vectors; the system moves the memory, if it has to, without copying it."""
        rows = self._n_rows + n
        if rows > len(self._matrix):
            # No one else holds a view of these arrays.
            self._matrix.resize((rows, self.dimensions), refcheck=False)
            self._file_ids.resize(rows, refcheck=False)
            self._indices.resize(rows, refcheck=False)

    def add(self, file_id: int, vectors: Floats) -> None:
        """Takes the vectors (n, dimensions) of a file that is not here yet."""
        first, last = self._n_rows, self._n_rows + len(vectors)
        if last > len(self._matrix):
            self.reserve(max(len(vectors), self._n_rows // 16))
        self._matrix[first:last] = vectors
        self._file_ids[first:last] = file_id
        self._indices[first:last] = np.arange(len(vectors))
        self._n_rows = last
        self.file_ids.add(file_id)  # last, so that a file for which there was no memory is tried again

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
        scores = self._matrix[:n] @ vector
        if self._n_removed:
            scores[self._file_ids[:n] < 0] = -np.inf
        best = np.argpartition(scores, n - limit)[n - limit :]
        best = best[np.argsort(-scores[best], kind="stable")]
        return [Match(int(self._file_ids[i]), int(self._indices[i]), float(scores[i])) for i in best]

    def compare(self, vector: Floats, wanted: set[tuple[int, int]]) -> list[Match]:
        """Returns the vectors (file, index) that are here with their dot product with `vector` (dimensions,)."""
        files = self._file_ids[: self._n_rows]
        rows = np.flatnonzero(np.isin(files, [file_id for file_id, _ in wanted]))
        keys = files[rows] << 32 | self._indices[rows]
        rows = rows[np.isin(keys, [file_id << 32 | index for file_id, index in wanted])]
        scores = self._matrix[rows] @ vector
        return [Match(int(files[i]), int(self._indices[i]), float(s)) for i, s in zip(rows, scores, strict=True)]

    def _close_gaps(self) -> None:
        """Moves the rows that are left together, within the memory that they have."""
        kept = np.flatnonzero(self._file_ids[: self._n_rows] >= 0)
        for target, source in enumerate(kept.tolist()):
            if target != source:
                self._matrix[target] = self._matrix[source]
        self._file_ids[: len(kept)] = self._file_ids[kept]
        self._indices[: len(kept)] = self._indices[kept]
        self._n_rows, self._n_removed = len(kept), 0
