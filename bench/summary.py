"""Figures of one load: throughput, TTFT, inter-token latency and errors from the answers of a `bench.client` run."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from bench.client import Run


@dataclass(frozen=True, slots=True)
class Summary:
    """Times in seconds. `itl_*` are over all gaps of all streams; `itl_max` is the longest gap of a running stream.

    `chunk_mismatch`: answers whose number of text chunks differs from the token count of the server's usage (a server
    may send several tokens in a chunk or a token without text). `uncounted`: answers without usage, counted by chunks.
    `grounded`: answers to prompts into which the server put passages of its documents.
    """

    requests: int
    errors: int
    wall: float
    output_tokens: int
    prompt_tokens: int
    cached_tokens: int
    output_rate: float
    ttft_p50: float
    ttft_p95: float
    itl_p50: float
    itl_p95: float
    itl_max: float
    total_p50: float
    total_p95: float
    chunk_mismatch: int
    uncounted: int
    grounded: int
    client_cpu: float
    concurrency: int
    first_errors: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """All figures, for JSON."""
        return asdict(self)


def _quantile(values: list[float], q: float) -> float:
    return float(np.quantile(values, q)) if values else float("nan")


def summarize(run: Run) -> Summary:
    """The figures of a run; rates and times count answers without error only, NaN where there is none."""
    good = [answer for answer in run.answers if answer.error is None]
    bad = [answer.error for answer in run.answers if answer.error is not None]
    ttft = [answer.ttft for answer in good if answer.ttft is not None]
    gaps = [gap for answer in good for gap in answer.gaps]
    total = [answer.ended - answer.started for answer in good]
    tokens = sum(answer.completion_tokens for answer in good)
    return Summary(
        requests=len(run.answers),
        errors=len(bad),
        wall=run.wall,
        output_tokens=tokens,
        prompt_tokens=sum(answer.prompt_tokens for answer in good),
        cached_tokens=sum(answer.cached_tokens for answer in good),
        output_rate=tokens / run.wall if run.wall > 0 else float("nan"),
        ttft_p50=_quantile(ttft, 0.5),
        ttft_p95=_quantile(ttft, 0.95),
        itl_p50=_quantile(gaps, 0.5),
        itl_p95=_quantile(gaps, 0.95),
        itl_max=max(gaps, default=float("nan")),
        total_p50=_quantile(total, 0.5),
        total_p95=_quantile(total, 0.95),
        chunk_mismatch=sum(len(answer.token_times) != answer.completion_tokens for answer in good),
        uncounted=sum(answer.counted != "usage" for answer in good),
        grounded=sum(answer.citations > 0 for answer in good),
        client_cpu=run.client_cpu,
        concurrency=run.concurrency,
        first_errors=tuple(sorted(set(bad)))[:3],
    )
