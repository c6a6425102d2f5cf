"""What seeing inside costs: output rate with all instrumentation on against all off, and the engine's own share.

On: metrics, a log line for each request, every request traced and sent to an OTLP receiver in another process, and a
Prometheus that scrapes every second. Off: METRICS=off, LOG_LEVEL=warning, no traces, nobody scrapes. Two servers take
turns under the same load, so that a slow moment of the machine meets both. The receiver and the client share its cores
with the server, so the server's own processor time a token is given too. The engine's share is counted: what its
instrumentation costs for one step, measured on the real objects, against how long a step takes.
"""

from __future__ import annotations

import argparse
import http.client
import statistics
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing import get_context
from pathlib import Path
from timeit import timeit
from typing import Any

from bench.client import Endpoint
from bench.http import body, load
from bench.processes import free_port
from bench.report import end_cleanly, fail, machine, machine_line, say, table, write_json
from bench.servers import Common, ours
from bench.summary import summarize
from engine import WRITE, Counters, Timings, clock

OFF = {"METRICS": "off", "LOG_LEVEL": "warning"}
HEADER = ("round", "on tok/s", "off tok/s", "on/off", "on CPU ms/token", "off CPU ms/token", "on/off")


class _Receiver(BaseHTTPRequestHandler):
    """Takes spans and forgets them."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """Answer as an OTLP endpoint does."""
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Log nothing."""


def _receive(port: int) -> None:
    ThreadingHTTPServer(("127.0.0.1", port), _Receiver).serve_forever()


@contextmanager
def receiver() -> Iterator[int]:
    """An OTLP receiver in a process of its own; gives its port."""
    port = free_port()
    process = get_context("spawn").Process(target=_receive, args=(port,), daemon=True)
    process.start()
    try:
        yield port
    finally:
        process.terminate()
        process.join()


@contextmanager
def scraping(port: int) -> Iterator[None]:
    """Scrape the metrics at `port` every second, as a busy Prometheus would."""
    over = threading.Event()

    def run() -> None:
        while not over.wait(1.0):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
            connection.request("GET", "/metrics")
            connection.getresponse().read()
            connection.close()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def step_cost(rows: int, repeats: int = 2000) -> float:
    """Seconds of the engine thread's instrumentation in one step with `rows` tokens: the lines themselves, timed."""
    counters = Counters()
    courses = [Timings().submit() for _ in range(rows)]

    def step() -> None:
        begin = clock()
        done = clock()
        for course in courses:
            course.token(done, 1e-5)
            counters.generated_tokens += 1
        counters.add_step(rows, 0, done - begin, 1e-2, 1e-4)
        counters.busy_seconds += clock() - begin

    return timeit(step, number=repeats) / repeats


def lap_cost(repeats: int = 20000) -> float:
    """Seconds of the answering thread's three laps for one token."""
    timings = Timings()

    def token() -> None:
        timings.lap("handoff")
        with timings.phase("detokenize"):
            pass
        timings.lap(WRITE)

    return timeit(token, number=repeats) / repeats


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.instrumentation", description=__doc__)
    parser.add_argument("--model", default="model/model.gguf", help="a GGUF file (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="compute threads (default: %(default)s)")
    parser.add_argument("--clients", type=int, default=8, help="clients at once, and slots (default: %(default)s)")
    parser.add_argument("--requests", type=int, default=24, help="requests a run (default: %(default)s)")
    parser.add_argument("--max-tokens", type=int, default=48, help="tokens an answer (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each (default: %(default)s)")
    parser.add_argument("--json", metavar="FILE", help="write the results there")
    parsed = parser.parse_args(arguments)
    if not Path(parsed.model).is_file():
        fail(f"--model {parsed.model}: no such file; run: make model")
    return parsed


def main(arguments: Sequence[str] | None = None) -> int:
    """Run both servers in turns and print the ratio; exit code 1 when a request failed."""
    options = parse_arguments(arguments)
    end_cleanly()
    common = Common(options.model, options.threads, options.clients, 1024)
    metrics_port = free_port()
    rounds: list[tuple[float, float]] = []
    processor: list[tuple[float, float]] = []
    errors = 0
    with ExitStack() as stack:
        spans = stack.enter_context(receiver())
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
                watched = scraping(metrics_port) if which == 0 else ExitStack()
                before = servers[which].cpu_seconds()
                with watched:
                    run = load(endpoints[which], "chat", options.clients, options.requests, f"{number}")
                summary = summarize(run)
                errors += summary.errors
                rates[which] = summary.output_rate
                cpu[which] = 1e3 * (servers[which].cpu_seconds() - before) / max(summary.output_tokens, 1)
            rounds.append((rates[0], rates[1]))
            processor.append((cpu[0], cpu[1]))
            say(f"round {number + 1}: on {rates[0]:.1f}, off {rates[1]:.1f} tok/s")
        step_seconds = _mean_step(metrics_port)
    ratio, cpu_ratio = (statistics.median(first / second for first, second in pairs) for pairs in (rounds, processor))
    step, lap = step_cost(options.clients), lap_cost()
    print(machine_line(machine()))
    rows = [
        (str(i + 1), *a, a[0] / a[1], *b, b[0] / b[1]) for i, (a, b) in enumerate(zip(rounds, processor, strict=True))
    ]
    print(table(HEADER, rows))
    print(
        f"median of on/off: output rate {ratio:.4f} ({100 * (1 - ratio):+.2f} % cost), "
        f"the server's processor time a token {cpu_ratio:.4f}"
    )
    print(
        f"engine: {1e6 * step:.1f} us of instrumentation in a step of {options.clients} tokens, which takes "
        f"{1e3 * step_seconds:.1f} ms: {100 * step / step_seconds:.3f} %; "
        f"answering thread: {1e6 * lap:.1f} us a token"
    )
    if options.json:
        results = {"rounds": rounds, "ratio": ratio, "processor": processor, "processor_ratio": cpu_ratio}
        results |= {"step_cost": step, "step_seconds": step_seconds, "lap_cost": lap}
        write_json(options.json, "bench.instrumentation", {**vars(options), "json": None}, results)
    return 1 if errors else 0


def _mean_step(metrics_port: int) -> float:
    """Mean duration of the instrumented server's steps in seconds, from its own metrics."""
    time.sleep(0.1)
    connection = http.client.HTTPConnection("127.0.0.1", metrics_port, timeout=10)
    connection.request("GET", "/metrics")
    lines = connection.getresponse().read().decode().splitlines()
    connection.close()
    values = {line.split("{")[0]: float(line.split()[-1]) for line in lines if line.startswith("lucid_step_seconds_")}
    return values["lucid_step_seconds_sum"] / values["lucid_step_seconds_count"]


if __name__ == "__main__":
    sys.exit(main())
