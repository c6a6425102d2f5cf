"""What we promise about ourselves against llama-server, and whether a set of results keeps it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bench.summary import Summary

OUTPUT_RATE = "output_rate"
TTFT_P95 = "ttft_p95"
LONGEST_GAP = "itl_max"
UNITS = {OUTPUT_RATE: "output tok/s", TTFT_P95: "p95 TTFT", LONGEST_GAP: "longest gap"}
CEILING_BAR = 0.93
DEFAULTS = "llama-server"
TUNED = "llama-server tuned"
OURS = "lucid"


@dataclass(frozen=True, slots=True)
class Scenario:
    """A workload with so many clients."""

    workload: str
    clients: int

    def __str__(self) -> str:
        return f"{self.workload}, {self.clients} client{'s' if self.clients > 1 else ''}"


@dataclass(frozen=True, slots=True)
class Bar:
    """Ours / `peer`: at least `bound` for rates, at most `bound` for times; None is only reported."""

    scenario: Scenario
    figure: str
    peer: str
    bound: float | None

    def met(self, ratio: float) -> bool | None:
        """Whether `ratio` meets the bar, None when there is no bound or no figure."""
        if self.bound is None or math.isnan(ratio):
            return None
        return ratio >= self.bound if self.figure == OUTPUT_RATE else ratio <= self.bound

    def text(self) -> str:
        """The bound as a table shows it."""
        if self.bound is None:
            return "report"
        return f">= {self.bound:.3g}" if self.figure == OUTPUT_RATE else f"<= {self.bound:.3g}"


_RAG8, _CHAT8, _UNIQUE8 = Scenario("rag", 8), Scenario("chat", 8), Scenario("unique", 8)
_TURNS8, _CHAT1, _RAG1 = Scenario("multi-turn", 8), Scenario("chat", 1), Scenario("rag", 1)

BARS: tuple[Bar, ...] = (
    Bar(_RAG8, OUTPUT_RATE, DEFAULTS, 2.0),
    Bar(_RAG8, OUTPUT_RATE, TUNED, 1.15),
    Bar(_RAG8, TTFT_P95, DEFAULTS, 1 / 10),
    Bar(_RAG8, TTFT_P95, TUNED, 1 / 4),
    Bar(_RAG8, LONGEST_GAP, DEFAULTS, 1 / 8),
    Bar(_RAG8, LONGEST_GAP, TUNED, None),
    Bar(_CHAT8, OUTPUT_RATE, DEFAULTS, 1.0),
    Bar(_CHAT8, OUTPUT_RATE, TUNED, 0.98),
    Bar(_UNIQUE8, OUTPUT_RATE, DEFAULTS, 1.05),
    Bar(_UNIQUE8, OUTPUT_RATE, TUNED, 0.98),
    Bar(_UNIQUE8, LONGEST_GAP, DEFAULTS, 1 / 3),
    Bar(_UNIQUE8, LONGEST_GAP, TUNED, 1 / 3),
    Bar(_TURNS8, OUTPUT_RATE, DEFAULTS, 1.2),
    Bar(_TURNS8, OUTPUT_RATE, TUNED, 1.0),
    Bar(_CHAT1, OUTPUT_RATE, DEFAULTS, 1.0),
    Bar(_CHAT1, OUTPUT_RATE, TUNED, 0.98),
    Bar(_RAG1, OUTPUT_RATE, DEFAULTS, 1.5),
    Bar(_RAG1, OUTPUT_RATE, TUNED, 0.98),
)
SCENARIOS: tuple[Scenario, ...] = (_RAG8, _CHAT8, _UNIQUE8, _TURNS8, _CHAT1, _RAG1)

Results = Mapping[tuple[Scenario, str], Sequence[Summary]]
"""Summaries of each round by scenario and server name."""


def ratio(ours: Sequence[Summary], theirs: Sequence[Summary], figure: str) -> float:
    """Median over the rounds of ours / theirs; both ran in every round, so noise that lasts hits both. NaN if none."""
    pairs = [
        getattr(mine, figure) / getattr(other, figure)
        for mine, other in zip(ours, theirs, strict=False)
        if getattr(other, figure)
    ]
    return statistics.median(pairs) if pairs else float("nan")


@dataclass(frozen=True, slots=True)
class Verdict:
    """A bar with the ratio that was measured."""

    bar: Bar
    ratio: float

    @property
    def text(self) -> str:
        """pass, FAIL or a dash."""
        met = self.bar.met(self.ratio)
        return "-" if met is None else ("pass" if met else "FAIL")


def judge(results: Results) -> list[Verdict]:
    """Every bar whose two servers were both measured."""
    return [
        Verdict(bar, ratio(results[bar.scenario, OURS], results[bar.scenario, bar.peer], bar.figure))
        for bar in BARS
        if (bar.scenario, OURS) in results and (bar.scenario, bar.peer) in results
    ]
