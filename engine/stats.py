"""What the engine counts about itself.

Knows numbers; metrics and the page read them. Counters only grow; gauges say how it is now.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Counters:
    """Totals since the engine started; written by the engine thread only."""

    steps: int = 0
    """Calls of llama_decode."""
    busy_seconds: float = 0.0
    """Time spent in steps, from planning to handing out tokens."""
    decode_seconds: float = 0.0
    """Of that, inside llama_decode."""
    sampling_seconds: float = 0.0
    """Of that, in sampling."""
    prefill_tokens: int = 0
    """Prompt tokens computed."""
    cached_tokens: int = 0
    """Prompt tokens found in the KV cache."""
    generated_tokens: int = 0
    finished: int = 0
    """Requests that ended with a finish_reason."""
    cancelled: int = 0
    failed: int = 0
    """Requests ended by an error after they were accepted."""
    rejected: int = 0
    """Requests refused at submission because the queue was full."""


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
    evictions: int
    counters: Counters
