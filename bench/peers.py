"""Our server beside llama-server (as it comes and hand-tuned) and llama-cpp-python's, in one run.

Same model file, threads, slots and context for all. Every measurement starts a fresh server, warms it up, loads it and
stops it; two are never loaded at once. Rounds are interleaved and start with another server each time; ratios are
medians over the rounds. Beside each result of ours stand two computed ceilings (`bench.ceiling`): with the kernels it
had, and with llama.cpp's. Several llama-servers are hand-tuned; for each workload the fastest of them counts.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import NamedTuple

from bench import bars, servers, workloads
from bench.bars import CROWDS, OURS, Scenario
from bench.ceiling import ceilings
from bench.client import Endpoint, LoadGenerator, Run
from bench.http import body, load, requests_for
from bench.llama_tools import NativeSettings, ToolFailedError, ToolMissingError, tool
from bench.outcome import Outcome, as_json, show
from bench.processes import ServerFailedError
from bench.report import end_cleanly, fail, machine, machine_line, say, write_json
from bench.servers import Common, Peer
from bench.summary import summarize
from llama_native import available_cpus

#: Seconds without a byte until a request has failed: of most servers, and of one that answers one request at a time,
#: whose last client waits for the answers of all others.
IDLE = 120.0
IDLE_ONE_AT_A_TIME = 900.0


class Measured(NamedTuple):
    """A run, and the server's resident bytes before and after it."""

    run: Run
    before: int
    after: int


def run_once(peer: Peer, scenario: Scenario, options: argparse.Namespace, seed: str) -> Measured:
    """A fresh server, a warm-up, the load, and the server's end. Raises ServerFailedError when it does not start.

    With more clients than slots the warm-up is a request of each client, so that what grows after it is a leak.
    """
    requests = options.requests or requests_for(scenario.workload, scenario.clients)
    if options.quick:
        requests = max(1, requests // 2)
    if peer.one_at_a_time and scenario.workload != "multi-turn":
        requests = min(requests, max(4, scenario.clients))
    idle = IDLE_ONE_AT_A_TIME if peer.one_at_a_time else IDLE
    with peer.start() as server:
        server.wait_ready(options.start_timeout)
        fixed = body(peer.model_name, options.max_tokens, extra=peer.extra)
        endpoint = Endpoint(server.url, fixed, idle_timeout=idle)
        if scenario.clients > options.slots:
            crowd = workloads.build(scenario.workload, scenario.clients, f"{seed}/warm")
            LoadGenerator(endpoint, crowd, scenario.clients).run()
        before = server.memory().largest_rss
        run = load(endpoint, scenario.workload, scenario.clients, requests, seed, cold=options.cold)
        return Measured(run, before, server.memory().largest_rss)


def measure(
    peers: list[Peer], tuned: Sequence[str], scenarios: list[Scenario], options: argparse.Namespace, common: Common
) -> Outcome:
    """All rounds."""
    outcome = Outcome(peers, tuned, common.slots)
    for round_ in range(options.repeats):
        start = round_ % len(peers)
        for scenario in scenarios:
            for peer in peers[start:] + peers[:start]:
                if scenario in CROWDS and not options.clients and peer.step_seconds is None:
                    continue  # these bars are about our servers alone
                measured = run_once(peer, scenario, options, f"{options.seed}/{round_}")
                summary = summarize(measured.run)
                outcome.summaries.setdefault((scenario, peer.name), []).append(summary)
                if scenario.clients > common.slots:
                    memory = outcome.memory.setdefault((scenario, peer.name), [])
                    memory.append((measured.before, measured.after))
                say(f"round {round_ + 1}, {scenario}, {peer.name}: {summary.output_rate:.1f} tok/s")
                if peer.name == OURS and not options.no_ceiling and summary.errors < summary.requests:
                    batch = min(scenario.clients, common.slots)
                    settings = NativeSettings(common.model, common.threads, kernels=peer.kernels)
                    found = ceilings(measured.run.answers, settings, batch, scenario.workload == "rag")
                    outcome.ceilings.setdefault(scenario, []).append(found)
            _check_prompts(scenario, outcome)
    return outcome


def _check_prompts(scenario: Scenario, outcome: Outcome) -> None:
    """The comparison is fair only if all servers saw prompts of the same length (answers differ in multi-turn)."""
    if scenario.workload == "multi-turn":
        return
    alone = {peer.name for peer in outcome.peers if peer.one_at_a_time}  # they get fewer requests
    lengths = {
        name: each[-1].prompt_tokens
        for (measured, name), each in outcome.summaries.items()
        if measured == scenario and name not in alone and not each[-1].errors and not each[-1].uncounted
    }
    if len(set(lengths.values())) > 1:
        outcome.remarks.append(f"{scenario}: servers counted different prompts: {lengths}")


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
    parser.add_argument(
        "--llama-cpp-python",
        metavar="PYTHON",
        help="an interpreter that has llama-cpp-python's server (default: this one, if it has); 'no' leaves it out",
    )
    parser.add_argument(
        "--tuned",
        action="append",
        metavar="FLAGS",
        help="hand-tuned: llama-server with these flags, after NAME=VALUE of its environment (repeatable; default: "
        + ", ".join(f"'{flags}'" for flags in servers.TUNED)
        + ")",
    )
    parser.add_argument(
        "--tuned-variants",
        action="store_true",
        help="also: " + ", ".join(f"'{flags}'" for flags in servers.MORE_TUNED),
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
        help="also our server with this variable (repeatable), e.g. MODEL_KV_LAYOUT=unified",
    )
    parser.add_argument(
        "--step-targets",
        nargs="*",
        type=int,
        metavar="MS",
        help="also our server with these step-time targets (without MS: 50 100 200): longest gap, bound, cost",
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
    if options.step_targets is not None:
        options.step_targets = options.step_targets or [50, 100, 200]
        if min(options.step_targets) < 1:
            parser.error("--step-targets must be at least 1")
    return options


def choose(options: argparse.Namespace, common: Common) -> tuple[list[Peer], list[str]]:
    """The servers to run, and the names of the hand-tuned ones. Raises ToolMissingError when one is not there."""
    program = tool("llama-server", options.tools)
    flags = [*(options.tuned or servers.TUNED), *(servers.MORE_TUNED if options.tuned_variants else ())]
    tuned = [servers.llama_server(common, program, each) for each in dict.fromkeys(flags)]
    variants = [*options.our_variant, *(("MODEL_STEP_MS", str(step)) for step in options.step_targets or ())]
    peers = [
        servers.ours(common, dict(options.set)),
        servers.llama_server(common, program),
        *tuned,
        *(
            servers.ours(common, dict(options.set) | {name: value}, f"{OURS} {name}={value}")
            for name, value in dict.fromkeys(variants)
        ),
        *_llama_cpp_python(options.llama_cpp_python, common),
    ]
    if options.only:
        if unknown := set(options.only) - {peer.name for peer in peers}:
            fail(f"no such server: {', '.join(sorted(unknown))}; there are: {', '.join(peer.name for peer in peers)}")
        peers = [peer for peer in peers if peer.name in options.only]
    return peers, [peer.name for peer in tuned]


def _llama_cpp_python(python: str | None, common: Common) -> list[Peer]:
    """Its server, if `python` has it; a missing one is an error for an interpreter that was named."""
    if python == "no":
        return []
    try:
        return [servers.llama_cpp_python(common, python or sys.executable)]
    except ToolMissingError as error:
        if python:
            raise
        say(f"left out: {error}")
        return []


def main(arguments: Sequence[str] | None = None) -> int:
    """Run everything; exit code 1 when a bar was missed or a request of ours failed."""
    end_cleanly()
    options = parse_arguments(arguments)
    common = Common(options.model, options.threads, options.slots, options.slot_context)
    if options.workloads and options.clients:
        scenarios = [Scenario(name, count) for name in options.workloads for count in options.clients]
    else:
        scenarios = [
            it
            for it in (*bars.SCENARIOS, *CROWDS)
            if (not options.workloads or it.workload in options.workloads)
            and (not options.clients or it.clients in options.clients)
        ]
    if not scenarios:
        fail("nothing to run: name --workloads together with --clients for other combinations than those with a bar")
    try:
        peers, tuned = choose(options, common)
        outcome = measure(peers, tuned, scenarios, options, common)
    except (ToolMissingError, ToolFailedError, ServerFailedError) as error:
        fail(str(error))
    print(machine_line(machine()))
    print(f"{options.model}, {common.threads} threads, {common.slots} slots of {common.slot_context} tokens, ", end="")
    print(f"{options.max_tokens} tokens an answer, {options.repeats} rounds")
    for peer in peers:
        print(f"{peer.name}: {peer.note}")
    print()
    show(outcome, options.markdown)
    if options.json:
        write_json(options.json, "bench.peers", vars(options), as_json(outcome))
    return 1 if outcome.failed() else 0


if __name__ == "__main__":
    sys.exit(main())
