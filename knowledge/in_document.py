"""What a chunk is found by: what it says, and in part what its document begins with.

A chunk out of the middle of a document often does not say what it is about; the document's first chunks do. So a
chunk's vector is moved some way towards theirs. A search's dot product with it is then the weighted mean of the
question's similarity to the chunk and to the beginning of the document: chunks of one document keep their order, and
documents that are about the question come first. Costs no embedding. Knows numbers only.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from llama_native.arrays import Floats

#: How many chunks are a document's beginning.
BEGINNING: Final = 3


def in_document(vectors: Floats, weight: float) -> Floats:
    """Returns the vectors (n, dimensions) of a document's chunks, moved towards its beginning by `weight`, 0 to 1.

    Those of length 1 come out shorter, each by as much as it differs from the beginning; a document of one chunk keeps
    its own. 0 changes nothing.
    """
    if len(vectors) < 2 or not weight:
        return vectors
    beginning: Floats = vectors[:BEGINNING].mean(axis=0, dtype=np.float32)
    moved: Floats = np.float32(1 - weight) * vectors + np.float32(weight) * beginning
    return moved
