"""make and setup.py say in one line what the machine lacks, and describe the package without building anything."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
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


# A compiler that writes down its arguments and leaves an empty file as its result.
RECORDING_COMPILER = """#!/bin/sh
echo "$*" >>{record}
while [ $# -gt 0 ]; do if [ "$1" = -o ]; then : >"$2"; fi; shift; done
"""


def setup(root: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run setup.py with options that build_llama.sh refuses: it fails if it is asked to build."""
    env = {name: value for name, value in os.environ.items() if name != "LLAMA_PREFIX"} | variables
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


@pytest.fixture
def package(root: Path, tmp_path: Path) -> Path:
    """A folder with what setup.py reads, where nothing was built yet."""
    names = ("build_llama.sh", "setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "llama_native", "vendor")
    clone = tmp_path / "clone"
    clone.mkdir()
    for name in names:
        if (root / name).is_dir():
            shutil.copytree(root / name, clone / name, ignore=shutil.ignore_patterns("source", "*.so", "_native.c"))
        else:
            shutil.copy(root / name, clone)
    return clone


def test_prefix_without_a_header(package: Path, tmp_path: Path) -> None:
    """An installation of llama.cpp has no internal headers; said before anything is compiled."""
    include = tmp_path / "prefix" / "include"
    include.mkdir(parents=True)
    for header in ("llama.h", "internal/ggml-cpu/traits.h"):
        result = setup(package, "build_ext", LLAMA_PREFIX=str(include.parent))
        assert result.returncode == 1
        assert f"there is no {header} in {include}; leave LLAMA_PREFIX unset, or" in result.stderr
        assert "build_llama.sh prints" in result.stderr
        (include / header).parent.mkdir(parents=True, exist_ok=True)
        (include / header).touch()


@pytest.fixture
def build_extension(package: Path, tmp_path: Path) -> Callable[[], list[list[str]]]:
    """Runs `setup.py build_ext` with a compiler that compiles nothing; returns the arguments of each compilation."""
    prefix, record, compiler = tmp_path / "prefix", tmp_path / "record", tmp_path / "compiler"
    for header in ("llama.h", "internal/ggml-cpu/traits.h"):
        (prefix / "include" / header).parent.mkdir(parents=True)
        (prefix / "include" / header).touch()
    compiler.write_text(RECORDING_COMPILER.format(record=record))
    compiler.chmod(0o755)

    def build() -> list[list[str]]:
        record.unlink(missing_ok=True)
        result = setup(package, "build_ext", LLAMA_PREFIX=str(prefix), CC=str(compiler), CXX=str(compiler))
        assert result.returncode == 0, result.stderr
        return [line.split() for line in record.read_text().splitlines() if " -c " in line]

    return build


def test_only_the_sources_in_cxx_are_compiled_as_cxx17(
    package: Path, build_extension: Callable[[], list[list[str]]]
) -> None:
    """Not cffi's source: GCC warns about the option for C, clang fails."""
    compilations = build_extension()
    standards = {
        Path(word).name: "-std=c++17" in line for line in compilations for word in line if word.endswith((".c", ".cpp"))
    }
    cxx = {path.name for path in package.glob("llama_native/*/*.cpp")}
    assert standards == {"llama_native._native.c": False} | dict.fromkeys(cxx, True)


def test_other_kernels_are_another_version(package: Path, build_extension: Callable[[], list[list[str]]]) -> None:
    def version() -> str:
        (source,) = (word for line in build_extension() for word in line if word.endswith("_native.c"))
        found = re.search('lucid_kernels_version = "([0-9a-f]{12})"', (package / source).read_text())
        assert found is not None
        return found[1]

    first = version()
    assert version() == first
    with (package / "llama_native" / "kernels" / "q4_1.hpp").open("a") as header:
        header.write("// changed\n")
    assert version() != first


def test_source_distribution_without_llama_cpp(package: Path, tmp_path: Path) -> None:
    """The link to the fetched source, which a build leaves, is not followed."""
    (tmp_path / "llama.cpp" / "include").mkdir(parents=True)
    (tmp_path / "llama.cpp" / "include" / "llama.h").write_text("")
    (package / "vendor" / "llama.cpp" / "source").symlink_to(tmp_path / "llama.cpp")
    result = setup(package, "sdist", "--formats=tar")
    assert result.returncode == 0, result.stderr
    (archive,) = (package / "dist").iterdir()
    with tarfile.open(archive) as file:
        members = {name.partition("/")[2] for name in file.getnames()}
    assert {"vendor/llama.cpp/pin", "vendor/llama.cpp/fetch.sh", "llama_native/shim/guard.hpp"} <= members
    assert {"llama_native/kernels/q4_1.hpp", "llama_native/kernels/q4_1.cpp"} <= members
    assert not [name for name in members if name.startswith("vendor/llama.cpp/source")]
