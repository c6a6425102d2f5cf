"""What one Python process can feed: chunks/s over HTTP with a model that costs nothing, and what a second would add.

* The service: our server on such a model: chunks/s, and processor time a chunk, with and without what llama.cpp takes
  for the same steps alone. Python runs on one core at a time, so the rest of it bounds what a fast GPU could put out
  through one process.
* Two processes by gunicorn's "dirty" applications: the same chunks from the process that writes them and from another
  one behind gunicorn's broker, in turns: chunks/s, time to the first chunk, how many streams run at once, and what a
  client sees when the process behind is killed.
* Two processes by a socket: what it costs the engine to hand each step's tokens to a second process in one message.

Client and servers share this machine's cores.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

from bench import free_model
from bench.drain import Stream, get, run_streams
from bench.http_feed_hand import hand_over
from bench.ports import free_port
from bench.processes import ServerProcess
from bench.report import end_cleanly, fail, machine, machine_line, progress, table, write_json
from bench.servers import Common, ours
from llama_native import Batch, Context, ContextParams, FlashAttention, Model

_ROOT: Final = Path(__file__).resolve().parent.parent
#: Milliseconds between the chunks of a paced stream.
PACE: Final = 20

HEADER: Final = ("streams", "chunks/s", "us of CPU a chunk", "llama.cpp's", "Python's bound, chunks/s")
HAND_HEADER: Final = ("streams", "tokens/s", "us a step for the sender")
DIRTY_HEADER: Final = (
    *("chunks from", "1 stream, /s", "8 streams, /s", "first chunk, ms"),
    *("8 paced: at once", "last one's first chunk, ms"),
)


class Run(NamedTuple):
    """One run of the service: chunks/s, and seconds of processor time for each."""

    rate: float
    cpu: float


def step_seconds(model: Model, streams: int, steps: int = 200) -> float:
    """Processor time that llama.cpp takes for a token when so many streams decode, and nothing else is done."""
    params = ContextParams(
        n_ctx=512 * streams,
        n_seq_max=streams,
        n_batch=512,
        n_threads=1,
        n_threads_batch=1,
        kv_unified=False,
        flash_attention=FlashAttention.OFF,
    )
    with Context(model, params) as context:
        batch = Batch(streams)
        begin = time.thread_time()
        for position in range(steps):
            batch.clear()
            for sequence in range(streams):
                batch.add(free_model.LETTER, position, sequence, output=True)
            context.step(batch, range(streams), [None] * streams)
        return (time.thread_time() - begin) / (steps * streams)


def feed(server: ServerProcess, streams: int, tokens: int) -> Run:
    """One run of our server: so many streams at once, of so many tokens each."""
    content = {
        "messages": [{"role": "user", "content": "a"}],
        "stream": True,
        "temperature": 0,
        "max_tokens": tokens,
        "ignore_eos": True,
        "logit_bias": {str(free_model.LETTER): 100},
    }
    body = json.dumps(content).encode()
    before = server.cpu_seconds()
    begin = time.perf_counter()
    done = run_streams(server.port, "/v1/chat/completions", streams, body)
    seconds = time.perf_counter() - begin
    chunks = sum(stream.chunks for stream in done)
    if not all(stream.complete for stream in done):
        raise RuntimeError(f"{sum(not stream.complete for stream in done)} streams did not end as they should")
    return Run(chunks / seconds, (server.cpu_seconds() - before) / chunks)


def service(options: argparse.Namespace) -> tuple[dict[int, list[Run]], dict[int, float]]:
    """Our server at each number of streams, in turns, and llama.cpp's processor time a token at each."""
    found: dict[int, list[Run]] = {streams: [] for streams in options.streams}
    with tempfile.TemporaryDirectory() as folder:
        path = free_model.write(Path(folder, "free.gguf"))
        # Explicit, so that `step_seconds` does the same; nothing is left to calibration.
        variables = {
            "EMBEDDING_MODEL": "none",
            "LOG_LEVEL": "error",
            "MODEL_CALIBRATE": "off",
            "MODEL_FLASH_ATTENTION": "off",
            "MODEL_KV_LAYOUT": "streams",
        }
        common = Common(str(path), 1, max(options.streams), options.tokens + 256)
        with ours(common, variables).start() as server, progress(options.rounds * len(found), "service", "run") as bar:
            server.wait_ready()
            feed(server, 1, 64)
            for number in range(options.rounds):
                for streams in list(found) if number % 2 == 0 else list(found)[::-1]:
                    found[streams].append(feed(server, streams, options.tokens))
                    bar.update()
        with Model(path) as model:
            return found, {streams: step_seconds(model, streams) for streams in found}


def prototype() -> ServerProcess:
    """Gunicorn with the prototype: one HTTP process, and one behind it."""
    port = free_port()
    command = [
        *(sys.executable, "-m", "gunicorn", "bench.http_feed_app:application", "--bind", f"127.0.0.1:{port}"),
        *("--threads", "16", "--log-level", "critical", "--no-control-socket"),
        *("--dirty-app", "bench.http_feed_app:Chunks", "--dirty-workers", "1", "--dirty-threads", "16"),
    ]
    return ServerProcess(command, port, {"PYTHONPATH": str(_ROOT)}, ready="/pid")


def dirty(options: argparse.Namespace) -> tuple[list[list[Any]], dict[str, float | bool | None]]:
    """Both ways in turns: at full speed, and eight streams at a model's pace; then what a kill does."""
    cases = ("here", "dirty")
    alone: dict[str, list[float]] = {case: [] for case in cases}
    eight: dict[str, list[float]] = {case: [] for case in cases}
    first: dict[str, list[float]] = {case: [] for case in cases}
    paced: dict[str, list[list[Stream]]] = {case: [] for case in cases}
    with prototype() as server, progress(2 * options.rounds, "dirty", "run") as bar:
        server.wait_ready()
        for number in range(options.rounds):
            for case in cases if number % 2 == 0 else cases[::-1]:
                alone[case].append(_rate(run_streams(server.port, f"/{case}/{options.tokens}/0", 1)))
                eight[case].append(_rate(run_streams(server.port, f"/{case}/{options.tokens}/0", 8)))
                paced[case].append(run_streams(server.port, f"/{case}/10/{PACE}", 8))
                first[case] += [run_streams(server.port, f"/{case}/1/0", 1)[0].first_seconds for _ in range(20)]
                bar.update()
        kill = killed(server)
    rows = [
        [
            case,
            statistics.median(alone[case]),
            statistics.median(eight[case]),
            1e3 * statistics.median(first[case]),
            max(_together(run) for run in paced[case]),
            1e3 * statistics.median(max(stream.first_seconds for stream in run) for run in paced[case]),
        ]
        for case in cases
    ]
    return rows, kill


def _rate(run: list[Stream]) -> float:
    seconds = max(stream.last for stream in run) - min(stream.started for stream in run)
    return sum(stream.chunks for stream in run) / seconds


def _together(run: list[Stream]) -> int:
    """How many streams had begun, at most, when one of them was not over."""
    return max(sum(other.first <= stream.first <= other.last for other in run) for stream in run)


def killed(server: ServerProcess) -> dict[str, float | bool | None]:
    """Kill the process behind in the middle of a stream: how that ends, and when the next one is answered.

    Seconds after the kill; None for what did not happen in 20 seconds.
    """
    behind = int(get(server.port, "/pid"))
    moment: list[float] = []

    def strike() -> None:
        os.kill(behind, signal.SIGKILL)
        moment.append(time.perf_counter())

    (stream,) = run_streams(server.port, "/dirty/1000000/0", 1, at_chunk=(100, strike), patience=20.0)
    again = None
    while again is None and time.perf_counter() < stream.ended + 20:
        with suppress(OSError):
            (following,) = run_streams(server.port, "/dirty/10/0", 1, patience=5.0)
            again = time.perf_counter() - moment[0] if following.complete else None
        time.sleep(0.05)
    told = stream.ended - moment[0] if math.isfinite(stream.ended) else None
    return {"told": told, "complete": stream.complete, "again": again}


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.http_feed", description=__doc__)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8, 64], help="streams at once (1 8 64)")
    parser.add_argument("--tokens", type=int, default=400, help="tokens of each stream (%(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each case (%(default)s)")
    parser.add_argument("--json", metavar="FILE", help="write the results there")
    parsed = parser.parse_args(arguments)
    if not all(0 < streams <= 128 for streams in parsed.streams):
        fail("--streams takes numbers from 1 to 128")
    if parsed.rounds < 1 or not 1 <= parsed.tokens <= free_model.CONTEXT - 256:
        fail(f"--rounds must be at least 1, --tokens from 1 to {free_model.CONTEXT - 256}")
    return parsed


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write."""
    options = parse_arguments(arguments)
    end_cleanly()
    fed, computing = service(options)
    hand = [hand_over(streams) for streams in options.streams]
    dirty_rows, kill = dirty(options)
    print(machine_line(machine()))
    print("\nthe service, its model for nothing")
    rows: list[list[object]] = []
    for streams, runs in fed.items():
        cpu, alone = statistics.median(run.cpu for run in runs), computing[streams]
        rate = statistics.median(run.rate for run in runs)
        rows.append([str(streams), rate, 1e6 * cpu, 1e6 * alone, 1 / max(cpu - alone, 1e-6)])
    print(table(HEADER, rows))
    print("\none message a step to a second process")
    print(table(HAND_HEADER, [[str(streams), *found] for streams, found in zip(options.streams, hand, strict=True)]))
    print("\ngunicorn's dirty applications; /dirty beside the same from the process that writes")
    print(table(DIRTY_HEADER, dirty_rows))
    print(
        f"kill -9 of the process behind: the stream {'ended' if kill['told'] else 'did not end'}"
        f" after {_shown(kill['told'])}, {'as if complete' if kill['complete'] else 'without its end mark'};"
        f" the next one was answered after {_shown(kill['again'])}"
    )
    if options.json:
        results = {"service": rows, "hand_over": hand, "dirty": dirty_rows, "kill": kill}
        write_json(options.json, "bench.http_feed", {**vars(options), "json": None}, results)
    return 0


def _shown(seconds: float | bool | None) -> str:
    return "20 s" if seconds is None else f"{seconds:.2f} s"


if __name__ == "__main__":
    sys.exit(main())
