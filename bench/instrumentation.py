"""What seeing inside costs: output rate with all instrumentation on against all off, and the engine's own share.

On: metrics, a log line for each request, every request traced and sent to an OTLP receiver, and /metrics scraped every
second. Receiver and scraper are processes of their own (`bench.watchers`). Off: METRICS=off, LOG_LEVEL=warning, no
traces, nobody scrapes. Two servers take turns under the same load, so that a slow moment of the machine meets both.
Receiver, scraper and client share the machine's cores with the server, so the server's own processor time a token is
given too. How long the scrapes took under that load has a bar as well. The engine's own share, which is far below what
two servers could show, is measured by `bench.engine_cost` on an engine in this process.
"""

from __future__ import annotations

import argparse
import math
import statistics
import sys
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Final, NamedTuple

from bench.client import Endpoint
from bench.engine_cost import engine_cost
from bench.http import body, load
from bench.ports import free_port
from bench.report import end_cleanly, fail, machine, machine_line, say, table, write_json
from bench.servers import Common, ours
from bench.summary import summarize
from bench.watchers import Scraper, receiver
from llama_native import Model

#: Shares of the output rate that all instrumentation may cost, and the engine's own; seconds of which 99% of the
#: scrapes stay below.
COST_BAR: Final = 0.02
ENGINE_BAR: Final = 0.01
SCRAPE_BAR: Final = 0.1

OFF = {"METRICS": "off", "LOG_LEVEL": "warning"}
HEADER = ("round", "on tok/s", "off tok/s", "on/off", "on CPU ms/token", "off CPU ms/token", "on/off")


class Verdict(NamedTuple):
    """A bar with the figure that was measured, as text, and whether it is met."""

    bar: str
    figure: str
    met: bool


def judge(rates: Sequence[tuple[float, float]], engine: float, scrapes: Sequence[float]) -> list[Verdict]:
    """All bars. `rates`: output tokens/s on and off, a pair a round; the median of on/off decides.

    `engine`: share of its time that the engine spends on recording. `scrapes`: seconds of each, infinite for one that
    failed. Without any scrape the last bar is missed.
    """
    cost = 1 - statistics.median(on / off for on, off in rates)
    p50, p99, most = (1e3 * _quantile(scrapes, share) for share in (0.5, 0.99, 1.0))
    scraped = f"p50 {p50:.1f}, p99 {p99:.1f}, max {most:.1f} ms of {len(scrapes)} scrapes"
    return [
        Verdict(f"output rate: under {100 * COST_BAR:g} % lost", f"{100 * cost:.2f} % lost", cost < COST_BAR),
        Verdict(
            f"the engine's own: under {100 * ENGINE_BAR:g} % lost", f"{100 * engine:.3f} % lost", engine < ENGINE_BAR
        ),
        Verdict(f"/metrics under full load: p99 under {1e3 * SCRAPE_BAR:g} ms", scraped, p99 < 1e3 * SCRAPE_BAR),
    ]


def _quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that `share` of all do not exceed (nearest rank: one value may be infinite); NaN of none."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)] if values else math.nan


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.instrumentation", description=__doc__)
    parser.add_argument("--model", default="model/model.gguf", help="a GGUF file (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="compute threads (default: %(default)s)")
    parser.add_argument("--clients", type=int, default=8, help="clients at once, and slots (default: %(default)s)")
    parser.add_argument("--requests", type=int, default=24, help="requests a run (default: %(default)s)")
    parser.add_argument("--max-tokens", type=int, default=48, help="tokens an answer (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=9, help="runs of each (default: %(default)s)")
    parser.add_argument("--scrape-seconds", type=float, default=1.0, help="between scrapes (default: %(default)s)")
    parser.add_argument("--json", metavar="FILE", help="write the results there")
    parsed = parser.parse_args(arguments)
    if min(parsed.threads, parsed.clients, parsed.requests, parsed.max_tokens, parsed.rounds) < 1:
        parser.error("--threads, --clients, --requests, --max-tokens and --rounds must be at least 1")
    if not parsed.scrape_seconds > 0:
        parser.error("--scrape-seconds must be positive")
    if not Path(parsed.model).is_file():
        fail(f"--model {parsed.model}: no such file; run: make model")
    return parsed


def main(arguments: Sequence[str] | None = None) -> int:
    """Run both servers in turns and print the ratio; exit code 1 when a bar is missed or a request failed."""
    options = parse_arguments(arguments)
    end_cleanly()
    common = Common(options.model, options.threads, options.clients, 1024)
    metrics_port = free_port()
    rounds: list[tuple[float, float]] = []
    processor: list[tuple[float, float]] = []
    with ExitStack() as stack:
        spans = stack.enter_context(receiver())
        scraper = stack.enter_context(Scraper(metrics_port, options.scrape_seconds))
        on = {
            "PROMETHEUS_HTTP_ADDRESS": f"127.0.0.1:{metrics_port}",
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{spans}",
            "OTEL_TRACES_SAMPLER": "always_on",
        }
        servers = [stack.enter_context(ours(common, variables).start()).wait_ready() for variables in (on, OFF)]
        endpoints = [Endpoint(server.url, body("rusty_llm", options.max_tokens)) for server in servers]
        for number in range(options.rounds):
            rates, cpu = [0.0, 0.0], [0.0, 0.0]
            for which in (0, 1) if number % 2 == 0 else (1, 0):
                watched = scraper.watching() if which == 0 else nullcontext()
                before = servers[which].cpu_seconds()
                with watched:
                    run = load(endpoints[which], "chat", options.clients, options.requests, f"{number}")
                summary = summarize(run)
                if summary.errors:
                    say(f"error: {summary.errors} requests failed: {'; '.join(summary.first_errors)}")
                    return 1
                rates[which] = summary.output_rate
                cpu[which] = 1e3 * (servers[which].cpu_seconds() - before) / max(summary.output_tokens, 1)
            rounds.append((rates[0], rates[1]))
            processor.append((cpu[0], cpu[1]))
            say(f"round {number + 1}: on {rates[0]:.1f}, off {rates[1]:.1f} tok/s")
    ratio, cpu_ratio = (statistics.median(first / second for first, second in pairs) for pairs in (rounds, processor))
    with Model(options.model) as model:
        engine = engine_cost(model, options.threads, options.clients, options.max_tokens)
    print(machine_line(machine()))
    rows = [
        (str(i + 1), *a, a[0] / a[1], *b, b[0] / b[1]) for i, (a, b) in enumerate(zip(rounds, processor, strict=True))
    ]
    print(table(HEADER, rows))
    print(f"median of on/off: output rate {ratio:.4f}, the server's processor time a token {cpu_ratio:.4f}")
    print(
        f"engine: {1e6 * engine.recording / engine.steps:.1f} us of recording in a step of "
        f"{1e3 * engine.busy / engine.steps:.1f} ms, {engine.steps} steps for {options.clients} streams; "
        f"answering threads: {1e6 * engine.answering / engine.tokens:.1f} us a token"
    )
    verdicts = judge(rounds, engine.share, scraper.seconds)
    print(table(("bar", "figure", ""), [(bar, figure, "pass" if met else "FAIL") for bar, figure, met in verdicts]))
    if options.json:
        results = {"rounds": rounds, "ratio": ratio, "processor": processor, "processor_ratio": cpu_ratio}
        results |= {"engine": asdict(engine), "engine_share": engine.share}
        results |= {"scrapes": scraper.seconds, "met": [verdict.met for verdict in verdicts]}
        write_json(options.json, "bench.instrumentation", {**vars(options), "json": None}, results)
    return 0 if all(verdict.met for verdict in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
