"""A batch: tokens with their positions and sequences, as parallel arrays that C and numpy share.

Filling it runs no Python loop per token. It checks its own bounds; whether the content makes sense for a context is
checked when the context decodes it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from llama_native.arrays import TokenLike, Tokens, token_array
from llama_native.ffi import ffi

_MAX_TOKENS = 1 << 24


class Batch:
    """Room for `n_tokens` tokens, each in up to `n_seq_max` sequences.

    The arrays can be written directly; entry i of each belongs to token i. Then set `n_tokens`.

    :ivar token: int32 (capacity,), token ids.
    :ivar pos: int32 (capacity,), positions in their sequences.
    :ivar n_seq_id: int32 (capacity,), how many sequences the token belongs to.
    :ivar seq_id: int32 (capacity, n_seq_max), which ones.
    :ivar output: int8 (capacity,), whether logits or embeddings are wanted for the token.
    :raises ValueError: a size is out of range.
    """

    def __init__(self, n_tokens: int, n_seq_max: int = 1) -> None:
        if not 1 <= n_tokens <= _MAX_TOKENS or not 1 <= n_seq_max <= 256:
            raise ValueError(f"a batch of {n_tokens} tokens in {n_seq_max} sequences is out of range")
        self.capacity = n_tokens
        self.n_seq_max = n_seq_max
        arrays = [
            ffi.new("llama_token[]", n_tokens),
            ffi.new("llama_pos[]", n_tokens),
            ffi.new("int32_t[]", n_tokens),
            ffi.new("llama_seq_id[]", n_tokens * n_seq_max),
            ffi.new("int8_t[]", n_tokens),
        ]
        flat = arrays[3]
        rows = ffi.new("llama_seq_id *[]", [flat + i * n_seq_max for i in range(n_tokens)])
        self.token: Tokens = np.frombuffer(ffi.buffer(arrays[0]), np.int32)
        self.pos: Tokens = np.frombuffer(ffi.buffer(arrays[1]), np.int32)
        self.n_seq_id: Tokens = np.frombuffer(ffi.buffer(arrays[2]), np.int32)
        self.seq_id: Tokens = np.frombuffer(ffi.buffer(flat), np.int32).reshape(n_tokens, n_seq_max)
        self.output: NDArray[np.int8] = np.frombuffer(ffi.buffer(arrays[4]), np.int8)
        self.n_seq_id[:] = 1
        self._keep = (arrays, rows)
        self._c = ffi.new("llama_batch *")
        self._c.token, self._c.pos, self._c.n_seq_id, _, self._c.logits = arrays
        self._c.seq_id = rows

    def __len__(self) -> int:
        return self.n_tokens

    def __repr__(self) -> str:
        return f"<Batch of {self.n_tokens} tokens, capacity {self.capacity}>"

    @property
    def n_tokens(self) -> int:
        """How many tokens are in the batch."""
        return int(self._c.n_tokens)

    @n_tokens.setter
    def n_tokens(self, value: int) -> None:
        if not 0 <= value <= self.capacity:
            raise ValueError(f"{value} tokens do not fit a batch with room for {self.capacity}")
        self._c.n_tokens = value

    def clear(self) -> None:
        """Empties the batch. The arrays keep their content."""
        self._c.n_tokens = 0

    def add(self, token: int, pos: int, seq: int | Sequence[int], output: bool = False) -> int:
        """Appends one token and returns its index (a row for `logits` and `step`). `seq` may be several sequences.

        Raises `ValueError` when the batch is full or there are too many sequences.
        """
        i = self._c.n_tokens
        if i >= self.capacity:
            raise ValueError(f"the batch is full ({self.capacity} tokens)")
        c = self._c  # faster than numpy for single numbers
        c.token[i] = token
        c.pos[i] = pos
        c.logits[i] = output
        if isinstance(seq, int):
            c.n_seq_id[i] = 1
            c.seq_id[i][0] = seq
        else:
            if not 1 <= len(seq) <= self.n_seq_max:
                raise ValueError(f"{len(seq)} sequences for one token; this batch takes 1 to {self.n_seq_max}")
            self.n_seq_id[i] = len(seq)
            self.seq_id[i, : len(seq)] = seq
        self._c.n_tokens = i + 1
        return int(i)

    def extend(
        self, tokens: TokenLike, pos0: int, seq: int, output_last: bool = False, output_all: bool = False
    ) -> int:
        """Appends tokens of one sequence at the positions pos0, pos0 + 1, ...; returns the index of the last one.

        `output_last` and `output_all` say which of them get logits.

        Raises `ValueError` when there are none, they do not fit or are no token ids; then nothing was added.
        """
        array, start = token_array(tokens), self._c.n_tokens
        n = len(array)
        end = start + n
        if n == 0 or end > self.capacity:
            raise ValueError(f"{n} tokens do not fit a batch with {start} of {self.capacity} taken")
        self.token[start:end] = array
        self.pos[start:end] = np.arange(pos0, pos0 + n, dtype=np.int32)
        self.n_seq_id[start:end] = 1
        self.seq_id[start:end, 0] = seq
        self.output[start:end] = output_all
        self.output[end - 1] = output_last or output_all
        self._c.n_tokens = end
        return int(end - 1)
