"""`bench.instrumentation`: its bars, its scraper against a real HTTP server, and the command end to end."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from bench.engine_cost import engine_cost
from bench.instrumentation import judge
from bench.ports import free_port
from bench.watchers import Scraper, scrape
from engine import Counters
from llama_native import Model

FAST = [0.01] * 98


@pytest.mark.parametrize(
    ("rates", "engine", "scrapes", "met"),
    [
        ([(98.1, 100.0)] * 3, 0.0099, FAST, [True, True, True]),
        ([(97.9, 100.0)] * 3, 0.0, FAST, [False, True, True]),
        ([(98.0, 100.0), (50.0, 100.0), (101.0, 100.0)], 0.0, FAST, [False, True, True]),
        ([(99.0, 100.0), (50.0, 100.0), (101.0, 100.0)], 0.01, FAST, [True, False, True]),
        ([(1.0, 1.0)], 0.0, [*FAST, 0.2, 0.01], [True, True, True]),
        ([(1.0, 1.0)], 0.0, [*FAST, 0.2, 0.2], [True, True, False]),
        ([(1.0, 1.0)], math.nan, [*FAST, math.inf, math.inf], [True, False, False]),
        ([(1.0, 1.0)], 0.0, [], [True, True, False]),
    ],
)
def test_bars(rates: list[tuple[float, float]], engine: float, scrapes: list[float], met: list[bool]) -> None:
    """The median round decides on the rate; of a hundred scrapes, one may be slow or fail."""
    assert [verdict.met for verdict in judge(rates, engine, scrapes)] == met


def test_the_engines_recording_is_timed_where_it_is_called(chat_model_path: Path) -> None:
    """An engine that records more slowly is seen to, and afterwards nothing is timed any more."""
    add_step = Counters.add_step

    def slow(*arguments: Any) -> None:
        time.sleep(0.01)
        add_step(*arguments)

    with Model(chat_model_path) as model, pytest.MonkeyPatch.context() as patched:
        found = engine_cost(model, threads=2, clients=2, max_tokens=6)
        patched.setattr(Counters, "add_step", slow)
        slower = engine_cost(model, threads=2, clients=2, max_tokens=6)
    assert Counters.add_step is add_step
    assert found.tokens == slower.tokens == 12
    assert 6 <= found.steps <= 14
    assert slower.recording > 0.01 * slower.steps
    assert 0 < found.share < slower.share <= 1
    assert found.answering > 0


class _Metrics(BaseHTTPRequestHandler):
    """Answers /metrics and notes when; nothing else is known."""

    came: list[float] = []  # noqa: RUF012 (of one test)

    def do_GET(self) -> None:
        self.came.append(time.perf_counter())
        self.send_response(200 if self.path == "/metrics" else 404)
        self.end_headers()
        self.wfile.write(b"up 1\n")

    def log_message(self, *_: object) -> None: ...


def test_the_scraper_scrapes_only_while_it_watches() -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Metrics) as served:
        threading.Thread(target=served.serve_forever).start()
        try:
            with Scraper(served.server_address[1], 0.02) as scraper:
                for runs in (1, 2):
                    with scraper.watching():
                        deadline = time.monotonic() + 60
                        while len(_Metrics.came) < 3 * runs and time.monotonic() < deadline:
                            time.sleep(0.01)
                    seen = len(_Metrics.came)
                    time.sleep(0.1)
                    assert len(_Metrics.came) == seen >= 3 * runs
                assert len(scraper.seconds) == seen
                assert all(0 < seconds < math.inf for seconds in scraper.seconds)
        finally:
            served.shutdown()


def test_a_scrape_that_fails_took_forever() -> None:
    assert scrape(free_port())[0] == math.inf


def test_the_command(root: Path, chat_model_path: Path, tmp_path: Path) -> None:
    """Tiny, so what it measures is noise: the exit code must be the printed verdicts', whatever they are."""
    path = tmp_path / "instrumentation.json"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "bench.instrumentation", "--model", str(chat_model_path), "--rounds", "2"),
            *("--clients", "2", "--requests", "2", "--max-tokens", "12", "--scrape-seconds", "0.02"),
            *("--json", str(path)),
        ],
        cwd=root, env=os.environ | {"MODEL_CALIBRATE": "off"}, capture_output=True, text=True, timeout=250, check=False,
    )  # fmt: skip
    assert done.returncode in (0, 1), done.stderr
    assert done.returncode == ("FAIL" in done.stdout)
    results = json.loads(path.read_text())["results"]
    assert len(results["rounds"]) == len(results["processor"]) == 2
    assert done.returncode == (not all(results["met"]))
    assert results["engine_share"] == results["engine"]["recording"] / results["engine"]["busy"]
    assert results["scrapes"] and None not in results["scrapes"]
    assert f"of {len(results['scrapes'])} scrapes" in done.stdout
