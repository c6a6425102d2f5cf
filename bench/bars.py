"""What we promise about ourselves, against llama-server and alone, and whether a set of results keeps it."""

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
#: The longest gap of a running stream: so many times the step-time target, and one decode step.
GAP_BAR = 1.5
#: With more clients than sequences, p95 TTFT may be so many times the median, and resident memory after the load so
#: many times that before.
WAIT_BAR = 3.0
MEMORY_BAR = 1.02
DEFAULTS = "llama-server"
TUNED = "llama-server tuned"
"""Not a server, but of the hand-tuned ones the fastest for a workload; see `best_tuned`."""
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

#: More clients than sequences; these bars are about our server alone.
CROWDS: tuple[Scenario, ...] = (Scenario("chat", 32), Scenario("rag", 32))

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
    """A bar with the ratio that was measured, and the server that it was measured against."""

    bar: Bar
    ratio: float
    against: str

    @property
    def text(self) -> str:
        """pass, FAIL or a dash."""
        return verdict(self.bar.met(self.ratio))


def verdict(met: bool | None) -> str:
    """The word for a bar that was met or not, a dash where there is nothing to judge."""
    return "-" if met is None else ("pass" if met else "FAIL")


def best_tuned(results: Results, scenario: Scenario, tuned: Sequence[str]) -> str | None:
    """Of the servers `tuned`, the one with the highest median output rate; None when none was measured."""

    def rate(name: str) -> float:
        return statistics.median(summary.output_rate for summary in results[scenario, name])

    return max((name for name in tuned if (scenario, name) in results), key=rate, default=None)


def judge(results: Results, tuned: Sequence[str] = ()) -> list[Verdict]:
    """Every bar whose two servers were both measured; `tuned` are the names of the hand-tuned ones."""
    found = []
    for bar in BARS:
        against = best_tuned(results, bar.scenario, tuned) if bar.peer == TUNED else bar.peer
        if against is not None and (bar.scenario, OURS) in results and (bar.scenario, against) in results:
            measured = ratio(results[bar.scenario, OURS], results[bar.scenario, against], bar.figure)
            found.append(Verdict(bar, measured, against))
    return found


@dataclass(frozen=True, slots=True)
class StepVerdict:
    """Longest gap of the running streams of a server with a step-time target. Times in seconds, medians of rounds.

    `decode_step`: one decode step of that many sequences, computed from the native rate of the same rounds. `share`:
    gap / bound. `cost`: share of the output rate that this target costs, against our server with its own choice.
    """

    scenario: Scenario
    server: str
    target: float
    decode_step: float
    gap: float
    share: float
    cost: float

    @property
    def bound(self) -> float:
        """The bar."""
        return GAP_BAR * self.target + self.decode_step

    @property
    def met(self) -> bool | None:
        """Whether the gap stays under the bound, in the median round."""
        return None if math.isnan(self.share) else self.share < 1


def judge_step(
    scenario: Scenario,
    server: str,
    target: float,
    runs: Sequence[Summary],
    chosen: Sequence[Summary],
    decode_steps: Sequence[float],
) -> StepVerdict:
    """`runs` of a server with a step-time target of `target` seconds; `chosen`: those of our server's own choice.

    `decode_steps`: seconds of a decode step at native rates, in each of the rounds.
    """
    step = statistics.median(decode_steps)
    shares = [run.itl_max / (GAP_BAR * target + step) for run in runs]
    return StepVerdict(
        scenario,
        server,
        target,
        step,
        statistics.median(run.itl_max for run in runs),
        statistics.median(shares),
        1 - ratio(runs, chosen, OUTPUT_RATE),
    )


@dataclass(frozen=True, slots=True)
class CrowdVerdict:
    """A server with more clients than sequences. Seconds and bytes; medians of the rounds, errors of all.

    `wait`: p95 TTFT / median TTFT. `growth`: resident bytes after the load / before it. The bars are for ours (`mine`).
    """

    scenario: Scenario
    server: str
    errors: int
    ttft_p50: float
    ttft_p95: float
    wait: float
    before: float
    after: float
    growth: float
    mine: bool

    @property
    def met(self) -> bool | None:
        """No error, nobody starves, memory is flat; None for the others' servers."""
        return None if not self.mine else not self.errors and self.wait <= WAIT_BAR and self.growth <= MEMORY_BAR


def judge_crowd(
    scenario: Scenario, server: str, runs: Sequence[Summary], memory: Sequence[tuple[int, int]], mine: bool
) -> CrowdVerdict:
    """`memory`: resident bytes before and after the load of each run."""
    return CrowdVerdict(
        scenario,
        server,
        sum(run.errors for run in runs),
        statistics.median(run.ttft_p50 for run in runs),
        statistics.median(run.ttft_p95 for run in runs),
        statistics.median(run.ttft_p95 / run.ttft_p50 for run in runs),
        statistics.median(before for before, _ in memory),
        statistics.median(after for _, after in memory),
        statistics.median(after / before if before else math.nan for before, after in memory),
        mine,
    )
