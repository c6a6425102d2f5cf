"""Sizes prefill chunks so that a step takes about as long as asked.

Learns from every step what a decode step of so many sequences takes, and what a prefill token adds to it. Knows
seconds and counts, nothing of requests.
"""

from __future__ import annotations

from typing import Final

#: Weight of the newest measurement in the running means.
NEWEST: Final = 0.2

#: A prefill chunk is never smaller, so that a prompt always gets on; below it the matrix products lose their speed.
SMALLEST_CHUNK: Final = 16

#: Beside its decoding, a step may take this many times the target rather than compute less than a grain.
TOLERANCE: Final = 1.5

#: A step beside which no stream waits may take this many times the target: newcomers and cancels wait for its end.
QUIET: Final = 4


class Pace:
    """A running model of step time: `decode(rows) + tokens * prefill_token` seconds."""

    def __init__(self, target: float, largest_chunk: int, prefill_token: float = 0.0, grain: int = 1) -> None:
        """`target` is the step time to aim for in seconds; `prefill_token` a first guess from calibration, or 0.

        A piece of a prompt with more to come has a multiple of `grain` tokens where the target allows it.
        """
        self.target = target
        self.largest_chunk = largest_chunk
        self.grain = grain
        self._prefill_token = prefill_token
        self._decode: dict[int, float] = {}

    def decode_seconds(self, rows: int) -> float:
        """Expected time of a step that decodes `rows` sequences and prefills nothing. Any thread may ask."""
        if rows == 0 or not self._decode:
            return 0.0
        if rows in self._decode:
            return self._decode[rows]
        nearest = min(list(self._decode), key=lambda known: abs(known - rows))  # it may grow meanwhile
        return self._decode[nearest] * max(1.0, rows / nearest)

    def prefill_seconds(self, tokens: int) -> float:
        """Expected time that so many prompt tokens take. Any thread may ask."""
        return tokens * self._prefill_token

    def chunk(self, rows: int) -> int:
        """How many prefill tokens fit into a step beside `rows` decoding sequences.

        With nothing to decode no stream waits, so that the chunk may take longer.
        """
        if not self._prefill_token:
            return 2 * SMALLEST_CHUNK
        target = self.target if rows else QUIET * self.target
        fits = int((target - self.decode_seconds(rows)) / self._prefill_token)
        if self.grain * self._prefill_token <= TOLERANCE * target:
            fits = max(fits, self.grain)
        return max(SMALLEST_CHUNK, min(self.largest_chunk, fits))

    @property
    def _stretch(self) -> float:
        """Most prompt tokens of a step that is allowed to take longer than the target."""
        return TOLERANCE * self.target / self._prefill_token if self._prefill_token else 0.0

    def piece(self, remaining: int, budget: int, first: bool) -> int:
        """How many of a prompt's `remaining` tokens to compute in a step that has room for `budget` more.

        The rest of a prompt goes whole. The `first` prompt of a step always gets on, be it by less than a grain; its
        rest may stretch the step, as another one would cost more.
        """
        if remaining <= budget or (first and remaining <= min(self.grain, self._stretch)):
            return remaining
        return budget - budget % self.grain or (budget if first else 0)

    def observe(self, rows: int, prefill_tokens: int, seconds: float) -> None:
        """Learn from a step that took `seconds`."""
        if prefill_tokens == 0:
            known = self._decode.get(rows)
            self._decode[rows] = seconds if known is None else known + NEWEST * (seconds - known)
        elif prefill_tokens >= SMALLEST_CHUNK:
            per_token = max(0.0, seconds - self.decode_seconds(rows)) / prefill_tokens
            known_token = self._prefill_token
            self._prefill_token = known_token + NEWEST * (per_token - known_token) if known_token else per_token
