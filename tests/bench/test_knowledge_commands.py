"""The knowledge benchmarks end to end, in tiny runs: exit codes, tables, JSON. No figure is judged."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


def command(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *arguments], cwd=root, capture_output=True, text=True, timeout=250, check=False
    )


def test_index(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "index.json"
    arguments = ("--documents", "4", "--words", "60", "--rounds", "2", "--json", str(path))
    done = command(root, "bench.knowledge_index", *arguments)
    assert done.returncode in (0, 1), done.stderr
    results = json.loads(path.read_text())["results"]
    assert results["files"] == 4
    assert len(results["rounds"]) == 2
    assert results["ratio"] > 0 < results["again_seconds"]
    assert "4 of 4 files unchanged" in done.stdout


def test_search(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "search.json"
    arguments = ("--chunks", "300", "--dimensions", "8", "--searches", "5", "--json", str(path))
    done = command(root, "bench.knowledge_search", *arguments)
    assert done.returncode in (0, 1), done.stderr
    results = json.loads(path.read_text())["results"]
    assert {kind: len(seconds) for kind, seconds in results["seconds"].items()} == {
        "bare product": 5,
        "dense": 5,
        "lexical, 6 words": 5,
        "hybrid": 5,
    }
    assert "resident memory / vectors" in done.stdout


def test_grounding_asks_a_server(root: Path, tmp_path: Path) -> None:
    path = tmp_path / "grounding.json"
    arguments = (
        "--only",
        "^(retrieval off|the default)$",
        "--questions",
        "3",
        "--max-tokens",
        "1",
        "--json",
        str(path),
    )
    done = command(root, "bench.grounding", *arguments)
    assert done.returncode == 1, done.stderr  # one token is too short for an answer
    without, grounded = json.loads(path.read_text())["results"]
    assert (without["name"], grounded["name"]) == ("retrieval off", "the default")
    assert len(grounded["answers"]) == len(grounded["questions"]) == 3
    assert grounded["prompt_tokens"] > 3 * without["prompt_tokens"]
    assert "the right document is cited first" in done.stderr and "FAIL" in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ("bench.knowledge_index", "--rounds", "0"),
        ("bench.knowledge_index", "--model", "no-such-file.gguf"),
        ("bench.knowledge_search", "--chunks", "0"),
        ("bench.retrieval", "--per-kind", "0"),
        ("bench.grounding", "--model", "no-such-file.gguf"),
    ],
)
def test_wrong_usage(root: Path, arguments: tuple[str, ...]) -> None:
    done = command(root, *arguments)
    assert done.returncode == 2
    assert "error: " in done.stderr
    assert "Traceback" not in done.stderr
