"""model/bert_gguf.py writes what llama.cpp expects of a BERT model, and refuses what it does not understand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from numpy.typing import NDArray

from bert_gguf import ConversionError, write_bert_gguf

CONFIG: dict[str, Any] = {
    "model_type": "bert",
    "vocab_size": 8,
    "hidden_size": 4,
    "intermediate_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 16,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
}
VOCABULARY = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nlight\n##ly\n[unused1]\n"
LAYER = "encoder.layer.0"
SHAPES = {
    "embeddings.word_embeddings.weight": (8, 4),
    "embeddings.position_embeddings.weight": (16, 4),
    "embeddings.token_type_embeddings.weight": (2, 4),
    "embeddings.LayerNorm.weight": (4,),
    "embeddings.LayerNorm.bias": (4,),
    **{f"{LAYER}.attention.self.{part}.weight": (4, 4) for part in ("query", "key", "value")},
    **{f"{LAYER}.attention.self.{part}.bias": (4,) for part in ("query", "key", "value")},
    f"{LAYER}.attention.output.dense.weight": (4, 4),
    f"{LAYER}.attention.output.dense.bias": (4,),
    f"{LAYER}.attention.output.LayerNorm.weight": (4,),
    f"{LAYER}.attention.output.LayerNorm.bias": (4,),
    f"{LAYER}.intermediate.dense.weight": (8, 4),
    f"{LAYER}.intermediate.dense.bias": (8,),
    f"{LAYER}.output.dense.weight": (4, 8),
    f"{LAYER}.output.dense.bias": (4,),
    f"{LAYER}.output.LayerNorm.weight": (4,),
    f"{LAYER}.output.LayerNorm.bias": (4,),
    "pooler.dense.weight": (4, 4),
    "pooler.dense.bias": (4,),
}

Tensors = dict[str, NDArray[Any]]


@pytest.fixture
def tensors() -> Tensors:
    """Random tensors with the names and shapes of a one-layer BERT."""
    generator = np.random.default_rng(1)
    return {name: generator.standard_normal(shape).astype(np.float32) for name, shape in SHAPES.items()}


def safetensors(tensors: Tensors) -> bytes:
    """The tensors as a safetensors file."""
    header, data = {}, b""
    for name, tensor in tensors.items():
        dtype = {"float32": "F32", "float16": "F16"}[tensor.dtype.name]
        offsets = [len(data), len(data) + tensor.nbytes]
        header[name] = {"dtype": dtype, "shape": tensor.shape, "data_offsets": offsets}
        data += tensor.tobytes()
    text = json.dumps({"__metadata__": {"format": "pt"}, **header}).encode()
    return len(text).to_bytes(8, "little") + text + data


def convert(path: Path, tensors: Tensors, **changes: Any) -> gguf.GGUFReader:
    """Convert, and read the result back."""
    arguments: dict[str, Any] = {"config": CONFIG, "vocabulary": VOCABULARY, "weights": safetensors(tensors), **changes}
    write_bert_gguf(path, name="tiny", license_id="mit", lowercase=True, **arguments)
    return gguf.GGUFReader(path)


def test_metadata(tmp_path: Path, tensors: Tensors) -> None:
    reader = convert(tmp_path / "tiny.gguf", tensors)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    assert fields["general.architecture"] == "bert"
    assert fields["bert.pooling_type"] == gguf.PoolingType.MEAN
    assert fields["bert.attention.causal"] is False
    assert fields["tokenizer.ggml.token_type_count"] == 2
    assert fields["tokenizer.ggml.normalizer.lowercase"] is True
    assert fields["tokenizer.ggml.tokens"] == [
        *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"),
        *("\u2581light", "ly", "\u2581[unused1]"),
    ]
    control, normal = int(gguf.TokenType.CONTROL), int(gguf.TokenType.NORMAL)
    assert fields["tokenizer.ggml.token_type"] == [control] * 5 + [normal] * 3


def test_tensors(tmp_path: Path, tensors: Tensors) -> None:
    """Matrices are F16, everything else keeps its bits; what embeddings do not need is left out."""
    written = {tensor.name: tensor.data for tensor in convert(tmp_path / "tiny.gguf", tensors).tensors}
    assert len(written) == len(SHAPES) - 2
    source = tensors[f"{LAYER}.intermediate.dense.weight"]
    assert written["blk.0.ffn_up.weight"].dtype == np.float16
    np.testing.assert_array_equal(written["blk.0.ffn_up.weight"], source.astype(np.float16))
    np.testing.assert_array_equal(written["position_embd.weight"], tensors["embeddings.position_embeddings.weight"])
    np.testing.assert_array_equal(written["blk.0.attn_q.bias"], tensors[f"{LAYER}.attention.self.query.bias"])


def test_progress_counts_the_bytes(tmp_path: Path, tensors: Tensors) -> None:
    seen: list[int] = []
    convert(tmp_path / "tiny.gguf", tensors, progress=seen.append)
    assert sum(seen) == sum(tensor.nbytes for name, tensor in tensors.items() if not name.startswith("pooler"))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"config": {**CONFIG, "model_type": "roberta"}}, "only BERT"),
        ({"config": {**CONFIG, "position_embedding_type": "relative_key"}}, "absolute positions"),
        ({"config": {**CONFIG, "vocab_size": 9}}, "vocab.txt has 8 tokens"),
        ({"weights": b"not safetensors at all"}, "not a safetensors file"),
        ({"weights": b""}, "not a safetensors file"),
    ],
)
def test_unknown_model(tmp_path: Path, tensors: Tensors, changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConversionError, match=reason):
        convert(tmp_path / "tiny.gguf", tensors, **changes)


def test_missing_tensor(tmp_path: Path, tensors: Tensors) -> None:
    del tensors[f"{LAYER}.output.dense.bias"]
    with pytest.raises(ConversionError, match=r"lacks blk\.0\.ffn_down\.bias"):
        convert(tmp_path / "tiny.gguf", tensors)


def test_unknown_tensor(tmp_path: Path, tensors: Tensors) -> None:
    tensors["encoder.layer.1.output.dense.bias"] = tensors["pooler.dense.bias"]
    with pytest.raises(ConversionError, match=r"unknown tensor encoder\.layer\.1"):
        convert(tmp_path / "tiny.gguf", tensors)


def test_other_number_type(tmp_path: Path, tensors: Tensors) -> None:
    tensors["embeddings.LayerNorm.bias"] = tensors["embeddings.LayerNorm.bias"].astype(np.float16)
    with pytest.raises(ConversionError, match="is F16"):
        convert(tmp_path / "tiny.gguf", tensors)
