"""Embeddings of many inputs: packs several into each decode, one sequence each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from llama_native.arrays import Floats, TokenLike
from llama_native.batch import Batch
from llama_native.context import Context
from llama_native.enums import Pooling
from llama_native.errors import ContextError, InvalidBatch


def embed(context: Context, inputs: Sequence[TokenLike], normalize: bool = True) -> Floats:
    """Returns one vector for each input, float32 (len(inputs), n_embd_out).

    The context must pool (`ContextParams(embeddings=True)` with a pooling model, or an explicit `pooling`). Up to
    `n_seq_max` inputs go into one decode, as far as their tokens fit. The context's memory is cleared.

    :param inputs: token arrays, special tokens included.
    :param normalize: scale the vectors to length 1.
    :raises InvalidBatch: an input is empty or longer than the context takes at once.
    :raises ContextError: the context does not pool embeddings.
    :raises DecodeError: as `Context.decode` does.
    """
    if not context.params.embeddings or context.pooling in (Pooling.NONE, Pooling.RANK):
        raise ContextError("this context does not pool embeddings: create it with embeddings=True and a pooling")
    limit = min(context.max_batch, context.n_ctx_seq)
    for i, tokens in enumerate(inputs):
        if not 1 <= len(tokens) <= limit:
            raise InvalidBatch(f"input {i} has {len(tokens)} tokens, allowed are 1 to {limit}", -1)

    result = np.empty((len(inputs), context.n_embd_out), np.float32)
    batch = Batch(context.max_batch)
    first = 0
    while first < len(inputs):
        batch.clear()
        end = first
        while end < len(inputs) and end - first < context.n_seq_max and len(batch) + len(inputs[end]) <= batch.capacity:
            start = len(batch)
            batch.extend(inputs[end], 0, end - first)
            batch.output[start : len(batch)] = 1
            end += 1
        if context.memory.exists:
            context.memory.clear(data=False)
        context.decode(batch)
        for i in range(first, end):
            result[i] = context.embeddings_seq(i - first)
        first = end
    if normalize:
        result /= np.maximum(np.linalg.norm(result, axis=1, keepdims=True), 1e-12)
    return result
