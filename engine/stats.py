"""What the engine counts about itself.

Knows numbers; metrics and the page read them. Counters only grow; gauges say how it is now.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field

from engine.timings import clock


class Tally:
    """How often values fell into buckets: the engine's own histogram, cheap enough for every step.

    `bounds` are the buckets' upper limits, inclusive; `counts` has one entry more, for what is larger than all.
    """

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        #: Sum of all values.
        self.total = 0.0

    def add(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


#: Seconds, from a step of a tiny model to a long prompt on a slow host.
STEP_SECONDS = (
    0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5,
    1.0, 2.5, 5.0, 10.0, 25.0, 60.0, 120.0, 300.0,
)  # fmt: skip

#: Tokens in one part of a batch.
BATCH_TOKENS = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


@dataclass(slots=True)
class Counters:
    """Totals since the engine started; written by the engine thread only."""

    steps: int = 0
    """Calls of llama_decode."""
    busy: tuple[float, float | None] = (0.0, None)
    """`busy_seconds`, and when the step under way began; one tuple, so that readers see two that fit together."""
    decode_seconds: float = 0.0
    """Of that, inside llama_decode."""
    sampling_seconds: float = 0.0
    """Of that, in sampling."""
    prefill_tokens: int = 0
    """Prompt tokens computed."""
    cached_tokens: int = 0
    """Prompt tokens found in the KV cache instead."""
    generated_tokens: int = 0
    """Answer tokens made, those included that nobody took."""
    finished: int = 0
    """Requests that ended with a finish_reason."""
    cancelled: int = 0
    failed: int = 0
    """Requests ended by an error after they were accepted."""
    rejected: int = 0
    """Requests refused at submission because the queue was full."""
    step_seconds: Tally = field(default_factory=lambda: Tally(STEP_SECONDS))
    """Duration of steps."""
    decode_rows: Tally = field(default_factory=lambda: Tally(BATCH_TOKENS))
    """Sequences that got their next token, per step."""
    prefill_rows: Tally = field(default_factory=lambda: Tally(BATCH_TOKENS))
    """Prompt tokens computed, per step."""

    @property
    def busy_seconds(self) -> float:
        """Time spent in steps that are over, from planning to handing out tokens."""
        return self.busy[0]

    def busy_until(self, now: float) -> float:
        """Return `busy_seconds` with the part of the step under way that lies before `now`, a time of `clock`."""
        seconds, began = self.busy
        return seconds if began is None else seconds + max(0.0, now - began)

    def begin_step(self) -> None:
        """The engine is busy from now on."""
        self.busy = (self.busy_seconds, clock())

    def end_step(self) -> None:
        """The step under way, if there is one, is over."""
        self.busy = (self.busy_until(clock()), None)

    def add_step(
        self, decoded: int, prefilled: int, seconds: float, decode_seconds: float, sampling_seconds: float
    ) -> None:
        """Count a step of `decoded` sequences' next tokens and `prefilled` prompt tokens that took `seconds`."""
        self.steps += 1
        self.prefill_tokens += prefilled
        self.decode_seconds += decode_seconds
        self.sampling_seconds += sampling_seconds
        self.step_seconds.add(seconds)
        self.decode_rows.add(decoded)
        self.prefill_rows.add(prefilled)


@dataclass(frozen=True, slots=True)
class EngineStats:
    """One consistent-enough snapshot for metrics and the page."""

    running: int
    waiting: int
    oldest_wait: float
    """Seconds the first waiting request has waited; 0 when none waits."""
    sequences: int
    sequences_cached: int
    """Idle sequences that hold a reusable prefix."""
    kv_cells: int
    kv_cells_used: int
    kv_cells_busy: int
    """Of those, held by running requests."""
    evictions: int
    """How often a sequence lost cached tokens to another prompt."""
    evicted_tokens: int
    """Those tokens."""
    counters: Counters
