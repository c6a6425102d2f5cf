"""What the calls of a context give back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class StepResult(NamedTuple):
    """What `Context.step` did.

    :ivar tokens: one token per row; -1 for a row that could not be sampled.
    :ivar decode_seconds: duration of the decode.
    :ivar sampling_seconds: duration of the sampling, all rows together.
    :ivar failures: why a row could not be sampled, by its place in `rows`; normally empty.
    """

    tokens: list[int]
    decode_seconds: float
    sampling_seconds: float
    failures: dict[int, str]


@dataclass(frozen=True)
class Performance:
    """llama.cpp's own timings since the context was created or `reset_performance()` was called."""

    load_seconds: float
    prompt_seconds: float
    eval_seconds: float
    n_prompt_tokens: int
    n_eval_tokens: int
    n_graphs_reused: int
