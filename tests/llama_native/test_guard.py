"""What llama.cpp would end the process for, and no check of ours foresaw, becomes an exception."""

from __future__ import annotations

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


def test_the_damaged_file_fuzzer_finds_nothing(tiny_path: Path) -> None:
    """A few hundred random damages: none hangs, none ends the process. Prints the counts (`pytest -s`)."""
    script = Path(__file__).with_name("fuzz_gguf.py")
    command = [sys.executable, str(script), str(tiny_path), "--count", "300", "--seed", "1", "--verbose"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False)
    print(result.stdout.strip())
    assert result.returncode == 0, result.stdout + result.stderr
