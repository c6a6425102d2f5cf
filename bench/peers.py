"""Our server beside llama-server (as it comes and hand-tuned) and, on request, llama-cpp-python's, in one run.

Same model file, threads, slots and context for all. Every measurement starts a fresh server, warms it up with one
request, loads it and stops it; two are never loaded at once. Rounds are interleaved and start with another server each
time; ratios are medians over the rounds. Beside each result of ours stands the computed ceiling (`bench.ceiling`).
"""

from __future__ import annotations

import argparse
import shlex
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from bench import bars, servers, workloads
from bench.bars import CEILING_BAR, OURS, Scenario, Verdict
from bench.ceiling import Ceiling, ceiling
from bench.client import Endpoint, Run
from bench.http import HEADER, body, load, notes, requests_for, row
from bench.llama_tools import NativeSettings, ToolFailedError, ToolMissingError, tool
from bench.processes import ServerFailedError
from bench.report import end_cleanly, fail, machine, machine_line, say, table, write_json
from bench.servers import Common, Peer
from bench.summary import Summary, summarize
from llama_native import available_cpus


@dataclass
class Outcome:
    """All that was measured."""

    summaries: dict[tuple[Scenario, str], list[Summary]] = field(default_factory=dict)
    ceilings: dict[Scenario, list[Ceiling]] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)

    def ceiling_ratio(self, scenario: Scenario) -> float:
        """Median over the rounds of our output rate / its ceiling."""
        pairs = zip(self.summaries[scenario, OURS], self.ceilings[scenario], strict=False)
        return statistics.median(summary.output_rate / bound.output_rate for summary, bound in pairs)

    def failed(self) -> bool:
        """Whether a request of ours failed or a bar was missed."""
        lost = any(summary.errors for (_, name), each in self.summaries.items() if name == OURS for summary in each)
        missed = any(verdict.text == "FAIL" for verdict in bars.judge(self.summaries))
        return lost or missed or any(self.ceiling_ratio(scenario) < CEILING_BAR for scenario in self.ceilings)


def run_once(peer: Peer, scenario: Scenario, options: argparse.Namespace, seed: str) -> Run:
    """A fresh server, a warm-up, the load, and the server's end. Raises ServerFailedError when it does not start."""
    requests = options.requests or requests_for(scenario.workload, scenario.clients)
    if options.quick:
        requests = max(1, requests // 2)
    with peer.start() as server:
        server.wait_ready(options.start_timeout)
        endpoint = Endpoint(server.url, body(peer.model_name, options.max_tokens, extra=peer.extra))
        return load(endpoint, scenario.workload, scenario.clients, requests, seed, cold=options.cold)


def measure(peers: list[Peer], scenarios: list[Scenario], options: argparse.Namespace, common: Common) -> Outcome:
    """All rounds."""
    outcome = Outcome()
    settings = NativeSettings(common.model, common.threads)
    for round_ in range(options.repeats):
        start = round_ % len(peers)
        for scenario in scenarios:
            for peer in peers[start:] + peers[:start]:
                run = run_once(peer, scenario, options, f"{options.seed}/{round_}")
                summary = summarize(run)
                outcome.summaries.setdefault((scenario, peer.name), []).append(summary)
                say(f"round {round_ + 1}, {scenario}, {peer.name}: {summary.output_rate:.1f} tok/s")
                if peer.name == OURS and not options.no_ceiling and summary.errors < summary.requests:
                    batch = min(scenario.clients, common.slots)
                    found = ceiling(run.answers, settings, batch, scenario.workload == "rag")
                    outcome.ceilings.setdefault(scenario, []).append(found)
            _check_prompts(scenario, outcome)
    return outcome


def _check_prompts(scenario: Scenario, outcome: Outcome) -> None:
    """The comparison is fair only if all servers saw prompts of the same length (answers differ in multi-turn)."""
    if scenario.workload == "multi-turn":
        return
    lengths = {
        name: each[-1].prompt_tokens
        for (measured, name), each in outcome.summaries.items()
        if measured == scenario and not each[-1].errors and not each[-1].uncounted
    }
    if len(set(lengths.values())) > 1:
        outcome.remarks.append(f"{scenario}: servers counted different prompts: {lengths}")


def median_summary(each: Sequence[Summary]) -> Summary:
    """The round with the median output rate (the lower of the two middle ones when even)."""
    return sorted(each, key=lambda summary: summary.output_rate)[(len(each) - 1) // 2]


def show(outcome: Outcome, peers: list[Peer], scenarios: list[Scenario], markdown: bool) -> None:
    """Print results, ceilings and bars."""
    rows = [
        [peer.name, *row(scenario.workload, median_summary(outcome.summaries[scenario, peer.name]))]
        for scenario in scenarios
        for peer in peers
    ]
    print(table(("server (median round)", *HEADER), rows, markdown), end="\n\n")
    if outcome.ceilings:
        bounds = [_ceiling_row(outcome, scenario) for scenario in scenarios if scenario in outcome.ceilings]
        header = ("ceiling of ours", "prefill tok/s", "decode tok/s", "ceiling tok/s", "ours / ceiling", "bar", "")
        print(table(header, bounds, markdown), end="\n\n")
    if verdicts := bars.judge(outcome.summaries):
        print(_verdict_table(verdicts, markdown), end="\n\n")
    if len(peers) > 1:
        print(_ratio_table(outcome, peers, scenarios, markdown))
    for line in (*outcome.remarks, *notes([summary for each in outcome.summaries.values() for summary in each])):
        print(line)


def _verdict_table(verdicts: Sequence[Verdict], markdown: bool) -> str:
    rows = [
        [str(it.bar.scenario), bars.UNITS[it.bar.figure], it.bar.peer, it.ratio, it.bar.text(), it.text]
        for it in verdicts
    ]
    return table(("bar: ours / theirs", "figure", "against", "ratio", "bar", ""), rows, markdown)


def _ratio_table(outcome: Outcome, peers: list[Peer], scenarios: list[Scenario], markdown: bool) -> str:
    """Every server against the first one: how hand-tuning candidates are compared."""
    first = peers[0].name
    rows = []
    for scenario in scenarios:
        base = outcome.summaries[scenario, first]
        for peer in peers[1:]:
            each = outcome.summaries[scenario, peer.name]
            rows.append([str(scenario), peer.name, *(bars.ratio(each, base, figure) for figure in bars.UNITS)])
    return table((f"against {first}", "server", *bars.UNITS.values()), rows, markdown)


def _ceiling_row(outcome: Outcome, scenario: Scenario) -> list[object]:
    bound = sorted(outcome.ceilings[scenario], key=lambda it: it.output_rate)[
        (len(outcome.ceilings[scenario]) - 1) // 2
    ]
    share = outcome.ceiling_ratio(scenario)
    verdict = "pass" if share >= CEILING_BAR else "FAIL"
    name = f"{scenario} ({bound.setting})"
    return [name, bound.prefill_rate, bound.decode_rate, bound.output_rate, share, f">= {CEILING_BAR}", verdict]


def as_json(outcome: Outcome, peers: list[Peer]) -> dict[str, Any]:
    """Everything measured, for JSON."""
    return {
        "servers": {peer.name: peer.note for peer in peers},
        "rounds": [
            {"server": name, "scenario": str(scenario), "workload": scenario.workload, **summary.as_dict()}
            for (scenario, name), each in outcome.summaries.items()
            for summary in each
        ],
        "ceilings": [
            {"scenario": str(scenario), **asdict(bound)}
            for scenario, each in outcome.ceilings.items()
            for bound in each
        ],
        "bars": [
            {
                "scenario": str(it.bar.scenario),
                "figure": it.bar.figure,
                "against": it.bar.peer,
                "bound": it.bar.bound,
                "ratio": it.ratio,
                "verdict": it.text,
            }
            for it in bars.judge(outcome.summaries)
        ],
        "remarks": outcome.remarks,
    }


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.peers", description=__doc__)
    parser.add_argument("--model", default="model/model.gguf", help="GGUF file for all servers (%(default)s)")
    parser.add_argument("--threads", type=int, default=available_cpus(), help="compute threads (all cores)")
    parser.add_argument("--slots", type=int, default=8, help="sequences each server decodes at once (%(default)s)")
    parser.add_argument("--slot-context", type=int, default=2048, help="context tokens of a slot (%(default)s)")
    parser.add_argument("--workloads", nargs="+", choices=workloads.NAMES, help="only these (default: all with a bar)")
    parser.add_argument("--clients", nargs="+", type=int, help="these numbers of clients, instead of those with a bar")
    parser.add_argument("--repeats", type=int, default=3, help="interleaved rounds (%(default)s)")
    parser.add_argument("--requests", type=int, help="requests a run (default: 4 a client, at least 8)")
    parser.add_argument("--max-tokens", type=int, default=64, help="tokens an answer (%(default)s)")
    parser.add_argument("--quick", action="store_true", help="one round, half the requests: to look, not to quote")
    parser.add_argument("--cold", action="store_true", help="do not let the servers see the rag context before the run")
    parser.add_argument("--no-ceiling", action="store_true", help="do not measure native rates")
    parser.add_argument("--llama-cpp-python", action="store_true", help="also its server, where installed")
    parser.add_argument("--tuned-flags", default=shlex.join(servers.TUNED_FLAGS), help="hand-tuned: '%(default)s'")
    parser.add_argument(
        "--variant",
        action="append",
        default=[],
        metavar="FLAGS",
        help="also llama-server with these flags, after NAME=VALUE of its environment (repeatable)",
    )
    parser.add_argument(
        "--set", action="append", default=[], type=servers.setting, metavar="NAME=VALUE", help="variable of our servers"
    )
    parser.add_argument(
        "--our-variant",
        action="append",
        default=[],
        type=servers.setting,
        metavar="NAME=VALUE",
        help="also our server with this variable (repeatable), e.g. MODEL_STEP_MS=50",
    )
    parser.add_argument("--only", nargs="+", metavar="SERVER", help="only servers with these names")
    parser.add_argument("--tools", metavar="DIR", help="directory of llama-server (default: build_llama.sh --tools)")
    parser.add_argument("--start-timeout", type=float, default=120.0, help="seconds a server may take to start")
    parser.add_argument("--seed", default="0", help="seed of the texts")
    parser.add_argument("--json", metavar="FILE", help="write the results there")
    parser.add_argument("--markdown", action="store_true", help="print the tables as Markdown")
    options = parser.parse_args(arguments)
    if min(options.threads, options.slots, options.repeats, options.max_tokens, *(options.clients or [1])) < 1:
        parser.error("--threads, --slots, --repeats, --max-tokens and --clients must be at least 1")
    if options.quick:
        options.repeats = 1
    return options


def choose(options: argparse.Namespace, common: Common) -> list[Peer]:
    """The servers to run. Raises ToolMissingError when one is not there."""
    program = tool("llama-server", options.tools)
    peers = [
        servers.ours(common, dict(options.set)),
        servers.llama_server(common, program, bars.DEFAULTS),
        servers.llama_server(common, program, bars.TUNED, tuple(shlex.split(options.tuned_flags))),
    ]
    peers += [
        servers.llama_server(common, program, f"llama-server {flags}", tuple(shlex.split(flags)))
        for flags in options.variant
    ]
    peers += [
        servers.ours(common, dict(options.set) | {name: value}, f"lucid {name}={value}")
        for name, value in options.our_variant
    ]
    if options.llama_cpp_python:
        peers.append(servers.llama_cpp_python(common))
    if options.only:
        if unknown := set(options.only) - {peer.name for peer in peers}:
            fail(f"no such server: {', '.join(sorted(unknown))}; there are: {', '.join(peer.name for peer in peers)}")
        peers = [peer for peer in peers if peer.name in options.only]
    return peers


def main(arguments: Sequence[str] | None = None) -> int:
    """Run everything; exit code 1 when a bar was missed or a request of ours failed."""
    end_cleanly()
    options = parse_arguments(arguments)
    common = Common(options.model, options.threads, options.slots, options.slot_context)
    if options.workloads and options.clients:
        scenarios = [Scenario(name, count) for name in options.workloads for count in options.clients]
    else:
        scenarios = [it for it in bars.SCENARIOS if not options.workloads or it.workload in options.workloads]
        scenarios = [it for it in scenarios if not options.clients or it.clients in options.clients]
    if not scenarios:
        fail("nothing to run: name --workloads together with --clients for other combinations than those with a bar")
    try:
        peers = choose(options, common)
        outcome = measure(peers, scenarios, options, common)
    except (ToolMissingError, ToolFailedError, ServerFailedError) as error:
        fail(str(error))
    print(machine_line(machine()))
    print(f"{options.model}, {common.threads} threads, {common.slots} slots of {common.slot_context} tokens, ", end="")
    print(f"{options.max_tokens} tokens an answer, {options.repeats} rounds")
    for peer in peers:
        print(f"{peer.name}: {peer.note}")
    print()
    show(outcome, peers, scenarios, options.markdown)
    if options.json:
        write_json(options.json, "bench.peers", vars(options), as_json(outcome, peers))
    return 1 if outcome.failed() else 0


if __name__ == "__main__":
    sys.exit(main())
