"""One stream over HTTP beside the native loop: what the whole service costs one client.

The server is told the same threads, flash attention, KV layout and slots as the native loop, and has the same kernels;
the two alternate, each with the other stopped. Rates count from the first token to the last, on both sides.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence

from bench import servers, workloads
from bench.client import Endpoint, LoadGenerator
from bench.http import body
from bench.llama_tools import NativeSettings, ToolFailedError
from bench.processes import ServerFailedError
from bench.rates import Point, measure_apart
from bench.recording import Answer
from bench.report import end_cleanly, fail, machine, machine_line, progress, table, write_json
from bench.servers import Common, Peer
from bench.workloads import Conversation
from llama_native import available_cpus

BAR = 0.97


def stream_rate(answer: Answer) -> float:
    """Tokens per second after the first one. Raises ServerFailedError when the request failed."""
    if answer.error is not None or answer.completion_tokens < 2 or len(answer.token_times) < 2:
        raise ServerFailedError(f"the stream failed: {answer.error or 'fewer than two tokens'}")
    return (answer.completion_tokens - 1) / (answer.token_times[-1] - answer.token_times[0])


def over_http(peer: Peer, options: argparse.Namespace, seed: str) -> Answer:
    """One stream from a fresh, warmed-up server."""
    with peer.start() as server:
        server.wait_ready()
        endpoint = Endpoint(server.url, body(peer.model_name, options.generate))
        LoadGenerator(endpoint, [Conversation(("Say hello.",))], 1).run()
        return LoadGenerator(endpoint, workloads.build(options.workload, 1, seed), 1).run().answers[0]


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.stream", description=__doc__)
    parser.add_argument("--model", default="model/model.gguf", help="GGUF file (%(default)s)")
    parser.add_argument("--threads", type=int, default=available_cpus(), help="compute threads (all cores)")
    parser.add_argument("--slots", type=int, default=8, help="sequences on both sides (%(default)s)")
    parser.add_argument("--slot-context", type=int, default=2048, help="context tokens of a sequence (%(default)s)")
    parser.add_argument("--flash-attention", choices=("on", "off"), default="on", help="on both sides (%(default)s)")
    parser.add_argument("--kv-layout", choices=("unified", "streams"), default="streams", help="both (%(default)s)")
    parser.add_argument("--workload", choices=workloads.NAMES, default="chat", help="the prompt (%(default)s)")
    parser.add_argument("--generate", type=int, default=128, help="tokens of the stream (%(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each side (%(default)s)")
    parser.add_argument("--json", metavar="FILE", help="write the results there")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    options = parser.parse_args(arguments)
    if min(options.threads, options.slots, options.slot_context, options.repeats) < 1 or options.generate < 2:
        parser.error("all numbers must be at least 1, --generate at least 2")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run both sides alternately; exit code 1 when HTTP is below the bar."""
    end_cleanly()
    options = parse_arguments(arguments)
    common = Common(options.model, options.threads, options.slots, options.slot_context)
    variables = {"MODEL_FLASH_ATTENTION": options.flash_attention, "MODEL_KV_LAYOUT": options.kv_layout}
    peer = servers.ours(common, variables)
    settings = NativeSettings(
        options.model,
        options.threads,
        options.flash_attention,
        kv_unified=options.kv_layout == "unified",
        kernels=peer.kernels,
    )
    http_rates: list[float] = []
    native_rates: list[float] = []
    try:
        with progress(options.repeats, "HTTP stream and native loop", "pair") as bar:
            for round_ in range(options.repeats):
                answer = over_http(peer, options, str(round_))
                http_rates.append(stream_rate(answer))
                point = Point(1, answer.prompt_tokens, answer.completion_tokens - 1)
                native_rates.append(measure_apart(settings, point).decode_rate)
                bar.update()
    except (ServerFailedError, ToolFailedError) as error:
        fail(str(error))
    ratio = statistics.median(http_rates) / statistics.median(native_rates)
    print(machine_line(machine()))
    row = [options.workload, statistics.median(http_rates), statistics.median(native_rates), ratio, f">= {BAR}"]
    header = ("one stream, medians", "HTTP tok/s", "native tok/s", "HTTP / native", "bar", "")
    print(table(header, [[*row, "pass" if ratio >= BAR else "FAIL"]], options.markdown))
    if options.json:
        results = {"http": http_rates, "native": native_rates, "ratio": ratio}
        write_json(options.json, "bench.stream", vars(options), results)
    return 0 if ratio >= BAR else 1


if __name__ == "__main__":
    sys.exit(main())
