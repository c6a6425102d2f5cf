"""Is the first request as fast as the tenth? Ten requests, one after the other, to servers that have just started.

Every server is asked for prompts of one kind without its cache of prefixes: what the template puts before all of
them would help all but the first. What a first request has to wait for (memory, threads, tables, code) shows as its
time over the median of the nine after it.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence

from bench import servers
from bench.client import Endpoint
from bench.http import body, load
from bench.processes import ServerFailedError
from bench.recording import Answer
from bench.report import end_cleanly, fail, machine, machine_line, table, write_json
from bench.servers import Common
from llama_native import available_cpus

REQUESTS = 10
BAR = 1.1


def from_start(common: Common, generate: int, seed: str) -> list[Answer]:
    """The answers to the first requests of a fresh server, in order. Raises ServerFailedError when one fails."""
    peer = servers.ours(common)
    with peer.start() as server:
        server.wait_ready()
        endpoint = Endpoint(server.url, body(peer.model_name, generate, extra={"cache_prompt": False}))
        answers = load(endpoint, "unique", 1, REQUESTS, seed, warm=False).answers
    failed = [answer.error for answer in answers if answer.error is not None or answer.ttft is None]
    if failed:
        raise ServerFailedError(f"a request failed: {failed[0]}")
    return sorted(answers, key=lambda answer: answer.started)


def over_the_rest(seconds: Sequence[float]) -> float:
    """The first by the median of the others."""
    return seconds[0] / statistics.median(seconds[1:])


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.first_request", description=__doc__)
    parser.add_argument("--model", default="model/model.gguf", help="GGUF file (%(default)s)")
    parser.add_argument("--threads", type=int, default=available_cpus(), help="compute threads (all cores)")
    parser.add_argument("--slots", type=int, default=8, help="sequences (%(default)s)")
    parser.add_argument("--slot-context", type=int, default=2048, help="context tokens of a sequence (%(default)s)")
    parser.add_argument("--generate", type=int, default=16, help="tokens of an answer (%(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="starts of the server (%(default)s)")
    parser.add_argument("--json", metavar="FILE", help="write the results there")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    options = parser.parse_args(arguments)
    if min(options.threads, options.slots, options.slot_context, options.repeats, options.generate) < 1:
        parser.error("all numbers must be at least 1")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Start servers and ask each ten times; exit code 1 when the first request is slower than the bar."""
    end_cleanly()
    options = parse_arguments(arguments)
    common = Common(options.model, options.threads, options.slots, options.slot_context)
    totals: list[list[float]] = []
    ttfts: list[list[float]] = []
    try:
        for round_ in range(options.repeats):
            answers = from_start(common, options.generate, str(round_))
            totals.append([answer.ended - answer.started for answer in answers])
            ttfts.append([answer.ttft or 0.0 for answer in answers])
    except ServerFailedError as error:
        fail(str(error))
    print(machine_line(machine()))
    rows: list[list[object]] = []
    ratios = {}
    for what, seconds in (("whole answer", totals), ("TTFT", ttfts)):
        ratios[what] = statistics.median(map(over_the_rest, seconds))
        first = statistics.median(start[0] for start in seconds)
        rest = statistics.median(statistics.median(start[1:]) for start in seconds)
        verdict = "pass" if ratios[what] <= BAR else "FAIL"
        rows.append([what, first * 1e3, rest * 1e3, ratios[what], f"<= {BAR}", verdict])
    header = ("medians", "first ms", f"2nd to {REQUESTS}th ms", "first / rest", "bar", "")
    print(table(header, rows, options.markdown))
    if options.json:
        results = {"totals": totals, "ttfts": ttfts, "ratios": ratios}
        write_json(options.json, "bench.first_request", vars(options), results)
    return 0 if max(ratios.values()) <= BAR else 1


if __name__ == "__main__":
    sys.exit(main())
