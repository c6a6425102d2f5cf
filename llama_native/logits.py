"""Arithmetic on a row of logits that is too slow in Python and too small for anything else. O(n_vocab), in C."""

from __future__ import annotations

import numpy as np

from llama_native.arrays import Floats, Tokens
from llama_native.errors import SamplingError, failure_reason
from llama_native.ffi import C, ffi

_NOT_FINITE = "the logits are not finite"


def argmax(logits: Floats) -> int:
    """Returns the index of the largest of `logits` (n,), the first of equals.

    Raises `SamplingError` if one is NaN or +inf, or all are -inf.
    """
    array = _row(logits)
    token = int(C.lucid_argmax(ffi.from_buffer("float[]", array), array.size))
    if token < 0:
        raise SamplingError(_NOT_FINITE)
    return token


def top_logprobs(logits: Floats, token: int, k: int) -> tuple[float, Tokens, Floats]:
    """Returns the natural log probability of `token`, and the k likeliest tokens with theirs, best first.

    :param logits: float32 (n,).
    :returns: (logprob, ids int32 (k,), logprobs float32 (k,)), over the softmax of all logits.
    :raises SamplingError: a logit is NaN or +inf, or all are -inf.
    :raises ValueError: `token` or `k` is out of range.
    """
    array = _row(logits)
    if not 0 <= token < array.size or not 0 <= k <= array.size:
        raise ValueError(f"token {token} or k {k} is out of range for {array.size} logits")
    ids, logprobs = np.empty(k, np.int32), np.empty(k, np.float32)
    logprob = float(
        C.lucid_top_logprobs(
            ffi.from_buffer("float[]", array),
            array.size,
            token,
            k,
            ffi.from_buffer("int32_t[]", ids),
            ffi.from_buffer("float[]", logprobs),
        )
    )
    if np.isnan(logprob):
        raise SamplingError(failure_reason(_NOT_FINITE))
    return logprob, ids, logprobs


def _row(logits: Floats) -> Floats:
    array = np.ascontiguousarray(logits, np.float32)
    if array.ndim != 1 or not array.size:
        raise ValueError("logits must be a flat array that is not empty")
    return array
