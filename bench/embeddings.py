"""What embeddings cost the chats that run beside them: gaps of running streams with and without an embedding load.

Starts our server. Rounds take turns: chats alone, chats while one client asks for the embeddings of many texts again
and again, and that client alone.
"""

from __future__ import annotations

import argparse
import http.client
import json
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any
from urllib.parse import urlsplit

from bench import servers, workloads
from bench.client import Endpoint
from bench.http import body, load
from bench.processes import ServerFailedError
from bench.report import end_cleanly, fail, machine, machine_line, table, write_json
from bench.servers import Common
from bench.summary import Summary, summarize
from llama_native import available_cpus

HEADER = ("", "chat tok/s", "ITL p50 ms", "ITL p95 ms", "longest gap ms", "embeddings/s", "embedding tok/s")


@dataclass(slots=True)
class EmbeddingLoad:
    """A thread that posts the same inputs to /v1/embeddings until it is stopped."""

    url: str
    inputs: list[str]
    vectors: int = 0
    tokens: int = 0
    seconds: float = 0.0
    error: str = ""
    _stop: threading.Event = field(default_factory=threading.Event)

    def run(self, seconds: float = float("inf")) -> None:
        """Post until `seconds` have passed or `stop` was called; a request under way is waited for and counted."""
        parts = urlsplit(self.url)
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=120)
        data = json.dumps({"input": self.inputs, "encoding_format": "base64"})
        begin = time.perf_counter()
        while not self._stop.is_set() and time.perf_counter() - begin < seconds:
            try:
                connection.request("POST", "/v1/embeddings", data, {"Content-Type": "application/json"})
                response = connection.getresponse()
                answer = response.read()
            except OSError as error:
                self.error = str(error)
                break
            if response.status != 200:
                self.error = answer.decode("utf-8", "replace")[:300]
                break
            self.vectors += len(self.inputs)
            self.tokens += json.loads(answer)["usage"]["total_tokens"]
        self.seconds += time.perf_counter() - begin
        connection.close()

    def stop(self) -> None:
        """Let the request under way be the last."""
        self._stop.set()

    @property
    def rates(self) -> tuple[float, float]:
        """Vectors and tokens in a second."""
        return self.vectors / self.seconds, self.tokens / self.seconds


def chats(url: str, clients: int, requests: int, seed: str) -> Summary:
    """One round of chats."""
    return summarize(load(Endpoint(url, body("rusty_llm", 64)), "chat", clients, requests, seed))


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.embeddings", description=__doc__)
    parser.add_argument("--model", default="model/model.gguf", help="GGUF file (%(default)s)")
    parser.add_argument("--threads", type=int, default=available_cpus(), help="compute threads (all cores)")
    parser.add_argument("--clients", type=int, default=4, help="chats at once (%(default)s)")
    parser.add_argument("--requests", type=int, default=12, help="chats a round (%(default)s)")
    parser.add_argument("--inputs", type=int, default=32, help="texts in an embedding request (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each kind (%(default)s)")
    parser.add_argument("--json", metavar="FILE", help="write the results there")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    options = parser.parse_args(arguments)
    if min(options.threads, options.clients, options.requests, options.inputs, options.rounds) < 1:
        parser.error("all numbers must be at least 1")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and report medians over the rounds; exit code 1 when a request failed."""
    end_cleanly()
    options = parse_arguments(arguments)
    inputs = [talk.turns[0] for talk in workloads.build("unique", options.inputs, "embeddings")]
    peer = servers.ours(Common(options.model, options.threads, options.clients, 2048))
    results: list[dict[str, Any]] = []
    try:
        with peer.start() as server:
            server.wait_ready()
            for number in range(options.rounds):
                alone = chats(server.url, options.clients, options.requests, f"alone {number}")
                background = EmbeddingLoad(server.url, inputs)
                thread = threading.Thread(target=background.run)
                thread.start()
                beside = chats(server.url, options.clients, options.requests, f"beside {number}")
                background.stop()
                thread.join()
                only = EmbeddingLoad(server.url, inputs)
                only.run(seconds=5)
                results += [
                    {"kind": "chats alone", **alone.as_dict()},
                    {"kind": "chats beside embeddings", **beside.as_dict(), **_rates(background)},
                    {"kind": "embeddings alone", **_rates(only)},
                ]
    except (OSError, ServerFailedError) as error:
        fail(str(error))
    print(machine_line(machine()))
    kinds = dict.fromkeys(result["kind"] for result in results)
    print(table(HEADER, [_row(kind, [r for r in results if r["kind"] == kind]) for kind in kinds], options.markdown))
    errors = {str(e) for r in results for e in (*r.get("first_errors", ()), r.get("embedding_error")) if e}
    for message in sorted(errors):
        print(f"error: {message}")
    if options.json:
        write_json(options.json, "bench.embeddings", vars(options), results)
    return 1 if errors else 0


def _rates(load: EmbeddingLoad) -> dict[str, Any]:
    vectors, tokens = load.rates
    return {"vector_rate": vectors, "embedding_token_rate": tokens, "embedding_error": load.error}


def _row(kind: str, results: Sequence[dict[str, Any]]) -> list[object]:
    def middle(name: str, scale: float = 1.0) -> float | None:
        return median(result[name] for result in results) * scale if name in results[0] else None

    times = [middle(name, 1e3) for name in ("itl_p50", "itl_p95", "itl_max")]
    return [kind, middle("output_rate"), *times, middle("vector_rate"), middle("embedding_token_rate")]


if __name__ == "__main__":
    sys.exit(main())
