"""build_llama.sh compiles each combination once, completely, and leaves nothing half-made that looks finished."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from .conftest import RunBuild
from .tree import compilations, write_tree

#: What llama_native/kernels/ includes of ggml's insides.
INTERNAL_HEADERS = ("ggml-impl.h", "ggml-backend-impl.h", "ggml-cpu/ggml-cpu-impl.h", "ggml-cpu/traits.h")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return write_tree(tmp_path / "source" / "tree")


def test_builds_libraries_and_headers(run_build: RunBuild, tree: Path) -> None:
    announced = run_build("--print-prefix", source=tree).stdout.strip()
    assert not Path(announced).exists()

    result = run_build(source=tree)
    assert result.returncode == 0, result.stderr
    assert result.stdout == f"{announced}\n"
    prefix = Path(announced)
    headers = {str(path.relative_to(prefix / "include")) for path in (prefix / "include").rglob("*.h")}
    assert headers == {"llama.h", "ggml.h", *(f"internal/{name}" for name in INTERNAL_HEADERS)}
    # libllama finds libggml beside it.
    assert ctypes.CDLL(str(prefix / "lib" / "libllama.so")).llama_answer() == 42


def test_second_call_compiles_nothing(run_build: RunBuild, tree: Path) -> None:
    first = run_build(source=tree)
    second = run_build(source=tree)
    assert second.returncode == 0
    assert second.stdout == first.stdout
    assert second.stderr == ""
    assert compilations(tree) == 1


@pytest.mark.parametrize("lacking", [INTERNAL_HEADERS, INTERNAL_HEADERS[-1:]], ids=["all", "one"])
def test_internal_headers_are_added_to_an_older_prefix(
    run_build: RunBuild, tree: Path, lacking: tuple[str, ...]
) -> None:
    first = run_build(source=tree)
    internal = Path(first.stdout.strip(), "include", "internal")
    if lacking == INTERNAL_HEADERS:
        shutil.rmtree(internal)
    else:
        (internal / lacking[0]).unlink()
    second = run_build(source=tree)
    assert second.returncode == 0, second.stderr
    assert second.stdout == first.stdout
    assert all((internal / name).is_file() for name in INTERNAL_HEADERS)
    assert compilations(tree) == 1
    assert run_build(source=tree).stderr == ""


def test_source_without_an_internal_header(run_build: RunBuild, tree: Path) -> None:
    """Said at once, rather than when the kernels are compiled."""
    (tree / "ggml" / "src" / "ggml-cpu" / "traits.h").unlink()
    result = run_build(source=tree)
    assert result.returncode == 2
    assert f"no ggml/src/ggml-cpu/traits.h in '{tree}'" in result.stderr
    assert compilations(tree) == 0


def test_tools_reuse_the_libraries(run_build: RunBuild, tree: Path) -> None:
    plain = run_build(source=tree)
    library = Path(plain.stdout.strip(), "lib", "libllama.so")
    before = library.stat()
    result = run_build("--tools", source=tree)
    assert result.returncode == 0, result.stderr
    assert result.stdout == plain.stdout
    assert library.stat() == before
    assert compilations(tree) == 1
    for tool in ("llama-bench", "llama-batched-bench", "llama-server", "llama-quantize"):
        assert subprocess.run([Path(plain.stdout.strip(), "bin", tool)], check=False).returncode == 0


def test_the_rpc_backend_is_added_to_the_libraries(run_build: RunBuild, tree: Path) -> None:
    prefix = Path(run_build(source=tree).stdout.strip())
    library = (prefix / "lib" / "libllama.so").stat()
    result = run_build("--rpc", source=tree)
    assert result.returncode == 0, result.stderr
    assert result.stdout == f"{prefix}\n"
    assert (prefix / "lib" / "libllama.so").stat() == library
    assert compilations(tree) == 1
    assert subprocess.run([prefix / "bin" / "ggml-rpc-server"], check=False).returncode == 0
    assert ctypes.CDLL(str(prefix / "bin" / "libggml-rpc.so"))  # beside the server, and finds libggml-base
    assert run_build("--rpc", source=tree).stderr == ""


def test_failed_compilation_of_the_rpc_backend(run_build: RunBuild, tree: Path) -> None:
    (tree / "tools" / "rpc" / "rpc-server.cpp").write_text("#error broken on purpose\n")
    result = run_build("--rpc", source=tree)
    assert result.returncode == 1
    assert "broken on purpose" in result.stderr
    assert "compiling the RPC backend failed" in result.stderr
    assert run_build("--rpc", source=tree).returncode == 1  # it does not take what is there for finished


def test_options_and_source_select_the_build(run_build: RunBuild, tree: Path) -> None:
    prefixes = {run_build("--print-prefix", *options, source=tree).stdout for options in ([], ["--no-openmp"])}
    (tree / "src" / "llama.c").write_text("int llama_answer(void) { return 7; }\n")
    prefixes.add(run_build("--print-prefix", source=tree).stdout)
    assert len(prefixes) == 3
    assert run_build("--print-prefix", "--openmp", "--tools", "--rpc", "--jobs", "1", source=tree).stdout in prefixes


def test_compilers_and_their_flags_select_the_build(run_build: RunBuild, tree: Path, tmp_path: Path) -> None:
    usual = run_build("--print-prefix", source=tree).stdout
    assert run_build("--print-prefix", source=tree, CFLAGS="", LDFLAGS="").stdout == usual
    compiler = tmp_path / "other-cc"
    compiler.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "cc (Other) 1.0" && exit\nexec cc "$@"\n')
    compiler.chmod(0o755)
    variables = [{"CFLAGS": "-O1"}, {"CXXFLAGS": "-O1"}, {"LDFLAGS": "-O1"}, {"CC": str(compiler)}]
    prefixes = {run_build("--print-prefix", source=tree, **each).stdout for each in variables}
    assert len(prefixes | {usual}) == 5


def test_changed_source_is_built_anew(run_build: RunBuild, tree: Path) -> None:
    first = Path(run_build(source=tree).stdout.strip())
    (tree / "src" / "llama.c").write_text("int llama_answer(void) { return 7; }\n")
    second = Path(run_build(source=tree).stdout.strip())
    assert ctypes.CDLL(str(second / "lib" / "libllama.so")).llama_answer() == 7
    assert ctypes.CDLL(str(first / "lib" / "libllama.so")).llama_answer() == 42


def test_failed_compilation(run_build: RunBuild, tree: Path) -> None:
    (tree / "src" / "llama.c").write_text("#error broken on purpose\n")
    result = run_build(source=tree)
    assert result.returncode == 1
    assert result.stdout == ""
    assert "broken on purpose" in result.stderr
    assert "compiling llama.cpp failed" in result.stderr
    assert not Path(run_build("--print-prefix", source=tree).stdout.strip()).exists()


def test_interrupted_build(run_build: RunBuild, root: Path, environment: dict[str, str], tmp_path: Path) -> None:
    """A build killed in the middle leaves no prefix; the next call finishes the work."""
    gate = tmp_path / "gate"
    tree = write_tree(tmp_path / "source" / "tree", step=f"while [ ! -e {gate} ]; do sleep 0.05; done")
    prefix = Path(run_build("--print-prefix", source=tree).stdout.strip())
    process = subprocess.Popen(
        ["bash", str(root / "build_llama.sh")],
        env={**environment, "LLAMA_CPP_SOURCE": str(tree)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while compilations(tree) == 0:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not prefix.exists()

    gate.touch()
    result = run_build(source=tree)
    assert result.returncode == 0, result.stderr
    assert ctypes.CDLL(str(prefix / "lib" / "libllama.so")).llama_answer() == 42


def test_concurrent_calls_build_once(run_build: RunBuild, tmp_path: Path) -> None:
    tree = write_tree(tmp_path / "source" / "tree", step="sleep 1")
    with ThreadPoolExecutor(3) as pool:
        results = list(pool.map(lambda _: run_build(source=tree), range(3)))
    assert [result.returncode for result in results] == [0, 0, 0], results
    assert len({result.stdout for result in results}) == 1
    assert compilations(tree) == 1


def test_clean_removes_only_this_build(run_build: RunBuild, tree: Path) -> None:
    prefix = Path(run_build(source=tree).stdout.strip())
    other = Path(run_build("--no-openmp", source=tree).stdout.strip())
    assert run_build("--clean", source=tree).returncode == 0
    assert not prefix.exists()
    assert other.exists()
    assert Path(run_build(source=tree).stdout.strip()) == prefix
    assert prefix.exists()
