"""Measures how fast one candidate configuration prefills and decodes on this host.

Knows contexts and seconds; knows nothing of which configuration is better (`engine.calibration`) or of requests.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from engine.timings import clock
from llama_native import Batch, Context

#: Prefill is timed in pieces of growing size, so that one prefill tells the speed of every chunk size.
PIECES: Final = (32, 64, 128, 256)

#: Decode steps timed per batch size; the fastest counts, as only disturbances make a step slower.
STEPS: Final = 5


class Probe:
    """Fills the sequences of a context with a prompt of its own and times steps on it."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._batch = Batch(context.n_batch)
        self._tokens = np.random.default_rng(0).integers(0, context.n_vocab, sum(PIECES) + 64, dtype=np.int32)
        self._depth = 0

    def warm_up(self) -> float:
        """First, untimed work, so that pages and threads are in place; returns the seconds of 16 prompt tokens."""
        self._prefill(16)
        seconds = self._prefill(16)
        self._context.memory.clear(data=False)
        self._depth = 0
        return seconds

    def prefill(self, budget: float) -> dict[int, float]:
        """Compute a prompt in sequence 0, piece by piece, within about `budget` seconds; seconds per token by size."""
        per_token = self.warm_up() / 16
        result: dict[int, float] = {}
        for size in PIECES:
            if result and size * per_token > budget:
                break
            seconds = self._prefill(size)
            budget -= seconds
            per_token = result[size] = seconds / size
        return result

    def spread(self) -> None:
        """Let every sequence hold the prompt of sequence 0, in cells of its own."""
        state = self._context.sequence_state(0)
        for sequence in range(1, self._context.n_seq_max):
            self._context.restore_sequence(sequence, state)

    def decode(self, rows: int, steps: int = STEPS) -> float:
        """Seconds of a decode step of the sequences 0 to `rows` - 1; the best of `steps`, after one untimed."""
        times = []
        for _ in range(steps + 1):
            self._batch.clear()
            for sequence in range(rows):
                self._batch.add(int(self._tokens[sequence]), self._depth, sequence, output=True)
            begin = clock()
            self._context.step(self._batch, range(rows), [None] * rows)
            times.append(clock() - begin)
            for sequence in range(rows):
                self._context.memory.remove(sequence, self._depth, -1)
        return min(times[1:])

    def chunk(self, size: int, repeats: int = 2) -> float:
        """Seconds of a prefill chunk of `size` tokens on top of the prompt in sequence 0; the best of `repeats`."""
        times = []
        for _ in range(repeats):
            depth = self._depth
            times.append(self._prefill(size))
            self._context.memory.remove(0, depth, -1)
            self._depth = depth
        return min(times)

    def _prefill(self, size: int) -> float:
        self._batch.clear()
        self._batch.extend(self._tokens[:size], self._depth, 0, output_last=True)
        begin = clock()
        self._context.step(self._batch, (size - 1,), (None,))
        seconds = clock() - begin
        self._depth += size
        return seconds
