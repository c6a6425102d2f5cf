"""Tiny models with random weights, written with the `gguf` package: real files for real libllama, loaded in a blink.

What they compute is noise, but the same noise every time. Use them for behaviour that does not depend on meaning
(lifetimes, limits, damage); the demo models show that results are right.
"""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

N_EMBD, N_HEAD, N_HEAD_KV, N_FF, N_LAYER, N_CTX = 64, 4, 2, 96, 2, 512
N_VOCAB = 3 + 256 + 1 + 26


def llama(
    path: Path,
    seed: int = 1,
    architecture: str = "llama",
    n_head: int = N_HEAD,
    n_head_kv: int = N_HEAD_KV,
    n_head_dimensions: int = N_EMBD // N_HEAD,
) -> Path:
    """Writes a Llama of two layers with a SentencePiece vocabulary of bytes and letters."""
    random = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name("tiny")
    writer.add_context_length(N_CTX)
    writer.add_embedding_length(N_EMBD)
    writer.add_block_count(N_LAYER)
    writer.add_feed_forward_length(N_FF)
    writer.add_head_count(n_head)
    writer.add_head_count_kv(n_head_kv)
    writer.add_key_length(n_head_dimensions)
    writer.add_value_length(n_head_dimensions)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(n_head_dimensions)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    _add_vocab(writer)

    def weight(name: str, *shape: int) -> None:
        writer.add_tensor(name, random.normal(0, 0.3, shape).astype(np.float32))

    def norm(name: str) -> None:
        writer.add_tensor(name, np.ones(N_EMBD, np.float32))

    n_q, n_kv = n_head_dimensions * n_head, n_head_dimensions * n_head_kv
    weight("token_embd.weight", N_VOCAB, N_EMBD)
    norm("output_norm.weight")
    weight("output.weight", N_VOCAB, N_EMBD)
    for i in range(N_LAYER):
        norm(f"blk.{i}.attn_norm.weight")
        norm(f"blk.{i}.ffn_norm.weight")
        weight(f"blk.{i}.attn_q.weight", n_q, N_EMBD)
        weight(f"blk.{i}.attn_k.weight", n_kv, N_EMBD)
        weight(f"blk.{i}.attn_v.weight", n_kv, N_EMBD)
        weight(f"blk.{i}.attn_output.weight", N_EMBD, n_q)
        weight(f"blk.{i}.ffn_gate.weight", N_FF, N_EMBD)
        weight(f"blk.{i}.ffn_up.weight", N_FF, N_EMBD)
        weight(f"blk.{i}.ffn_down.weight", N_EMBD, N_FF)
    return _finish(writer, path)


def mamba(path: Path, seed: int = 1) -> Path:
    """Writes a Mamba of two layers: a recurrent model, whose memory cannot be cut."""
    n_inner, n_state, n_conv, n_rank = 2 * N_EMBD, 8, 4, 4
    random = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, "mamba")
    writer.add_context_length(N_CTX)
    writer.add_embedding_length(N_EMBD)
    writer.add_block_count(N_LAYER)
    writer.add_feed_forward_length(0)
    writer.add_head_count(0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_ssm_conv_kernel(n_conv)
    writer.add_ssm_inner_size(n_inner)
    writer.add_ssm_state_size(n_state)
    writer.add_ssm_time_step_rank(n_rank)
    _add_vocab(writer)

    def weight(name: str, *shape: int) -> None:
        writer.add_tensor(name, random.normal(0, 0.2, shape).astype(np.float32))

    weight("token_embd.weight", N_VOCAB, N_EMBD)
    writer.add_tensor("output_norm.weight", np.ones(N_EMBD, np.float32))
    for i in range(N_LAYER):
        writer.add_tensor(f"blk.{i}.attn_norm.weight", np.ones(N_EMBD, np.float32))
        weight(f"blk.{i}.ssm_in.weight", 2 * n_inner, N_EMBD)
        weight(f"blk.{i}.ssm_conv1d.weight", n_inner, n_conv)
        weight(f"blk.{i}.ssm_conv1d.bias", n_inner)
        weight(f"blk.{i}.ssm_x.weight", n_rank + 2 * n_state, n_inner)
        weight(f"blk.{i}.ssm_dt.weight", n_inner, n_rank)
        weight(f"blk.{i}.ssm_dt.bias", n_inner)
        writer.add_tensor(f"blk.{i}.ssm_a", -np.ones((n_inner, n_state), np.float32))
        writer.add_tensor(f"blk.{i}.ssm_d", np.ones(n_inner, np.float32))
        weight(f"blk.{i}.ssm_out.weight", N_EMBD, n_inner)
    return _finish(writer, path)


def gemma(path: Path, window: int = 16, seed: int = 1) -> Path:
    """Writes a Gemma 3 of six layers, of which five attend over a sliding window of so many tokens."""
    random = np.random.default_rng(seed)
    n_head = N_EMBD // N_HEAD
    writer = gguf.GGUFWriter(path, "gemma3")
    writer.add_context_length(N_CTX)
    writer.add_embedding_length(N_EMBD)
    writer.add_block_count(6)
    writer.add_feed_forward_length(N_FF)
    writer.add_head_count(N_HEAD)
    writer.add_head_count_kv(N_HEAD_KV)
    writer.add_key_length(n_head)
    writer.add_value_length(n_head)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_sliding_window(window)
    _add_vocab(writer)

    def weight(name: str, *shape: int) -> None:
        writer.add_tensor(name, random.normal(0, 0.3, shape).astype(np.float32))

    def norm(name: str, width: int = N_EMBD) -> None:
        writer.add_tensor(f"{name}.weight", np.ones(width, np.float32))

    weight("token_embd.weight", N_VOCAB, N_EMBD)
    norm("output_norm")
    for i in range(6):
        for name in ("attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm"):
            norm(f"blk.{i}.{name}")
        norm(f"blk.{i}.attn_q_norm", n_head)
        norm(f"blk.{i}.attn_k_norm", n_head)
        weight(f"blk.{i}.attn_q.weight", N_EMBD, N_EMBD)
        weight(f"blk.{i}.attn_k.weight", n_head * N_HEAD_KV, N_EMBD)
        weight(f"blk.{i}.attn_v.weight", n_head * N_HEAD_KV, N_EMBD)
        weight(f"blk.{i}.attn_output.weight", N_EMBD, N_EMBD)
        weight(f"blk.{i}.ffn_gate.weight", N_FF, N_EMBD)
        weight(f"blk.{i}.ffn_up.weight", N_FF, N_EMBD)
        weight(f"blk.{i}.ffn_down.weight", N_EMBD, N_FF)
    return _finish(writer, path)


def lora(path: Path, strength: float, rank: int = 4, architecture: str = "llama", tensor: str = "blk.0.attn_q") -> Path:
    """Writes a LoRA adapter for `llama`; with strength 0 it changes nothing."""
    random = np.random.default_rng(2)
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_string("general.type", "adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", float(rank))
    writer.add_tensor(f"{tensor}.weight.lora_a", random.normal(0, 0.3, (rank, N_EMBD)).astype(np.float32))
    writer.add_tensor(f"{tensor}.weight.lora_b", random.normal(0, strength, (N_EMBD, rank)).astype(np.float32))
    return _finish(writer, path)


def _add_vocab(writer: gguf.GGUFWriter) -> None:
    kinds = gguf.TokenType
    tokens = [b"<unk>", b"<s>", b"</s>"]
    types = [kinds.UNKNOWN, kinds.CONTROL, kinds.CONTROL]
    tokens += [f"<0x{byte:02X}>".encode() for byte in range(256)]
    types += [kinds.BYTE] * 256
    tokens += ["▁".encode()] + ["▁".encode() + bytes([letter]) for letter in range(ord("a"), ord("z") + 1)]
    types += [kinds.NORMAL] * 27
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([-float(i) for i in range(len(tokens))])
    writer.add_token_types(types)
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)


def _finish(writer: gguf.GGUFWriter, path: Path) -> Path:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
