"""The long runs for a few seconds each, and that what they look for is found where it is. No speed is judged."""

from __future__ import annotations

import asyncio
import json
import math
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from bench.processes import ServerProcess
from bench.soak.accounts import Accounts, Seen, disagreements
from bench.soak.asks import Ask, coded_stream, judge, new_code
from bench.soak.exchange import Exchange, Leave, exchange
from bench.soak.mixed import Tally
from bench.soak.overload import Tally as OverloadTally
from bench.soak.samples import Sample
from bench.soak.verdicts import missed, of_overload, of_scrapes, of_soak


def run(root: Path, target: Path, *arguments: str) -> dict[str, Any]:
    """`python -m bench.soak` with a small server; a bar may be missed here, so the exit code may be 1."""
    small = ["--threads", "2", "--slots", "2", "--slot-context", "1024", "--json", str(target)]
    done = subprocess.run(
        [sys.executable, "-m", "bench.soak", *arguments, *small, "--set", "MODEL_CALIBRATE=off"],
        cwd=root, capture_output=True, text=True, timeout=250, check=False,
    )  # fmt: skip
    assert done.returncode in (0, 1), done.stderr
    found: dict[str, Any] = json.loads(target.read_text())["results"]
    assert ("FAIL" in done.stdout) is (done.returncode == 1)
    assert found["disagreements"] == [], done.stderr
    return found


def test_load(root: Path, tmp_path: Path) -> None:
    found = run(
        root, tmp_path / "load.json", "load", "--clients", "12", "--seconds", "3", "--few", "2", "--few-seconds", "2",
        "--set", "QUEUE_LIMIT=1",
    )  # fmt: skip
    for tally in (found["few"], found["many"]):
        assert (tally["wrong"], tally["hung"]) == ([], [])
        assert tally["answered"] >= tally["clients"] // 4
    assert found["few"]["refusals"] == []
    assert found["scrapes"] and None not in found["scrapes"]  # None: one without an answer
    many = found["many"]
    assert (
        len(many["refusals"]) == len(many["retry_after"]) == len(many["connects"]) == len(found["logged_refusals"]) > 0
    )
    assert min(many["refusals"] + found["logged_refusals"]) > 0
    assert many["lateness"]


def test_soak(root: Path, tmp_path: Path) -> None:
    page = tmp_path / "soak.html"
    found = run(
        root, tmp_path / "soak.json", "soak", "--clients", "6", "--seconds", "5", "--every", "0.5", "--html", str(page)
    )  # fmt: skip
    assert (found["wrong"], found["hung"]) == ([], [])
    assert sum(found["outcomes"].values()) == sum(found["kinds"].values()) >= 6
    assert set(found["outcomes"]) <= {"answered", "refused", "late", "left"}
    assert all(it["rss"] > it["anonymous"] > 0 and it["threads"] > it["processes"] >= 2 for it in found["samples"])
    assert "Resident memory" in page.read_text()


def ask(server: ServerProcess, wanted: Ask) -> Exchange:
    return asyncio.run(exchange(("127.0.0.1", server.port), wanted.request, 60, wanted.leave))


def test_an_answer_that_belongs_to_another_is_wrong(server: ServerProcess) -> None:
    address, random = ("127.0.0.1", server.port), Random(1)
    mine, other = (coded_stream(address, "Say your code.", new_code(random)) for _ in range(2))
    found = ask(server, mine)
    assert judge(mine, found).kind == "answered"
    assert "X-Request-Id" in judge(other, found).reason
    assert "instead of" in judge(replace(other, named=False), found).reason
    sent = b"".join(data for _, data in found.pieces)  # the end may come in one piece with it or apart
    cut = replace(found, pieces=[(found.pieces[0][0], sent[: sent.index(b"data: [DONE]")])])
    assert "[DONE]" in judge(mine, cut).reason
    assert judge(mine, replace(found, hung=True)).kind == "hung"


def test_a_client_that_leaves(server: ServerProcess) -> None:
    stream = coded_stream(("127.0.0.1", server.port), "Say your code.", "c0de")
    for leave in (Leave(0.5, 0.0, True), Leave(1.0, 0.0, False)):
        assert judge(stream, ask(server, replace(stream, leave=leave))).kind == "left"


def test_counts_that_disagree() -> None:
    totals = {"finished": 5, "cancelled": 1, "failed": 0, "generated_tokens": 50}
    nothing = Accounts(dict.fromkeys(totals, 0), Counter(), 0.0)
    counted = Accounts(totals, Counter({"200": 5, "499": 1}), 50.0)
    seen = Seen(Counter({"200": 5}), generations=5, tokens=50, left=1, open_generations=1)
    assert disagreements(nothing, counted, seen) == []
    lost = disagreements(nothing, counted, replace(seen, statuses=Counter({"200": 7}), generations=7))
    assert [line.split(":")[0] for line in lost] == ["status 200", "requests", "generations finished"]


def test_scrapes_that_are_late_or_not_answered_are_seen() -> None:
    assert not missed(list(of_scrapes([0.01] * 99 + [0.2])))
    for late in ([0.2, 0.2], [math.inf]):
        assert missed(list(of_scrapes([0.01] * 98 + late)))
    assert missed(list(of_scrapes([])))


def overloaded(*refusals: float) -> OverloadTally:
    return OverloadTally(200, 60.0, ttft=[0.2], refusals=list(refusals), retry_after=[1.0 for _ in refusals])


@pytest.mark.parametrize(("refusals", "failed"), [((0.02, 0.03), None), ((0.02, 0.3), "p95"), ((), "requests refused")])
def test_refusals_that_are_late_or_missing_are_seen(refusals: tuple[float, ...], failed: str | None) -> None:
    found = [it for it in of_overload(overloaded(), overloaded(*refusals), [0.01], []) if it.met is False]
    assert bool(found) is (failed is not None)
    assert failed is None or any(failed in it.figure for it in found)


def test_refusals_are_judged_at_p95_and_told_beyond_it() -> None:
    late = overloaded(*([0.02] * 97), 0.3, 0.3, 0.3)
    found = {it.figure: it for it in of_overload(overloaded(), late, [0.004, 0.006], [])}
    assert found["refused after ms, p95"].met is True
    assert found["refused after ms, p99"].value == pytest.approx(300)
    assert found["refused after ms, p99"].met is None
    assert found["refused within 100 ms"].value == "97 of 100"
    assert found["  the server's own part, ms, p50 / p95 / p99"].value == "5.0 / 5.9 / 6.0"


@pytest.mark.parametrize("figure", ["rss", "descriptors", "threads"])
def test_what_grows_is_seen(figure: str) -> None:
    flat = [Sample(float(second), 1000, 500, 50, 40, 3, 2, 0) for second in range(90)]
    grown = [replace(it, **{figure: round(getattr(it, figure) * (1 + it.seconds / 600))}) for it in flat]
    assert not missed(list(of_soak(Tally(90.0, samples=flat), [])))
    (missed_one,) = (it for it in of_soak(Tally(90.0, samples=grown), []) if it.met is False)
    assert figure[:3] in missed_one.figure or figure == "rss"
