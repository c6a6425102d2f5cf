"""Long runs against our own server, freshly started, with a verdict.

load: far more clients than the server has sequences. No answer is wrong, no client hangs, the surplus is refused at
once, and who is accepted does not wait much longer than with a few clients. Scrapes are answered in time.
soak: everything at once, with vanishing clients and bad input. Memory, descriptors and threads stay where they are.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench import servers
from bench.ports import free_port
from bench.processes import ServerFailedError, ServerProcess
from bench.report import end_cleanly, fail, machine, machine_line, say, table, write_json
from bench.servers import Common
from bench.soak import mixed, verdicts
from bench.soak.accounts import NeverAtRestError, Seen, at_rest, disagreements, logged_seconds, wait_indexed
from bench.soak.overload import Overload
from bench.soak.scrapes import scraping
from bench.soak.verdicts import Verdict
from llama_native import available_cpus

_DOCUMENTS = Path(__file__).resolve().parents[2] / "data"
#: Examples of what went wrong that are printed; JSON has them all.
_EXAMPLES = 5


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.soak", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    runs = parser.add_subparsers(dest="run", required=True)
    load = runs.add_parser("load", help="far too many clients")
    load.add_argument("--clients", type=int, default=200, help="clients at once (%(default)s)")
    load.add_argument("--seconds", type=float, default=600.0, help="how long (%(default)s)")
    load.add_argument("--few", type=int, default=8, help="clients of the run to compare with (%(default)s)")
    load.add_argument("--few-seconds", type=float, default=60.0, help="how long that is (%(default)s)")
    soak = runs.add_parser("soak", help="everything at once, for long")
    soak.add_argument("--clients", type=int, default=12, help="clients at once (%(default)s)")
    soak.add_argument("--seconds", type=float, default=1800.0, help="how long (%(default)s)")
    soak.add_argument("--every", type=float, default=5.0, help="seconds between samples of /proc (%(default)s)")
    soak.add_argument("--html", metavar="FILE", help="write the curves there")
    soak.add_argument("--embedding-model", default="model/embed.gguf", help="GGUF file (%(default)s)")
    for each in (load, soak):
        each.add_argument("--model", default="model/model.gguf", help="GGUF file (%(default)s)")
        each.add_argument("--threads", type=int, default=available_cpus(), help="compute threads (all cores)")
        each.add_argument("--slots", type=int, default=8, help="sequences of the server (%(default)s)")
        each.add_argument("--slot-context", type=int, default=2048, help="context tokens of each (%(default)s)")
        each.add_argument(
            "--set", action="append", default=[], type=servers.setting, metavar="NAME=VALUE", help="server variable"
        )
        each.add_argument("--patience", type=float, default=180.0, help="seconds until a request hangs (%(default)s)")
        each.add_argument("--seed", default="0", help="seed of texts and of chance (%(default)s)")
        each.add_argument("--json", metavar="FILE", help="write the results there")
        each.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    options = parser.parse_args(arguments)
    numbers = (options.clients, options.threads, options.slots, options.slot_context)
    times = (options.seconds, options.patience, getattr(options, "few_seconds", 1), getattr(options, "every", 1))
    if min(*numbers, getattr(options, "few", 1)) < 1 or min(times) <= 0:
        parser.error("numbers must be at least 1, times above 0")
    return options


def _load(server: ServerProcess, metrics_port: int, options: argparse.Namespace) -> tuple[list[Verdict], Any]:
    overload = Overload(("127.0.0.1", server.port), options.seed, options.patience)
    alone = overload.ask_alone()
    before = at_rest(server.port, metrics_port)
    few = overload.run(options.few, options.few_seconds, alone)
    with scraping(metrics_port) as scrapes:
        many = overload.run(options.clients, options.seconds, alone)
    after = at_rest(server.port, metrics_port)
    seen = Seen(
        few.seen.statuses + many.seen.statuses,
        few.seen.generations + many.seen.generations,
        few.seen.tokens + many.seen.tokens,
        open_generations=few.seen.open_generations + many.seen.open_generations,
    )
    wrong = disagreements(before, after, seen)
    again = overload.ask_alone()
    changed = [question for question in alone if again[question] != alone[question]]
    many.wrong.extend(f"alone again: {again[question]!r} instead of {alone[question]!r}" for question in changed)
    _complain([*few.wrong, *many.wrong], [*few.hung, *many.hung], wrong)
    logged = logged_seconds(server.log, many.refused)
    results = {"few": few.as_dict(), "many": many.as_dict(), "logged_refusals": logged, "scrapes": scrapes}
    found = [*verdicts.of_overload(few, many, logged, wrong), *verdicts.of_scrapes(scrapes)]
    return found, {**results, "disagreements": wrong}


def _soak(server: ServerProcess, metrics_port: int, options: argparse.Namespace) -> tuple[list[Verdict], Any]:
    wait_indexed(server.port)
    before = at_rest(server.port, metrics_port)
    tally = mixed.run(
        server, metrics_port, options.clients, options.seconds, options.every, options.seed, options.patience
    )
    wrong = disagreements(before, at_rest(server.port, metrics_port), tally.seen)
    _complain(tally.wrong, tally.hung, wrong)
    found = list(verdicts.of_soak(tally, wrong))
    if options.html:
        from bench.soak.picture import render

        subtitle = f"{options.clients} clients, {options.seconds / 60:g} minutes on {machine_line(machine())}"
        Path(options.html).write_text(render(tally.samples, tally.duration, found, subtitle), "utf-8")
    return found, {**tally.as_dict(), "disagreements": wrong}


def _complain(*lists: Sequence[str]) -> None:
    """Say what went wrong, a few examples of each."""
    for found in lists:
        for line, count in Counter(found).most_common(_EXAMPLES):
            say(f"{count} x {line}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one of the two; exit code 1 when a bar is missed."""
    end_cleanly()
    options = parse_arguments(arguments)
    common = Common(options.model, options.threads, options.slots, options.slot_context)
    metrics_port = free_port()
    with tempfile.TemporaryDirectory(prefix="bench-soak-") as folder:
        variables = {"PROMETHEUS_HTTP_ADDRESS": f"127.0.0.1:{metrics_port}", "QUEUE_LIMIT": str(options.slots)}
        if options.run == "load":  # half the sequences: what docs/DEPLOYMENT.md advises where the first token matters
            variables |= {"LOG_FORMAT": "json", "QUEUE_LIMIT": str(max(1, options.slots // 2))}
        if options.run == "soak":
            variables |= {
                "KNOWLEDGE_MODE": "hybrid",
                "DATA_PATH": str(_DOCUMENTS),
                "KNOWLEDGE_URL": f"{folder}/knowledge.db",
                "EMBEDDING_MODEL": options.embedding_model,
            }
        try:
            with servers.ours(common, variables | dict(options.set)).start() as server:
                server.wait_ready()
                run = _load if options.run == "load" else _soak
                found, results = run(server, metrics_port, options)
        except (ServerFailedError, NeverAtRestError, OSError) as error:
            fail(str(error))
    print(machine_line(machine()))
    print(table(("figure", "measured", "bar", ""), [it.row() for it in found], options.markdown))
    if options.json:
        shown = {name: value for name, value in vars(options).items() if name != "json"}
        write_json(options.json, "bench.soak", shown, {"verdicts": [asdict(it) for it in found], **results})
    return 1 if verdicts.missed(found) else 0


if __name__ == "__main__":
    sys.exit(main())
