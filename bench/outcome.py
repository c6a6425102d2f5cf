"""What a comparison of servers measured, as tables and as JSON, with a verdict on every bar.

Knows summaries, ceilings and bars; not how servers are started or loaded.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from bench import bars
from bench.bars import CEILING_BAR, OURS, CrowdVerdict, Scenario, StepVerdict, Verdict, verdict
from bench.ceiling import Ceiling, Ceilings, fastest
from bench.http import HEADER, notes, row
from bench.report import table
from bench.servers import Peer
from bench.summary import Summary

_MB = 1e6


@dataclass
class Outcome:
    """All that was measured.

    `tuned`: names of the hand-tuned servers. `slots`: sequences of each server. `memory`: resident bytes before and
    after the load of each round, where there were more clients than slots.
    """

    peers: Sequence[Peer]
    tuned: Sequence[str]
    slots: int
    summaries: dict[tuple[Scenario, str], list[Summary]] = field(default_factory=dict)
    ceilings: dict[Scenario, list[Ceilings]] = field(default_factory=dict)
    memory: dict[tuple[Scenario, str], list[tuple[int, int]]] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)

    @property
    def scenarios(self) -> list[Scenario]:
        """Those measured, in their order."""
        return list(dict.fromkeys(scenario for scenario, _ in self.summaries))

    def own(self, scenario: Scenario) -> list[Ceiling]:
        """The ceiling with our server's kernels, by round."""
        return fastest([each.own for each in self.ceilings[scenario]])

    def llama_cpp(self, scenario: Scenario) -> list[Ceiling]:
        """The ceiling with llama.cpp's kernels, by round."""
        return fastest([each.llama_cpp for each in self.ceilings[scenario]])

    def _ratio(self, scenario: Scenario, bounds: Sequence[Ceiling]) -> float:
        answered = (summary for summary in self.summaries[scenario, OURS] if summary.errors < summary.requests)
        pairs = zip(answered, bounds, strict=True)
        return statistics.median(summary.output_rate / bound.output_rate for summary, bound in pairs)

    def share(self, scenario: Scenario) -> float:
        """Median over the rounds of our output rate / the ceiling with our server's kernels: it has a bar."""
        return self._ratio(scenario, self.own(scenario))

    def share_of_llama_cpp(self, scenario: Scenario) -> float:
        """The same of the ceiling with llama.cpp's kernels: it is reported."""
        return self._ratio(scenario, self.llama_cpp(scenario))

    def verdicts(self) -> list[Verdict]:
        """Ours against the others."""
        return bars.judge(self.summaries, self.tuned)

    def steps(self) -> list[StepVerdict]:
        """The longest gaps of our servers, where native rates were measured."""
        return [
            bars.judge_step(
                scenario,
                peer.name,
                peer.step_seconds,
                self.summaries[scenario, peer.name],
                self.summaries[scenario, OURS],
                [min(scenario.clients, self.slots) / bound.decode_rate for bound in self.own(scenario)],
            )
            for scenario in self.ceilings
            for peer in self.peers
            if peer.step_seconds is not None
        ]

    def crowds(self) -> list[CrowdVerdict]:
        """The servers with more clients than slots."""
        return [
            bars.judge_crowd(*key, self.summaries[key], memory, key[1] in self._mine)
            for key, memory in self.memory.items()
        ]

    @property
    def _mine(self) -> set[str]:
        return {peer.name for peer in self.peers if peer.step_seconds is not None}

    def failed(self) -> bool:
        """Whether a request of ours failed or a bar was missed."""
        mine = self._mine
        lost = any(summary.errors for (_, name), each in self.summaries.items() if name in mine for summary in each)
        missed = any(it.text == "FAIL" for it in self.verdicts())
        missed = missed or any(it.met is False for it in self.steps()) or any(it.met is False for it in self.crowds())
        return lost or missed or any(self.share(scenario) < CEILING_BAR for scenario in self.ceilings)


def median_summary(each: Sequence[Summary]) -> Summary:
    """The round with the median output rate (the lower of the two middle ones when even)."""
    return sorted(each, key=lambda summary: summary.output_rate)[(len(each) - 1) // 2]


def show(outcome: Outcome, markdown: bool) -> None:
    """Print results, ceilings and bars."""
    rows = [
        [name, *row(scenario.workload, median_summary(each))] for (scenario, name), each in outcome.summaries.items()
    ]
    print(table(("server (median round)", *HEADER), rows, markdown), end="\n\n")
    if outcome.ceilings:
        bounds = [_ceiling_row(outcome, scenario) for scenario in outcome.ceilings]
        header = ("ceiling of ours", "prefill tok/s", "decode tok/s", "ceiling tok/s", "ours / ceiling", "bar", "")
        plain = ("with llama.cpp's kernels: ceiling tok/s", "ours / that")
        print(table((*header, *plain), bounds, markdown), end="\n\n")
    for text in (
        _verdict_table(outcome.verdicts(), markdown),
        _step_table(outcome.steps(), markdown),
        _crowd_table(outcome.crowds(), markdown),
        _ratio_table(outcome, markdown),
    ):
        if text:
            print(text, end="\n\n")
    for line in (*outcome.remarks, *notes([summary for each in outcome.summaries.values() for summary in each])):
        print(line)


def _verdict_table(verdicts: Sequence[Verdict], markdown: bool) -> str:
    rows = [
        [
            str(it.bar.scenario),
            bars.UNITS[it.bar.figure],
            f"hand-tuned ({it.against})" if it.bar.peer == bars.TUNED else it.against,
            it.ratio,
            it.bar.text(),
            it.text,
        ]
        for it in verdicts
    ]
    return table(("bar: ours / theirs", "figure", "against", "ratio", "bar", ""), rows, markdown) if rows else ""


def _step_table(steps: Sequence[StepVerdict], markdown: bool) -> str:
    rows = [
        [
            str(it.scenario),
            it.server,
            1e3 * it.target,
            1e3 * it.decode_step,
            1e3 * it.gap,
            1e3 * it.bound,
            it.share,
            "< 1",
            verdict(it.met),
            None if it.server == OURS else 100 * it.cost,
        ]
        for it in steps
    ]
    header = ("longest gap of a running stream", "server", "step target ms", "decode step ms", "gap ms", "bound ms")
    return table((*header, "gap / bound", "bar", "", f"tok/s lost against {OURS} %"), rows, markdown) if rows else ""


def _crowd_table(crowds: Sequence[CrowdVerdict], markdown: bool) -> str:
    rows = [
        [
            str(it.scenario),
            it.server,
            it.errors,
            it.ttft_p50,
            it.ttft_p95,
            it.wait,
            it.before / _MB,
            it.after / _MB,
            it.growth,
            f"0; <= {bars.WAIT_BAR:g}; <= {bars.MEMORY_BAR:g}" if it.mine else None,
            verdict(it.met),
        ]
        for it in crowds
    ]
    header = ("more clients than slots", "server", "errors", "TTFT p50 s", "p95 s", "p95 / p50")
    memory = ("RSS before MB", "after MB", "after / before", "bars", "")
    return table((*header, *memory), rows, markdown) if rows else ""


def _ratio_table(outcome: Outcome, markdown: bool) -> str:
    """Every server against the first one: how settings are compared."""
    rows = []
    for scenario in outcome.scenarios:
        (first, base), *others = (
            (name, each) for (measured, name), each in outcome.summaries.items() if measured == scenario
        )
        rows += [
            [str(scenario), name, first, *(bars.ratio(each, base, figure) for figure in bars.UNITS)]
            for name, each in others
        ]
    return table(("server / first server", "server", "first", *bars.UNITS.values()), rows, markdown) if rows else ""


def _ceiling_row(outcome: Outcome, scenario: Scenario) -> list[object]:
    found, plain_found = (_median(each) for each in (outcome.own(scenario), outcome.llama_cpp(scenario)))
    share = outcome.share(scenario)
    name = f"{scenario} ({found.setting})"
    rates = (found.prefill_rate, found.decode_rate, found.output_rate)
    plain = (plain_found.output_rate, outcome.share_of_llama_cpp(scenario))
    return [name, *rates, share, f">= {CEILING_BAR}", verdict(share >= CEILING_BAR), *plain]


def _median(rounds: Sequence[Ceiling]) -> Ceiling:
    return sorted(rounds, key=lambda it: it.output_rate)[(len(rounds) - 1) // 2]


def as_json(outcome: Outcome) -> dict[str, Any]:
    """Everything measured, for JSON."""
    return {
        "servers": {peer.name: peer.note for peer in outcome.peers},
        "hand_tuned": list(outcome.tuned),
        "rounds": [
            {"server": name, "scenario": str(scenario), "workload": scenario.workload, **summary.as_dict()}
            for (scenario, name), each in outcome.summaries.items()
            for summary in each
        ],
        "ceilings": [
            {"scenario": str(scenario), **asdict(each), "counted": counted.setting, "counted_llama_cpp": plain.setting}
            for scenario, rounds in outcome.ceilings.items()
            for each, counted, plain in zip(rounds, outcome.own(scenario), outcome.llama_cpp(scenario), strict=True)
        ],
        "bars": [
            {
                "scenario": str(it.bar.scenario),
                "figure": it.bar.figure,
                "against": it.against,
                "hand_tuned": it.bar.peer == bars.TUNED,
                "bound": it.bar.bound,
                "ratio": it.ratio,
                "verdict": it.text,
            }
            for it in outcome.verdicts()
        ],
        "steps": [
            {**asdict(it), "scenario": str(it.scenario), "bound": it.bound, "verdict": verdict(it.met)}
            for it in outcome.steps()
        ],
        "crowds": [{**asdict(it), "scenario": str(it.scenario), "verdict": verdict(it.met)} for it in outcome.crowds()],
        "memory": [
            {"scenario": str(scenario), "server": name, "rss": memory}
            for (scenario, name), memory in outcome.memory.items()
        ],
        "remarks": outcome.remarks,
    }
