"""Measures how fast one candidate configuration prefills and decodes on this host.

Knows contexts and seconds; knows nothing of which configuration is better (`engine.calibration`) or of requests.
"""

from __future__ import annotations

import math
from statistics import fmean
from typing import Final

import numpy as np

from engine.timings import clock
from llama_native import Batch, Context

#: The prompt grows by these many tokens, and everything is timed behind each, at depths of 88 and 280 tokens: llama.cpp
#: attends over cells in steps of 256, and flash attention skips those that are empty, so one depth would mislead.
PIECES: Final = (64, 192)

#: Untimed tokens before them.
LEAD: Final = 24

#: Cells per sequence that a probe needs, with room for the largest chunk that is timed behind the prompt.
CELLS: Final = 1024


class Probe:
    """Fills the sequences of a context with a prompt of its own and times steps on it."""

    def __init__(self, context: Context, flash_attention: bool, unified: bool, chunk_size: int = LEAD) -> None:
        """`chunk_size` is that of the prefill chunks that are timed again and again."""
        self.context = context
        self.flash_attention = flash_attention
        self.unified = unified
        self.chunk_size = chunk_size
        #: By depth, the best times so far in seconds: a decode step of one and of all sequences, a prompt token.
        self.best: dict[int, tuple[float, float, float]] = {}
        self._batch = Batch(context.n_batch)
        self._tokens = np.random.default_rng(0).integers(0, context.n_vocab, context.n_batch, dtype=np.int32)
        self._depth = 0

    def lead(self) -> float:
        """First, untimed work, so that pages and threads are in place; then the seconds of `LEAD` prompt tokens."""
        self.prefill(LEAD)
        self.context.memory.clear(data=False)
        self._depth = 0
        return self.prefill(LEAD)

    def spread(self) -> None:
        """Let every sequence hold the prompt of sequence 0, in cells of its own."""
        state = self.context.sequence_state(0)
        for sequence in range(1, self.context.n_seq_max):
            self.context.restore_sequence(sequence, state)

    def measure(self) -> None:
        """Time a few steps of each kind at this depth; the best count, as disturbances only add time."""
        one, together, token = self.best.get(self._depth, (math.inf, math.inf, math.inf))
        self.best[self._depth] = (
            min(one, *(self.step(1) for _ in range(4))),
            min(together, *(self.step(self.context.n_seq_max) for _ in range(2))),
            min(token, self.chunk(self.chunk_size) / self.chunk_size),
        )

    @property
    def decode_one(self) -> float:
        """Seconds of a decode step of one sequence, the mean over the depths."""
        return fmean(one for one, _, _ in self.best.values())

    @property
    def decode_all(self) -> float:
        """Seconds of a decode step of all sequences, the mean over the depths."""
        return fmean(together for _, together, _ in self.best.values())

    @property
    def prefill_token(self) -> float:
        """Seconds per prompt token, the mean over the depths."""
        return fmean(token for _, _, token in self.best.values())

    def step(self, rows: int) -> float:
        """Seconds of one decode step of the sequences 0 to `rows` - 1 at the prompt's depth."""
        self._batch.clear()
        for sequence in range(rows):
            self._batch.add(int(self._tokens[sequence]), self._depth, sequence, output=True)
        begin = clock()
        self.context.step(self._batch, range(rows), [None] * rows)
        seconds = clock() - begin
        for sequence in range(rows):
            self.context.memory.remove(sequence, self._depth, -1)
        return seconds

    def chunk(self, size: int) -> float:
        """Seconds of a prefill chunk of `size` tokens behind the prompt of sequence 0, which is dropped again."""
        depth = self._depth
        seconds = self.prefill(size)
        self.context.memory.remove(0, depth, -1)
        self._depth = depth
        return seconds

    def prefill(self, size: int) -> float:
        """Compute `size` more tokens of the prompt in sequence 0; returns the seconds."""
        self._batch.clear()
        self._batch.extend(self._tokens[:size], self._depth, 0, output_last=True)
        begin = clock()
        self.context.step(self._batch, (size - 1,), (None,))
        seconds = clock() - begin
        self._depth += size
        return seconds
