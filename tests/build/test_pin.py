"""The pinned source is unpacked only when its sha256 is right; a wrong archive is never executed."""

from __future__ import annotations

import hashlib
import shutil
import tarfile
from pathlib import Path

import pytest

from .conftest import RunBuild
from .tree import write_tree

ARCHIVE = "llama_cpp_python-0.3.36.tar.gz"


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """A source distribution with a tiny llama.cpp, whose setup.py leaves a trace when anything runs it."""
    folder = tmp_path / "llama_cpp_python-0.3.36"
    write_tree(folder / "vendor" / "llama.cpp")
    (folder / "vendor" / "llama.cpp" / "models").mkdir()
    (folder / "setup.py").write_text(f"open({str(tmp_path / 'executed')!r}, 'w')\n")
    (folder / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: llama-cpp-python\nVersion: 0.3.36\n")
    path = tmp_path / ARCHIVE
    with tarfile.open(path, "w:gz") as file:
        file.add(folder, folder.name)
    return path


def pinned_script(root: Path, folder: Path, sha256: str) -> Path:
    """A copy of build_llama.sh whose pin has that sha256."""
    shutil.copytree(root / "vendor" / "llama.cpp", folder / "vendor" / "llama.cpp", ignore=lambda *_: ["source"])
    pin = folder / "vendor" / "llama.cpp" / "pin"
    lines = [f"sha256={sha256}" if line.startswith("sha256=") else line for line in pin.read_text().splitlines()]
    pin.write_text("\n".join(lines) + "\n")
    return Path(shutil.copy(root / "build_llama.sh", folder))


def test_right_archive_is_unpacked_and_built(
    run_build: RunBuild, root: Path, archive: Path, cache: Path, tmp_path: Path
) -> None:
    kept = cache / "lucid-llm" / "llama.cpp" / "download"
    kept.mkdir(parents=True)
    shutil.copy(archive, kept)
    script = pinned_script(root, tmp_path / "clone", hashlib.sha256(archive.read_bytes()).hexdigest())
    result = run_build(script=script)
    assert result.returncode == 0, result.stderr
    assert Path(result.stdout.strip(), "lib", "libllama.so").exists()
    source = (tmp_path / "clone" / "vendor" / "llama.cpp" / "source").resolve()
    assert (source / "src" / "llama.c").exists()
    assert not (source / "models").exists()


def test_wrong_archive_is_refused(run_build: RunBuild, root: Path, archive: Path, cache: Path, tmp_path: Path) -> None:
    """The download itself refuses it: the archive is neither unpacked nor is its build backend run."""
    script = pinned_script(root, tmp_path / "clone", "0" * 64)
    result = run_build(script=script, PIP_NO_INDEX="1", PIP_FIND_LINKS=str(archive.parent))
    assert result.returncode == 1
    assert "DO NOT MATCH THE HASHES" in result.stderr
    assert "pip could not download llama-cpp-python 0.3.36 with the pinned sha256" in result.stderr
    assert not (tmp_path / "executed").exists()
    assert not (cache / "lucid-llm" / "llama.cpp" / "source").exists()


def test_damaged_archive_in_the_cache_is_not_used(
    run_build: RunBuild, root: Path, archive: Path, cache: Path, tmp_path: Path
) -> None:
    script = pinned_script(root, tmp_path / "clone", hashlib.sha256(archive.read_bytes()).hexdigest())
    kept = cache / "lucid-llm" / "llama.cpp" / "download"
    kept.mkdir(parents=True)
    (kept / ARCHIVE).write_bytes(archive.read_bytes()[:-100])
    result = run_build(script=script, PIP_NO_INDEX="1", PIP_FIND_LINKS=str(tmp_path / "empty"))
    assert result.returncode == 1
    assert "is the package index reachable?" in result.stderr
    assert not (cache / "lucid-llm" / "llama.cpp" / "source").exists()
    # Nothing of the attempt is left behind.
    assert not list((cache / "lucid-llm" / "llama.cpp").glob("fetch.*"))


@pytest.mark.parametrize("obstacle", ["part missing", "no folder"])
def test_failed_unpacking_leaves_nothing(
    run_build: RunBuild, root: Path, archive: Path, cache: Path, tmp_path: Path, obstacle: str
) -> None:
    folder = cache / "lucid-llm" / "llama.cpp"
    (folder / "download").mkdir(parents=True)
    if obstacle == "no folder":
        (folder / "source").write_text("where the unpacked source should go\n")
    else:
        with tarfile.open(archive, "w:gz") as file:
            file.add(tmp_path / "llama_cpp_python-0.3.36" / "PKG-INFO", "llama_cpp_python-0.3.36/PKG-INFO")
    shutil.copy(archive, folder / "download")
    script = pinned_script(root, tmp_path / "clone", hashlib.sha256(archive.read_bytes()).hexdigest())
    result = run_build(script=script)
    assert result.returncode == 1
    assert "unbound variable" not in result.stderr
    assert not list(folder.glob("fetch.*"))
