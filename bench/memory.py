"""Resident memory of the serving process against what it must hold: model file, KV cache and 200 MB.

Starts our server, lets all its sequences run at once, and reads the memory of its processes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from bench import servers
from bench.client import Endpoint
from bench.http import body, load
from bench.processes import Memory, ServerFailedError
from bench.report import end_cleanly, fail, machine, machine_line, table, write_json
from bench.servers import Common
from bench.summary import summarize
from llama_native import ContextParams, LlamaError, Model, available_cpus, kv_cache_bytes

ALLOWANCE = 200_000_000


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.memory", description=__doc__)
    parser.add_argument("--model", default="model/model.gguf", help="GGUF file (%(default)s)")
    parser.add_argument("--threads", type=int, default=available_cpus(), help="compute threads (all cores)")
    parser.add_argument("--slots", type=int, default=8, help="sequences (%(default)s)")
    parser.add_argument("--slot-context", type=int, default=2048, help="context tokens of a sequence (%(default)s)")
    parser.add_argument("--requests", type=int, default=32, help="requests before measuring (%(default)s)")
    parser.add_argument("--json", metavar="FILE", help="write the results there")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    options = parser.parse_args(arguments)
    if min(options.threads, options.slots, options.slot_context, options.requests) < 1:
        parser.error("all numbers must be at least 1")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure after the start and after the load; exit code 1 when the bar is missed or a request failed."""
    end_cleanly()
    options = parse_arguments(arguments)
    common = Common(options.model, options.threads, options.slots, options.slot_context)
    peer = servers.ours(common)
    try:
        file_bytes = Path(options.model).stat().st_size
        with Model(options.model) as model:
            params = ContextParams(n_ctx=options.slots * options.slot_context, n_seq_max=options.slots)
            kv_bytes = kv_cache_bytes(model, params)
        with peer.start() as server:
            server.wait_ready()
            idle = server.memory()
            endpoint = Endpoint(server.url, body(peer.model_name, 64))
            summary = summarize(load(endpoint, "unique", options.slots, options.requests, "memory"))
            loaded = server.memory()
    except (OSError, LlamaError, ServerFailedError) as error:
        fail(str(error))
    limit = file_bytes + kv_bytes + ALLOWANCE
    print(machine_line(machine()))
    rows = [_row("after start", idle, limit), _row(f"after {summary.requests} requests", loaded, limit)]
    header = ("", "serving process MB", "all processes MB (PSS)", "limit MB", "used / limit", "")
    print(table(header, rows, options.markdown))
    print(f"limit: model file {file_bytes / 1e6:.0f} MB + KV cache {kv_bytes / 1e6:.0f} MB + {ALLOWANCE / 1e6:.0f} MB")
    if options.json:
        results = {
            "idle": {"rss": idle.largest_rss, "pss": idle.total_pss},
            "loaded": {"rss": loaded.largest_rss, "pss": loaded.total_pss},
            "file_bytes": file_bytes,
            "kv_bytes": kv_bytes,
            "limit": limit,
            "errors": summary.errors,
        }
        write_json(options.json, "bench.memory", vars(options), results)
    return 0 if loaded.largest_rss <= limit and not summary.errors else 1


def _row(when: str, memory: Memory, limit: int) -> list[object]:
    used = memory.largest_rss / limit
    return [when, memory.largest_rss / 1e6, memory.total_pss / 1e6, limit / 1e6, used, "pass" if used <= 1 else "FAIL"]


if __name__ == "__main__":
    sys.exit(main())
