"""make and setup.py say in one line what the machine lacks, and describe the package without building anything."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

# A Python that answers the Makefile's questions: each is a `-c` program, told apart by a word in it.
FAKE_PYTHON = """#!/bin/sh
case "$2" in
    *version_info*) exit {version} ;;
    *ensurepip*) exit {venv} ;;
    *Python.h*) exit {headers} ;;
esac
echo "unexpected call: $*" >&2
exit 99
"""


def make(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run make in `folder`, apart from a make that may be running this test."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS", "LLAMA_"))}
    command = ["make", *arguments]
    env |= variables
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def clone(root: Path, tmp_path: Path) -> Path:
    """A folder with the Makefile and what its first steps read, where nothing was made yet."""
    for name in ("Makefile", "pyproject.toml", "build_llama.sh"):
        shutil.copy(root / name, tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        ({"version": 1, "venv": 0, "headers": 0}, "is older than Python 3.11"),
        ({"version": 0, "venv": 1, "headers": 0}, "apt-get install python3-venv"),
        ({"version": 0, "venv": 0, "headers": 1}, "apt-get install python3-dev"),
    ],
)
def test_unfit_python(clone: Path, answers: dict[str, int], reason: str) -> None:
    python = clone / "python"
    python.write_text(FAKE_PYTHON.format(**answers))
    python.chmod(0o755)
    result = make(clone, "serve", f"PYTHON={python}")
    assert result.returncode == 2
    assert reason in result.stderr
    assert not (clone / ".venv").exists()


def test_missing_python(clone: Path) -> None:
    result = make(clone, "serve", "PYTHON=no-such-python")
    assert result.returncode == 2
    assert "no-such-python was not found; apt-get install python3" in result.stderr


def test_missing_compiler(clone: Path) -> None:
    result = make(clone, "serve", f"PYTHON={sys.executable}", CXX="no-such-compiler")
    assert result.returncode == 2
    assert "no C++ compiler was found; apt-get install g++" in result.stderr
    assert not (clone / ".venv").exists()


def test_help_is_the_default(clone: Path) -> None:
    result = make(clone)
    assert result.returncode == 0
    for target in ("serve", "test", "models", "build", "lint", "clean"):
        assert f"make {target} " in result.stdout


def setup(root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run setup.py with options that build_llama.sh refuses: it fails if it is asked to build."""
    env = {name: value for name, value in os.environ.items() if name != "LLAMA_PREFIX"}
    return subprocess.run(
        [sys.executable, "setup.py", *arguments],
        cwd=root,
        env={**env, "LLAMA_OPTIONS": "--bogus"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_describing_the_package_builds_nothing(root: Path) -> None:
    result = setup(root, "--name")
    assert result.returncode == 0
    assert result.stdout.split() == ["lucid-llm"]


def test_setup_ends_as_build_llama_does(root: Path) -> None:
    result = setup(root, "build_ext")
    assert result.returncode == 2
    assert "unknown option '--bogus'" in result.stderr


def test_source_distribution_without_llama_cpp(root: Path, tmp_path: Path) -> None:
    """The link to the fetched source, which a build leaves, is not followed."""
    names = ("build_llama.sh", "setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "llama_native", "vendor")
    clone = tmp_path / "clone"
    clone.mkdir()
    for name in names:
        if (root / name).is_dir():
            shutil.copytree(root / name, clone / name, ignore=shutil.ignore_patterns("source", "*.so", "_native.c"))
        else:
            shutil.copy(root / name, clone)
    (tmp_path / "llama.cpp" / "include").mkdir(parents=True)
    (tmp_path / "llama.cpp" / "include" / "llama.h").write_text("")
    (clone / "vendor" / "llama.cpp" / "source").symlink_to(tmp_path / "llama.cpp")
    result = setup(clone, "sdist", "--formats=tar")
    assert result.returncode == 0, result.stderr
    (archive,) = (clone / "dist").iterdir()
    with tarfile.open(archive) as file:
        members = {name.partition("/")[2] for name in file.getnames()}
    assert {"vendor/llama.cpp/pin", "vendor/llama.cpp/fetch.sh", "llama_native/shim/guard.hpp"} <= members
    assert {"llama_native/kernels/q4_1.hpp", "llama_native/kernels/q4_1.cpp"} <= members
    assert not [name for name in members if name.startswith("vendor/llama.cpp/source")]
