"""Writes a BERT sentence-embedding model as GGUF: safetensors, configuration and vocabulary in, one file out.

It knows the two formats and llama.cpp's conventions for the architecture "bert": tensor names, metadata keys, and the
WordPiece vocabulary with a leading U+2581 on tokens that begin a word (continuations lose their "##"). It does not
know where the files come from, and it needs neither PyTorch nor transformers.

Sources: the safetensors format description (8 bytes of little-endian header length, JSON header, raw tensors), the
GGUF specification, and the metadata keys that llama.cpp reads for LLM_ARCH_BERT and LLAMA_VOCAB_TYPE_WPM.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
# Not used for embeddings: the position numbers are implied, the pooler belongs to next-sentence prediction.
UNUSED_TENSORS = ("embeddings.position_ids", "pooler.dense.weight", "pooler.dense.bias")


class ConversionError(Exception):
    """The source model is not what this converter understands."""


def read_safetensors(data: bytes) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """Yield the name and the array of each 32-bit float tensor in a safetensors file.

    :param data: the whole file.
    :raises ConversionError: the header is not that of a safetensors file, or a tensor has another type than F32.
    """
    try:
        start = 8 + int.from_bytes(data[:8], "little")
        header: dict[str, Any] = json.loads(data[8:start])
    except ValueError as error:
        raise ConversionError(f"not a safetensors file: {error}") from error
    for name, entry in header.items():
        if name == "__metadata__" or name in UNUSED_TENSORS:
            continue
        if entry["dtype"] != "F32":
            raise ConversionError(f"tensor {name} is {entry['dtype']}; only F32 can be converted")
        first, last = entry["data_offsets"]
        yield name, np.frombuffer(data[start + first : start + last], dtype="<f4").reshape(entry["shape"])


def wordpiece_tokens(vocabulary: str) -> tuple[list[str], list[int]]:
    """Turn a BERT vocab.txt into llama.cpp's spelling of its tokens, and their token types.

    :param vocabulary: one token a line; the line number is the token id.
    """
    tokens, types = [], []
    for token in vocabulary.removesuffix("\n").split("\n"):
        if token in SPECIAL_TOKENS:
            tokens.append(token)
            types.append(int(gguf.TokenType.CONTROL))
        else:
            tokens.append(token[2:] if token.startswith("##") else "\u2581" + token)
            types.append(int(gguf.TokenType.NORMAL))
    return tokens, types


def write_bert_gguf(
    path: Path,
    *,
    name: str,
    license_id: str,
    config: Mapping[str, Any],
    vocabulary: str,
    lowercase: bool,
    weights: bytes,
    progress: Callable[[int], object] | None = None,
) -> None:
    """Write a BERT encoder with mean pooling as a GGUF file: matrices as F16, vectors and position rows as F32.

    :param path: the file to write; overwritten.
    :param name: the model's name, for the metadata.
    :param license_id: SPDX identifier of its licence.
    :param config: the model's config.json.
    :param vocabulary: the model's vocab.txt.
    :param lowercase: whether the tokenizer folds case and drops accents ("uncased").
    :param weights: the model's model.safetensors.
    :param progress: called with the number of bytes of `weights` dealt with, tensor by tensor.
    :raises ConversionError: the model is not a plain BERT, or a tensor is missing, unknown or of the wrong type.
    """
    if config.get("model_type") != "bert" or config.get("position_embedding_type", "absolute") != "absolute":
        raise ConversionError("only BERT with absolute positions can be converted")
    tokens, types = wordpiece_tokens(vocabulary)
    if len(tokens) != config["vocab_size"]:
        raise ConversionError(f"vocab.txt has {len(tokens)} tokens, config.json says {config['vocab_size']}")

    layers = int(config["num_hidden_layers"])
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[gguf.MODEL_ARCH.BERT])
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name(name)
    writer.add_license(license_id)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_block_count(layers)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_layer_norm_eps(config["layer_norm_eps"])
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType.MEAN)

    writer.add_tokenizer_model("bert")
    writer.add_tokenizer_pre("default")
    writer.add_bool("tokenizer.ggml.normalizer.lowercase", lowercase)
    writer.add_bool("tokenizer.ggml.normalizer.strip_accents", lowercase)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_type_count(config["type_vocab_size"])
    writer.add_pad_token_id(tokens.index("[PAD]"))
    writer.add_unk_token_id(tokens.index("[UNK]"))
    writer.add_bos_token_id(tokens.index("[CLS]"))
    writer.add_eos_token_id(tokens.index("[SEP]"))
    writer.add_sep_token_id(tokens.index("[SEP]"))
    writer.add_mask_token_id(tokens.index("[MASK]"))
    writer.add_add_bos_token(True)
    writer.add_add_sep_token(True)

    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.BERT, layers)
    missing = set(_required_tensors(layers))
    for source_name, tensor in read_safetensors(weights):
        gguf_name = names.get_name(source_name, try_suffixes=(".weight", ".bias"))
        if gguf_name not in missing:
            raise ConversionError(f"unknown tensor {source_name}")
        missing.remove(gguf_name)
        is_matrix = tensor.ndim == 2 and gguf_name not in ("position_embd.weight", "token_types.weight")
        writer.add_tensor(gguf_name, tensor.astype(np.float16) if is_matrix else tensor)
        if progress is not None:
            progress(tensor.nbytes)
    if missing:
        raise ConversionError(f"the source lacks {', '.join(sorted(missing))}")

    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _required_tensors(layers: int) -> Iterator[str]:
    yield from ("token_embd.weight", "position_embd.weight", "token_types.weight")
    modules = ["token_embd_norm"]
    for layer in range(layers):
        parts = (
            "attn_q",
            "attn_k",
            "attn_v",
            "attn_output",
            "attn_output_norm",
            "ffn_up",
            "ffn_down",
            "layer_output_norm",
        )
        modules += [f"blk.{layer}.{part}" for part in parts]
    for module in modules:
        yield from (f"{module}.weight", f"{module}.bias")
