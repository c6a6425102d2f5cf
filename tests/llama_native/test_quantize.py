"""Quantizing a model file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import llama_native as ln
from tests.llama_native.conftest import MakeContext, filled


def test_a_quantized_model_is_smaller_and_close(
    tiny_model: ln.Model, make_context: MakeContext, tmp_path: Path
) -> None:
    target = tmp_path / "q8.gguf"
    ln.quantize(tiny_model.path, target, ln.FileType.Q8_0, n_threads=1)
    assert [path.name for path in tmp_path.iterdir()] == ["q8.gguf"]
    plain = make_context(tiny_model)
    plain.decode(filled([5, 6, 7]))
    with ln.Model(target) as model:
        assert model.ftype == ln.FileType.Q8_0
        assert model.size < tiny_model.size / 2
        context = make_context(model)
        context.decode(filled([5, 6, 7]))
        assert np.corrcoef(context.logits(-1), plain.logits(-1))[0, 1] > 0.99


def test_requantizing_needs_a_word(chat_model_path: Path, tmp_path: Path) -> None:
    target = tmp_path / "q2.gguf"
    with pytest.raises(ln.QuantizeError, match="requantizing from type q4_1 is disabled"):
        ln.quantize(chat_model_path, target, ln.FileType.Q8_0)
    assert list(tmp_path.iterdir()) == []


def test_failures_leave_nothing(tiny_path: Path, tmp_path: Path) -> None:
    target = tmp_path / "target.gguf"
    with pytest.raises(ln.QuantizeError, match="no such file"):
        ln.quantize(tmp_path / "missing.gguf", target, ln.FileType.Q8_0)
    with pytest.raises(ln.QuantizeError, match="no such directory"):
        ln.quantize(tiny_path, tmp_path / "no" / "target.gguf", ln.FileType.Q8_0)
    with pytest.raises(ValueError, match="ftype"):
        ln.quantize(tiny_path, target, ln.FileType.GUESSED)
    assert list(tmp_path.iterdir()) == []
