"""`python -m bench.characterize` end to end: tiny plans really run in-process and against a real server."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest

from bench.characterize import document as documents
from bench.characterize.document import Document
from bench.characterize.units import show
from bench.processes import ServerProcess

TINY = ("--prompts", "32", "64", "--outputs", "4", "8", "--load", "1", "2", "--rounds", "1")
NATIVE = ("--threads", "1", "2", "--batches", "1", "2", "--no-calibrate")


class Result(NamedTuple):
    """What a finished run left."""

    document: Document
    page: str
    output: str


def start(root: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "bench.characterize", *arguments],
        cwd=root,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # A shell that runs the tests in the background lets them ignore Ctrl-C; a user's terminal does not.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def finish(process: subprocess.Popen[str], code: int = 0) -> str:
    output, errors = process.communicate(timeout=200)
    assert process.returncode == code, errors
    assert "Traceback" not in errors
    return output + errors


def result(name: Path, output: str) -> Result:
    return Result(documents.read(name.with_suffix(".json")), name.with_suffix(".html").read_text(), output)


@pytest.fixture(scope="module")
def in_process(root: Path, chat_model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Result:
    name = tmp_path_factory.mktemp("characterize") / "engine"
    return result(name, finish(start(root, "--model", str(chat_model_path), *TINY, *NATIVE, "--output", str(name))))


@pytest.fixture(scope="module")
def interrupted(root: Path, server: ServerProcess, tmp_path_factory: pytest.TempPathFactory) -> tuple[Document, Result]:
    """Against a server: killed in the middle, then the same command again. What the kill left, and the end."""
    name = tmp_path_factory.mktemp("characterize") / "server"
    command = ("--url", server.url, *TINY[:-1], "2", "--output", str(name))
    process = start(root, *command)
    path = name.with_suffix(".json")
    deadline = time.monotonic() + 100
    while not (path.exists() and len(documents.read(path).samples) >= 3):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.02)
    process.kill()
    process.communicate()
    left = documents.read(path)
    return left, result(name, finish(start(root, *command)))


def test_in_process_measures_everything(in_process: Result) -> None:
    document = in_process.document
    assert document.finished
    assert {point.key for point in document.plan.points} >= {
        "prompt/32", "prompt/64", "output/4", "output/8", "load/1", "load/2", "threads/1", "threads/2", "batch/1",
        "batch/2",
    }  # fmt: skip
    assert sorted(sample.point for sample in document.samples) == sorted(point.key for point in document.plan.points)
    assert all(not sample.error for sample in document.samples)
    figures = document.figures
    assert set(figures.curves) - {"energy_output", "energy_load"} == {  # not every host shows its energy
        "ttft_cold", "ttft_cached", "prefill", "decode", "total", "load_rate", "load_ttft", "load_itl", "load_total",
        "threads_decode", "threads_prefill", "batch_decode", "batch_prefill", "bandwidth_read", "bandwidth_copy",
    }  # fmt: skip
    assert figures.knee is not None and figures.roofline is not None
    assert figures.roofline.decode_share > 0
    assert {"prefill", "decode"} <= set(figures.phases[0].seconds)
    for asked in (one for sample in document.samples for load in sample.loads for one in load.asked):
        assert asked.phases and sum(asked.phases.values()) <= asked.total * (1 + 1e-9), (
            "a phase began before its request"
        )
    assert document.engine["calibration"] == "off"
    assert document.setup_seconds > 0
    assert {"processor", "llama.cpp", "model file", "engine's threads"} <= set(document.identity)
    assert "plan: about" in in_process.output


def test_a_prompt_sent_again_is_found_in_the_cache(in_process: Result) -> None:
    for sample in in_process.document.samples:
        if sample.point.startswith("prompt/"):
            cold, cached = (load.good[0] for load in sample.loads)
            assert cold.cached_tokens == 0
            assert cached.cached_tokens == cached.prompt_tokens - 1


def test_kv_memory_matches_theory(in_process: Result) -> None:
    """30 layers, 3 KV heads of 64 values, keys and values in two bytes each; contexts grow by just that."""
    memory = in_process.document.figures.memory
    assert memory is not None
    assert memory.theory == 2 * 30 * 3 * 64 * 2
    assert memory.measured == pytest.approx(memory.theory, rel=0.05)


def test_a_killed_run_goes_on(interrupted: tuple[Document, Result]) -> None:
    left, (document, _, output) = interrupted
    assert not left.finished
    assert document.finished
    assert document.samples[: len(left.samples)] == left.samples
    assert document.started == left.started and document.plan == left.plan
    done = [(sample.point, sample.round) for sample in document.samples]
    assert len(done) == len(set(done)) == 12
    assert "going on with the plan" in output


def test_a_server_tells_its_phases(interrupted: tuple[Document, Result]) -> None:
    document = interrupted[1].document
    assert {"parse", "template", "tokenize", "queue", "prefill", "decode", "write"} <= set(
        document.figures.phases[0].seconds
    )
    assert "batch_decode" not in document.figures.curves
    assert any("only without --url" in line for line in document.missing)
    assert document.target["model"] == "rusty_llm"
    longest = document.figures.curves["ttft_cold"].points[-1].x
    assert longest == pytest.approx(64, abs=12)


def test_interrupt_keeps_what_there_is(root: Path, server: ServerProcess, tmp_path: Path) -> None:
    name = tmp_path / "cut"
    process = start(root, "--url", server.url, "--prompts", "16", "--outputs", "2", "--load", "1", "--rounds", "400",
                    "--minutes", "600", "--output", str(name))  # fmt: skip
    path = name.with_suffix(".json")
    while not (path.exists() and len(documents.read(path).samples) >= 4):
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    output = finish(process, 130)
    assert "the same command goes on" in output
    assert "Not finished: " in name.with_suffix(".html").read_text()
    assert documents.read(path).figures.curves


def test_another_command_does_not_go_on(root: Path, in_process: Result, tmp_path: Path) -> None:
    name = tmp_path / "taken"
    documents.write(name.with_suffix(".json"), in_process.document)
    output = finish(start(root, "--rounds", "2", "--output", str(name)), 2)
    assert "holds another characterisation; --fresh starts over" in output
    name.with_suffix(".json").write_text('{"command": "bench.http"}')
    output = finish(start(root, "--output", str(name)), 2)
    assert "is not a characterisation" in output


def test_measurements_of_something_else_do_not_go_on(
    root: Path, server: ServerProcess, interrupted: tuple[Document, Result], tmp_path: Path
) -> None:
    left, name = interrupted[0], tmp_path / "other"
    assert left.identity["served model's file"] == "model.gguf"
    left = msgspec.structs.replace(left, identity=left.identity | {"served model's file": "other.gguf"})
    documents.write(name.with_suffix(".json"), left)
    output = finish(start(root, "--url", server.url, *TINY[:-1], "2", "--output", str(name)), 2)
    assert "holds measurements of something else; --fresh starts over" in output
    assert "  served model's file: was other.gguf, is model.gguf" in output
    assert documents.read(name.with_suffix(".json")) == left


def test_a_server_that_is_not_there(root: Path, tmp_path: Path) -> None:
    output = finish(start(root, "--url", "http://127.0.0.1:9", "--output", str(tmp_path / "none")), 2)
    assert "error: GET http://127.0.0.1:9/v1/models failed" in output
    assert not list(tmp_path.iterdir())


class Page(HTMLParser):
    """Everything in a page that could point outside of it, and the tables' cells by chart."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.references: list[str] = []
        self.cells: dict[str, list[str]] = {}
        self._chart = ""
        self._cell = False
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attributes:
            if name.split(":")[-1] in ("href", "src", "srcset", "action", "data", "poster", "background"):
                self.references.append(value or "")
            self.references += re.findall(r"url\(([^)]*)\)", value or "")
            if tag == "figure" and name == "id":
                self._chart = value or ""
        self._cell = tag == "td"

    def handle_endtag(self, _tag: str) -> None:
        self._cell = False

    def handle_data(self, data: str) -> None:
        if self._cell:
            self.cells.setdefault(self._chart, []).append(data)


@pytest.fixture(scope="module")
def compared(root: Path, in_process: Result, interrupted: tuple[Document, Result], tmp_path_factory: Any) -> Result:
    folder = tmp_path_factory.mktemp("compare")
    both = [str(folder / name / "characterization.json") for name in ("engine", "server")]
    for name, document in zip(both, (in_process.document, interrupted[1].document), strict=True):
        Path(name).parent.mkdir()
        documents.write(Path(name), document)
    output = finish(start(root, "--compare", *both, "--output", str(folder / "both")))
    return Result(in_process.document, (folder / "both.html").read_text(), output)


@pytest.mark.parametrize("which", ["in_process", "compared"])
def test_the_page_needs_nothing_from_outside(which: str, request: pytest.FixtureRequest) -> None:
    text = request.getfixturevalue(which).page
    page = Page(text)
    assert "svg" in page.tags
    assert not page.tags & {"script", "link", "iframe", "img", "object", "embed", "base"}
    assert page.references, "the pictures refer to their own markers"
    assert all(reference.strip("'\"").startswith("#") for reference in page.references)
    (style,) = re.findall(r"<style>(.*?)</style>", text, re.DOTALL)
    assert "@import" not in style and "url(" not in style
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert {reference.strip("'\"#") for reference in page.references} <= set(ids)


def test_the_page_shows_the_numbers_of_the_json(in_process: Result) -> None:
    page = Page(in_process.page)
    shown = {"ttft": ("ttft_cold", "ttft_cached"), "decode": ("decode",), "load-rate": ("load_rate",),
             "load-itl": ("load_itl",), "batch": ("batch_decode",), "threads": ("threads_decode",)}  # fmt: skip
    for chart, names in shown.items():
        cells = page.cells[f"chart-{chart}"]
        for name in names:
            curve = in_process.document.figures.curves[name]
            for point in curve.points:
                for value in (point.low, point.median, point.high):
                    assert show(value, curve.unit) in cells
    for finding in in_process.document.figures.findings:
        assert finding.title in in_process.output
        assert finding.title.replace("'", "&#39;") in in_process.page


def test_compare_shows_both_and_their_ratios(compared: Result, interrupted: tuple[Document, Result]) -> None:
    first, second = (
        document.figures.curves["load_rate"].at(2) for document in (compared.document, interrupted[1].document)
    )
    assert first is not None and second is not None
    ratio = f"{second.median / first.median:.2f}"
    assert re.search(rf"output, clients: 2\s.*\s{re.escape(ratio)}\s", compared.output)
    cells = Page(compared.page).cells[""]
    row = cells[cells.index("output, clients: 2") :][:5]
    assert row[3] == ratio
    assert row[4] in ("better", "worse", "same")
    assert "A: engine/characterization" in compared.page and "B: server/characterization" in compared.page
    assert 'id="chart-phases"' in compared.page
    assert 'id="chart-roofline"' not in compared.page, "only one of them has it"


def test_the_json_has_the_documented_fields(in_process: Result, tmp_path: Path) -> None:
    """Who reads the file relies on these names: a change needs another schema number."""
    path = tmp_path / "again.json"
    documents.write(path, in_process.document)
    raw = json.loads(path.read_text())
    assert raw["schema"] == documents.SCHEMA == 2
    assert set(raw) == {
        "schema", "started", "target", "options", "identity", "machine", "build", "engine", "model", "plan",
        "setup_seconds", "samples", "footprint", "missing", "finished", "figures",
    }  # fmt: skip
    assert set(raw["figures"]) == {"curves", "phases", "knee", "memory", "roofline", "findings"}
    assert set(raw["samples"][0]) == {"point", "round", "seconds", "other_work", "loads", "rates", "error"}
    assert set(raw["samples"][0]["loads"][0]["asked"][0]) == {
        "ttft", "total", "prompt_tokens", "cached_tokens", "completion_tokens", "gaps", "phases", "error",
    }  # fmt: skip
    assert set(raw["figures"]["roofline"]) == {
        "bandwidth", "flops", "points", "decode_bytes_per_second", "decode_share",
    }  # fmt: skip
    curve = raw["figures"]["curves"]["ttft_cold"]
    assert set(curve) == {"title", "x_label", "unit", "points"}
    assert set(curve["points"][0]) == {"x", "median", "low", "high", "n", "noisy"}
    assert documents.read(path) == in_process.document
