"""`python -m knowledge` as a person or a script runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture
def environ(tmp_path: Path, embedding_model_path: Path) -> dict[str, str]:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "rhubarb.txt").write_text("Thom Rhubarb built a printer that made wooden screws.")
    (tmp_path / "data" / "junk").write_bytes(bytes(range(256)))
    ours = {
        "DATA_PATH": str(tmp_path / "data"),
        "EMBEDDING_MODEL": str(embedding_model_path),
        "XDG_DATA_HOME": str(tmp_path / "home"),
    }
    return {name: value for name, value in os.environ.items() if not name.startswith("KNOWLEDGE_")} | ours


def run(environ: dict[str, str], root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "knowledge", *arguments],
        env=environ,
        cwd=root,
        text=True,
        capture_output=True,
        timeout=120,
        check=False,
    )


def test_index_search_stats(environ: dict[str, str], root: Path) -> None:
    early = run(environ, root, "search", "x")
    assert (early.returncode, early.stdout) == (1, "")
    assert "nothing is indexed yet: python -m knowledge index" in early.stderr

    indexed = run(environ, root, "index")
    assert indexed.returncode == 0, indexed.stderr
    assert indexed.stdout.startswith("2 files (2 added, 0 unchanged, 1 skipped), 1 chunks embedded in ")
    assert "WARNING: skipped junk: it is binary" in indexed.stderr
    assert run(environ, root, "index", "--quiet").stdout.startswith("2 files (2 unchanged, 1 skipped), 0 chunks")

    anew = run(environ | {"KNOWLEDGE_DOCUMENT_WEIGHT": "0"}, root, "index", "--quiet").stdout
    assert anew.startswith("indexed anew: ") and "KNOWLEDGE_DOCUMENT_WEIGHT" in anew.splitlines()[0]
    assert "0 of a chunk's" in run(environ, root, "stats").stdout

    found = run(environ, root, "search", "Who was Thom Rhubarb?")
    assert found.returncode == 0
    assert "rhubarb.txt, chunk 0" in found.stdout
    assert "    Thom Rhubarb built a printer" in found.stdout
    assert "nothing found" in run(environ, root, "search", "football", "--threshold", "0.99").stdout

    stats = run(environ, root, "stats", "--files").stdout
    assert "files       2, of which skipped 1" in stats
    assert "     0 junk  (skipped: it is binary)" in stats


def test_json(environ: dict[str, str], root: Path, tmp_path: Path) -> None:
    store = str(tmp_path / "own.sqlite")
    report = json.loads(run(environ, root, "index", "--json", "--store", store, "--chunk-tokens", "50").stdout)
    assert (report["added"], report["n_chunks"], report["store"]) == (2, 1, store)
    assert report["skipped"] == [["junk", "it is binary"]]
    arguments = ("search", "Rhubarb", "--json", "--store", store, "--mode", "lexical", "--top-k", "1")
    result = json.loads(run(environ, root, *arguments).stdout)
    (entry,) = result["data"]
    assert entry.pop("score") > 0
    text = "Thom Rhubarb built a printer that made wooden screws."
    assert entry == {"file": "rhubarb.txt", "chunk": 0, "text": text}
    assert set(result["timings"]) == {"embed", "search"}
    stats = json.loads(run(environ, root, "stats", "--json", "--files", "--store", store).stdout)
    assert (stats["n_files"], stats["n_chunks"], stats["recipe"]["chunk_tokens"]) == (2, 1, 50)
    assert [record["file"] for record in stats["files"]] == ["junk", "rhubarb.txt"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ((), 2, "COMMAND"),
        (("search",), 2, "query"),
        (("index", "--chunk-tokens", "x"), 2, "KNOWLEDGE_CHUNK_TOKENS='x' is not valid"),
        (("index", "--data", "/nowhere"), 2, "/nowhere is not a folder"),
        (("index", "--model", "/nowhere.gguf"), 1, "no such file"),
        (("index", "--model", "model/model.gguf"), 1, "not an embedding model"),
        (("index", "--chunk-tokens", "5000"), 2, "allowed: up to 504"),
        (("stats", "--store", "pyproject.toml"), 1, "not a database"),
        (("search", "x", "--mode", "fuzzy"), 2, "invalid choice"),
    ],
)
def test_errors(environ: dict[str, str], root: Path, arguments: tuple[str, ...], code: int, message: str) -> None:
    result = run(environ, root, *arguments)
    assert result.returncode == code
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


def test_help(environ: dict[str, str], root: Path) -> None:
    for arguments in (("--help",), ("index", "--help"), ("search", "--help"), ("stats", "--help")):
        result = run(environ, root, *arguments)
        assert result.returncode == 0
        assert "usage: python -m knowledge" in result.stdout
