"""LoRA adapters on a tiny model: applied, scaled, removed, refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import llama_native as ln
from tests.llama_native import tiny
from tests.llama_native.conftest import MakeContext, filled

Row = np.ndarray[tuple[int], np.dtype[np.float32]]


def logits(context: ln.Context) -> Row:
    context.memory.clear()
    context.decode(filled([5, 6, 7]))
    return context.logits(-1).copy()


def test_effect_of_adapters(tiny_model: ln.Model, make_context: MakeContext, tmp_path: Path) -> None:
    context = make_context(tiny_model)
    plain = logits(context)
    zero = ln.LoraAdapter(tiny_model, tiny.lora(tmp_path / "zero.gguf", 0.0))
    strong = ln.LoraAdapter(tiny_model, tiny.lora(tmp_path / "strong.gguf", 0.5))
    assert strong.metadata["adapter.type"] == "lora"
    context.set_loras([(zero, 1.0)])
    np.testing.assert_allclose(logits(context), plain, atol=1e-4)
    context.set_loras([(strong, 1.0)])
    full = logits(context)
    assert np.abs(full - plain).max() > 0.05
    context.set_loras([(strong, 0.5), (zero, 2.0)])
    half = logits(context)
    assert np.abs(half - plain).max() > 0.01
    assert np.abs(half - full).max() > 0.01
    context.set_loras([(strong, 0.0)])
    np.testing.assert_allclose(logits(context), plain, atol=1e-4)
    context.set_loras([(strong, 1.0)])
    context.set_loras([])
    np.testing.assert_allclose(logits(context), plain, atol=1e-4)


def test_an_adapter_in_use_may_be_closed(tiny_model: ln.Model, make_context: MakeContext, tmp_path: Path) -> None:
    context = make_context(tiny_model)
    adapter = ln.LoraAdapter(tiny_model, tiny.lora(tmp_path / "a.gguf", 0.5))
    context.set_loras([(adapter, 1.0)])
    applied = logits(context)
    adapter.close()
    np.testing.assert_array_equal(logits(context), applied)
    with pytest.raises(ln.ClosedError):
        context.set_loras([(adapter, 1.0)])
    with pytest.raises(ln.ClosedError):
        adapter.metadata  # noqa: B018


def test_files_that_are_no_adapter(tiny_model: ln.Model, tiny_path: Path, tmp_path: Path) -> None:
    with pytest.raises(ln.LoraError, match="no such file"):
        ln.LoraAdapter(tiny_model, tmp_path / "missing.gguf")
    with pytest.raises(ln.LoraError, match="adapter"):
        ln.LoraAdapter(tiny_model, tiny_path)
    cases = {
        "arch mismatch": tiny.lora(tmp_path / "arch.gguf", 0.5, architecture="mamba"),
        "does not exist in base model": tiny.lora(tmp_path / "tensor.gguf", 0.5, tensor="blk.9.attn_q"),
        "incorrect shape": tiny.lora(tmp_path / "shape.gguf", 0.5, tensor="blk.0.attn_k"),
    }
    for message, path in cases.items():
        with pytest.raises(ln.LoraError, match=message):
            ln.LoraAdapter(tiny_model, path)
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(tiny.lora(tmp_path / "b.gguf", 0.5).read_bytes()[:-700])
    with pytest.raises(ln.LoraError, match="ends at byte"):
        ln.LoraAdapter(tiny_model, cut)


def test_an_adapter_of_another_model(
    tiny_model: ln.Model, tiny_path: Path, make_context: MakeContext, tmp_path: Path
) -> None:
    with ln.Model(tiny_path) as other:
        adapter = ln.LoraAdapter(other, tiny.lora(tmp_path / "a.gguf", 0.5))
        with pytest.raises(ln.LoraError, match="another model"):
            make_context(tiny_model).set_loras([(adapter, 1.0)])
