"""Documents to put into stores, whatever kind of store it is. Vectors are random, so models have no part in it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from knowledge.store import Chunk, Document, FileRecord, Recipe, Store
from llama_native.arrays import Floats

DIMENSIONS = 16
RECIPE = Recipe("model", "fingerprint", DIMENSIONS, 200, 20, "", 1)


def vectors(count: int, seed: int = 0) -> Floats:
    """Random vectors of length 1, (count, DIMENSIONS); the same for a seed."""
    drawn = np.random.default_rng(seed).standard_normal((count, DIMENSIONS)).astype(np.float32)
    return np.asarray(drawn / np.linalg.norm(drawn, axis=1, keepdims=True), np.float32)


def document(file: str, texts: Sequence[str], seed: int = 0) -> Document:
    """A file with a chunk for each text."""
    chunks = [Chunk(i, i, i + len(text), max(1, len(text.split())), text) for i, text in enumerate(texts)]
    return Document(FileRecord(file, 10, 20, "digest", "", len(texts)), chunks, vectors(len(texts), seed))


def write(store: Store, *documents: Document) -> None:
    """Put `documents` into `store` in one transaction."""
    with store.writing():
        store.replace(documents)


def found(store: Store, query: str) -> list[tuple[str, int]]:
    """The chunks that `query` finds by its words, best first: (file, number of the chunk)."""
    return [(hit.file, hit.chunk.index) for hit in store.lexical(query, 10)]
