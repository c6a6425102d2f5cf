"""Token masks: which tokens a sampler may choose from.

A mask is a uint32 array of shape (mask_words(n_vocab),): bit t % 32 of word t // 32 is set if token t is allowed. That
is the layout of llguidance and of most engines. Whoever makes masks owns their memory; here they are only read.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from llama_native.ffi import NULL, ffi

Mask = NDArray[np.uint32]


def mask_words(n_vocab: int) -> int:
    """Returns how many words a mask over `n_vocab` tokens has."""
    return -(-n_vocab // 32)


def mask_pointer(mask: Mask | None, n_vocab: int) -> Any:
    """Returns the C pointer to a mask, NULL for None. Raises `ValueError` if its type, shape or layout is wrong."""
    if mask is None:
        return NULL
    if mask.dtype != np.uint32 or mask.shape != (mask_words(n_vocab),) or not mask.flags.c_contiguous:
        raise ValueError(f"a mask must be a contiguous uint32 array of shape ({mask_words(n_vocab)},)")
    return ffi.from_buffer("uint32_t[]", mask)
