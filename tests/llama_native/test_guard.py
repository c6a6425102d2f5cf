"""What llama.cpp would end the process for, and no check of ours foresaw, becomes an exception."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import llama_native as ln
from llama_native.errors import assertion_failed, failure_reason
from llama_native.ffi import C, ffi
from tests.llama_native.conftest import MakeContext, filled


def test_a_failed_assertion_is_an_exception(tiny_model: ln.Model, make_context: MakeContext) -> None:
    context = make_context(tiny_model)
    # No check of ours in between: sequence 9999 is outside llama.cpp's own table.
    assert not C.lucid_memory_keep(context._memory, 9999)
    assert assertion_failed()
    assert "GGML_ASSERT(seq_id >= 0" in failure_reason("")
    context.decode(filled([5]))


def test_a_context_is_poisoned_by_an_assertion(tiny_model: ln.Model, make_context: MakeContext) -> None:
    context = make_context(tiny_model)
    context._limits.n_tokens_max = 10_000  # switch our own check off
    with pytest.raises(ln.DecodeFailed, match="GGML_ASSERT"):
        context.decode(filled([5] * 2000, capacity=4096))
    for call in (lambda: context.decode(filled([5])), lambda: context.memory.clear(), lambda: context.logits(0)):
        with pytest.raises(ln.ContextError, match="unusable after an internal failure"):
            call()
    context.close()


def test_a_c_plus_plus_exception_is_an_exception(tiny_model: ln.Model) -> None:
    handle = tiny_model.vocab._live()
    tokens = ffi.new("llama_token[]", [10**6])
    assert C.lucid_detokenize(handle.pointer, tokens, 1, ffi.new("char[16]"), 16, False, True) == -(2**31)
    assert not assertion_failed()
    assert failure_reason("") != ""


ABORT = """
#include <cstdio>
#include "guard.hpp"
int main(int, char ** arguments) {
    lucid_guard_install();
    if (!lucid::guarded(false, [&] { ggml_abort(arguments[1], 12, "GGML_ASSERT(x) failed"); return true; })) {
        std::puts(lucid_message());
    }
}
"""


@pytest.fixture(scope="module")
def aborting(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A program with our guard in which an assertion fails in the source file that it is given."""
    (library,) = set(re.findall(r"\S+/libllama\.so\S*", Path("/proc/self/maps").read_text()))
    prefix = Path(library).parent.parent
    folder = tmp_path_factory.mktemp("guard")
    (folder / "abort.cpp").write_text(ABORT)
    shim = root / "llama_native" / "shim"
    command = ["c++", "abort.cpp", shim / "guard.cpp", shim / "log.cpp", "-o", "abort", f"-I{shim}"]
    command += [f"-I{prefix / 'include'}", f"-L{prefix / 'lib'}", "-lllama", "-lggml", "-lggml-base"]
    subprocess.run([*command, f"-Wl,-rpath,{prefix / 'lib'}"], cwd=folder, check=True, timeout=120)
    return folder / "abort"


@pytest.mark.parametrize(
    ("file", "caught"),
    [
        ("/src/llama.cpp/src/llama-context.cpp", True),
        ("/src/llama.cpp/ggml/src/ggml-backend.cpp", True),
        ("/src/ggml-dev/src/llama-context.cpp", True),
        ("/src/ggml-dev/ggml/src/ggml-backend.cpp", True),
        ("/src/llama.cpp/ggml/src/ggml-cpu/ops.cpp", False),
        ("/src/ggml-dev/ggml/src/ggml-cpu/ops.cpp", False),
    ],
)
def test_only_compute_backends_end_the_process(aborting: Path, file: str, caught: bool) -> None:
    """Unwinding out of a backend would leave its other threads at a barrier; where the sources lie plays no part."""
    result = subprocess.run([aborting, file], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == (0 if caught else -signal.SIGABRT)
    assert f"{file}:12: GGML_ASSERT(x) failed" in (result.stdout if caught else result.stderr)


def test_the_damaged_file_fuzzer_finds_nothing(tiny_path: Path) -> None:
    """A few hundred random damages: none hangs, none ends the process. Prints the counts (`pytest -s`)."""
    script = Path(__file__).with_name("fuzz_gguf.py")
    command = [sys.executable, str(script), str(tiny_path), "--count", "300", "--seed", "1", "--verbose"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    print(result.stdout.strip())
    assert result.returncode == 0, result.stdout + result.stderr
