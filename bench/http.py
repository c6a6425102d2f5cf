"""Load an OpenAI-compatible streaming endpoint and report throughput, TTFT and inter-token latency.

Works on any server with /v1/chat/completions. Every request asks for a fixed number of tokens (temperature 0, fixed
seed, ignore_eos), so that runs differ in time only.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

from bench import workloads
from bench.client import Endpoint, LoadGenerator, Run
from bench.report import fail, machine, machine_line, progress, table, write_json
from bench.summary import Summary, summarize
from bench.workloads import Conversation

HEADER = (
    "workload",
    "clients",
    "requests",
    "errors",
    "tok/s",
    "TTFT p50 ms",
    "TTFT p95 ms",
    "ITL p50 ms",
    "ITL p95 ms",
    "longest gap ms",
    "total p50 s",
    "total p95 s",
    "cached %",
    "client CPU %",
)
DEFAULT_MAX_TOKENS = 64


def body(model: str, max_tokens: int, ignore_eos: bool = True, extra: dict[str, Any] | None = None) -> dict[str, Any]:
    """The request body without messages: greedy, seeded, a fixed length, usage asked for."""
    fixed: dict[str, Any] = {
        "model": model,
        "max_tokens": max_tokens,
        "temperature": 0,
        "seed": 1,
        "stream_options": {"include_usage": True},
    }
    if ignore_eos:
        fixed["ignore_eos"] = True
    return fixed | (extra or {})


def requests_for(workload: str, concurrency: int) -> int:
    """How many requests make a run long enough to trust: 4 a client, at least 8; 8 conversations for `multi-turn`."""
    if workload == "multi-turn":
        return max(8, concurrency) * workloads.TURNS
    return max(8, 4 * concurrency)


def load(
    endpoint: Endpoint,
    workload: str,
    concurrency: int,
    requests: int,
    seed: str,
    *,
    warm: bool = True,
    cold: bool = False,
) -> Run:
    """One run of a workload, with a progress bar, after one request that is not counted.

    That is the first message of one more conversation of the workload, so that `rag` finds its context known from an
    earlier question, as in a service that has run for a while. With `cold` it is a greeting; without `warm` there is
    none.
    """
    turns = workloads.TURNS if workload == "multi-turn" else 1
    spare, *conversations = workloads.build(workload, requests + turns, seed)
    if warm:
        first = Conversation(("Say hello.",) if cold else spare.turns[:1])
        LoadGenerator(endpoint, [first], 1).run()
    total = sum(len(conversation.turns) for conversation in conversations)
    with progress(total, f"{workload}, {concurrency} clients") as bar:
        return LoadGenerator(endpoint, conversations, concurrency, lambda: bar.update()).run()


def row(workload: str, summary: Summary) -> list[object]:
    """A summary as a row under `HEADER`."""
    return [
        workload,
        summary.concurrency,
        summary.requests,
        summary.errors,
        summary.output_rate,
        summary.ttft_p50 * 1e3,
        summary.ttft_p95 * 1e3,
        summary.itl_p50 * 1e3,
        summary.itl_p95 * 1e3,
        summary.itl_max * 1e3,
        summary.total_p50,
        summary.total_p95,
        100 * summary.cached_tokens / summary.prompt_tokens if summary.prompt_tokens else None,
        100 * summary.client_cpu / summary.wall if summary.wall else None,
    ]


def notes(summaries: Sequence[Summary]) -> list[str]:
    """What a reader of the table must know: errors, and where chunks and counted tokens differ."""
    lines = []
    if mismatch := sum(summary.chunk_mismatch for summary in summaries):
        lines.append(
            f"{mismatch} answers have another number of text chunks than tokens (usage); tok/s counts tokens. "
            "With ignore_eos that is no fault: models go on with control tokens, which have no text."
        )
    if uncounted := sum(summary.uncounted for summary in summaries):
        lines.append(f"{uncounted} answers came without usage; their chunks were counted instead.")
    if grounded := sum(summary.grounded for summary in summaries):
        lines.append(
            f"{grounded} prompts became longer by passages from the server's documents; --extra "
            "'{\"knowledge\": false}' keeps these out."
        )
    errors = {error for summary in summaries for error in summary.first_errors}
    lines.extend(f"error: {error}" for error in sorted(errors))
    return lines


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.http", description=__doc__)
    parser.add_argument("--url", required=True, help="root of the server, e.g. http://127.0.0.1:8080")
    parser.add_argument("--model", default="rusty_llm", help="model name sent in each request (default: %(default)s)")
    parser.add_argument(
        "--workload",
        choices=workloads.NAMES,
        nargs="+",
        default=["chat"],
        help="chat: 12 words; unique: 300 words sharing nothing; rag: 450 shared words and a question; "
        "multi-turn: conversations of 4 turns (default: chat)",
    )
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 8, 32], help="clients (default: 1 8 32)")
    parser.add_argument("--requests", type=int, help="requests a run (default: 4 a client, at least 8)")
    parser.add_argument("--max-tokens", type=int, default=DEFAULT_MAX_TOKENS, help="tokens an answer (%(default)s)")
    parser.add_argument("--cold", action="store_true", help="do not let the server see the rag context before the run")
    parser.add_argument("--seed", default="0", help="another seed makes other texts, unknown to the server's cache")
    parser.add_argument("--timeout", type=float, default=120.0, help="seconds without a byte until a request fails")
    parser.add_argument("--api-key", help="sent as a bearer token")
    parser.add_argument("--no-ignore-eos", action="store_true", help="do not send ignore_eos (strict endpoints)")
    parser.add_argument("--extra", type=json.loads, default={}, help="JSON object added to every body")
    parser.add_argument("--json", metavar="FILE", help="write the results there")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    parsed = parser.parse_args(arguments)
    if min(parsed.concurrency) < 1 or parsed.max_tokens < 1 or (parsed.requests or 1) < 1:
        parser.error("--concurrency, --requests and --max-tokens must be at least 1")
    if not isinstance(parsed.extra, dict):
        parser.error("--extra must be a JSON object")
    return parsed


def main(arguments: Sequence[str] | None = None) -> int:
    """Run every workload at every concurrency; exit code 1 when a request failed."""
    options = parse_arguments(arguments)
    headers = (("Authorization", f"Bearer {options.api_key}"),) if options.api_key else ()
    request_body = body(options.model, options.max_tokens, not options.no_ignore_eos, options.extra)
    try:
        endpoint = Endpoint(options.url, request_body, headers, options.timeout)
    except ValueError as error:
        fail(str(error))
    summaries: list[tuple[str, Summary]] = []
    for workload in options.workload:
        for concurrency in options.concurrency:
            requests = options.requests or requests_for(workload, concurrency)
            seed = f"{options.seed}/{concurrency}"
            summaries.append(
                (workload, summarize(load(endpoint, workload, concurrency, requests, seed, cold=options.cold)))
            )
    print(f"{options.url}, {options.max_tokens} tokens an answer; client on {machine_line(machine())}")
    print(table(HEADER, [row(*item) for item in summaries], options.markdown))
    for line in notes([summary for _, summary in summaries]):
        print(line)
    if options.json:
        results = [{"workload": workload, **summary.as_dict()} for workload, summary in summaries]
        shown = {name: value for name, value in vars(options).items() if name not in ("api_key", "json")}
        write_json(options.json, "bench.http", shown, results)
    return 1 if any(summary.errors for _, summary in summaries) else 0


if __name__ == "__main__":
    sys.exit(main())
