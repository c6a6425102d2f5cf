"""The array types of the interface, and how token ids given by callers become one of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Tokens = NDArray[np.int32]
TokenLike = Sequence[int] | NDArray[np.integer[Any]]


def token_array(tokens: TokenLike) -> Tokens:
    """Returns `tokens` as a flat int32 array, the same one where possible.

    Raises `ValueError` if they are not whole numbers in a flat sequence, or do not fit 32 bits.
    """
    array = np.asarray(tokens)
    if array.size == 0:
        return np.empty(0, np.int32)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise ValueError(f"tokens must be a flat sequence of whole numbers, not {array.ndim}-d {array.dtype}")
    if array.dtype != np.int32 and not -(2**31) <= int(array.min()) <= int(array.max()) < 2**31:
        raise ValueError("a token id does not fit 32 bits")
    return np.ascontiguousarray(array, np.int32)
