"""How to set up a context, what is checked about it, and how much memory its KV cache takes."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from llama_native.control_groups import available_cpus
from llama_native.enums import Attention, FlashAttention, GgmlType, Pooling, RopeScaling
from llama_native.errors import ContextError
from llama_native.ffi import C, ffi
from llama_native.model import Model

_PAD = 256  # llama.cpp rounds context sizes up to this
_MAX_CTX = 1 << 30


@dataclass(frozen=True)
class ContextParams:
    """How to set up a context.

    :ivar n_ctx: tokens in the KV cache, over all sequences; 0 means the model's trained context.
    :ivar n_batch: most tokens in one call of `decode`.
    :ivar n_ubatch: most tokens computed at once; a batch is cut into such micro-batches.
    :ivar n_seq_max: how many sequences can be told apart (ids 0 to n_seq_max - 1).
    :ivar n_threads: threads for single tokens; 0 means one per available CPU.
    :ivar n_threads_batch: threads for prompts and batches; 0 means as many as `n_threads`.
    :ivar kv_unified: one KV cache shared by all sequences; otherwise each gets its own part (stream) of
        n_ctx / n_seq_max tokens.
    :ivar flash_attention: fused attention on, off, or as llama.cpp chooses.
    :ivar type_k, type_v: data types of the KV cache. A quantized `type_v` needs flash attention.
    :ivar pooling: how token embeddings become one vector per sequence; UNSPECIFIED follows the model.
    :ivar attention: causal or not; UNSPECIFIED follows the model.
    :ivar embeddings: compute embeddings.
    :ivar offload_kqv: keep the KV cache on the GPU, where there is one.
    :ivar op_offload: let the GPU take over large operations whose weights are in system memory.
    :ivar swa_full: keep the whole context of sliding-window layers too, so that a sequence can be cut anywhere. In a
        unified cache other sequences may still overwrite what is behind its window (see `Memory.can_continue`).
    :ivar n_outputs_max: most tokens of one batch with logits or embeddings; 0 means n_batch. A small number saves
        n_ubatch x vocabulary x 4 bytes of working memory.
    :ivar rope_scaling, rope_freq_base, rope_freq_scale: rotary embeddings; 0 and UNSPECIFIED follow the model.
    :ivar yarn_ext_factor, yarn_attn_factor, yarn_beta_fast, yarn_beta_slow, yarn_orig_ctx: YaRN scaling; negative
        values (0 for yarn_orig_ctx) follow the model. https://arxiv.org/abs/2309.00071
    :ivar measure: let llama.cpp keep the timings that `Context.performance` returns.
    """

    n_ctx: int = 0
    n_batch: int = 2048
    n_ubatch: int = 512
    n_seq_max: int = 1
    n_threads: int = 0
    n_threads_batch: int = 0
    kv_unified: bool = False
    flash_attention: FlashAttention = FlashAttention.AUTO
    type_k: GgmlType = GgmlType.F16
    type_v: GgmlType = GgmlType.F16
    pooling: Pooling = Pooling.UNSPECIFIED
    attention: Attention = Attention.UNSPECIFIED
    embeddings: bool = False
    offload_kqv: bool = True
    op_offload: bool = True
    swa_full: bool = False
    n_outputs_max: int = 0
    rope_scaling: RopeScaling = RopeScaling.UNSPECIFIED
    rope_freq_base: float = 0.0
    rope_freq_scale: float = 0.0
    yarn_ext_factor: float = -1.0
    yarn_attn_factor: float = -1.0
    yarn_beta_fast: float = -1.0
    yarn_beta_slow: float = -1.0
    yarn_orig_ctx: int = 0
    measure: bool = False

    def check(self, model: Model) -> None:
        """Raises `ContextError` for sizes that llama.cpp or this machine cannot serve."""
        max_seq = int(C.llama_max_parallel_sequences())
        limits = {
            "n_ctx": (0, _MAX_CTX),
            "n_batch": (1, 1 << 24),
            "n_ubatch": (1, 1 << 24),
            "n_seq_max": (1, max_seq),
            "n_threads": (0, int(C.GGML_MAX_N_THREADS)),
            "n_threads_batch": (0, int(C.GGML_MAX_N_THREADS)),
            "n_outputs_max": (0, 1 << 24),
            "yarn_orig_ctx": (0, _MAX_CTX),
        }
        for name, (low, high) in limits.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise ContextError(f"{name} is {value}, allowed are {low} to {high}")
        if model.params.vocab_only:
            raise ContextError("the model was loaded with vocab_only, so it has no weights to compute with")
        if (self.n_ctx or model.n_ctx_train) < 1:
            raise ContextError("the model does not say its context length: set n_ctx")
        n_outputs = self.n_outputs_max or min(self.n_batch, self._n_ctx(model))
        if n_outputs < self.n_seq_max:
            raise ContextError(f"n_batch or n_outputs_max ({n_outputs}) is smaller than n_seq_max ({self.n_seq_max})")
        needed, installed = kv_cache_bytes(model, self), _installed_memory()
        if needed > installed and not model.params.n_gpu_layers:
            raise ContextError(
                f"the KV cache would take {needed / 2**30:.1f} GiB, this machine has {installed / 2**30:.1f} GiB: "
                "lower n_ctx or n_seq_max"
            )

    def _n_ctx(self, model: Model) -> int:
        n_ctx = self.n_ctx or model.n_ctx_train
        if not self.kv_unified:
            return _padded(-(-_padded(n_ctx) // self.n_seq_max)) * self.n_seq_max
        return _padded(n_ctx)

    def to_c(self) -> Any:
        """Returns a `struct llama_context_params *`."""
        params = ffi.new("struct llama_context_params *", C.llama_context_default_params())
        params.n_ctx = self.n_ctx
        params.n_batch = self.n_batch
        params.n_ubatch = self.n_ubatch
        params.n_seq_max = self.n_seq_max
        params.n_outputs_max = self.n_outputs_max
        params.n_threads = self.n_threads or available_cpus()
        params.n_threads_batch = self.n_threads_batch or params.n_threads
        params.rope_scaling_type = self.rope_scaling
        params.pooling_type = self.pooling
        params.attention_type = self.attention
        params.flash_attn_type = self.flash_attention
        params.rope_freq_base = self.rope_freq_base
        params.rope_freq_scale = self.rope_freq_scale
        params.yarn_ext_factor = self.yarn_ext_factor
        params.yarn_attn_factor = self.yarn_attn_factor
        params.yarn_beta_fast = self.yarn_beta_fast
        params.yarn_beta_slow = self.yarn_beta_slow
        params.yarn_orig_ctx = self.yarn_orig_ctx
        params.type_k = self.type_k
        params.type_v = self.type_v
        params.embeddings = self.embeddings
        params.offload_kqv = self.offload_kqv
        params.op_offload = self.op_offload
        params.swa_full = self.swa_full
        params.kv_unified = self.kv_unified
        params.no_perf = not self.measure
        return params


def kv_cache_bytes(model: Model, params: ContextParams) -> int:
    """Returns the bytes of the KV cache that a context with `params` allocates.

    Exact for models with plain attention. For sliding-window models it counts every layer in full (an upper bound),
    and for recurrent ones it returns 0.
    """
    if model.is_recurrent or not (model.can_generate or model.has_encoder):
        return 0
    meta, arch = model.header.metadata, model.architecture

    def per_layer(key: str, default: int) -> list[int]:
        value = meta.get(f"{arch}.attention.{key}", default)
        values = value if isinstance(value, tuple) else (value,) * model.n_layer
        return [int(item) for item in values if isinstance(item, int)]

    head = model.n_embd // max(1, model.n_head)
    heads = per_layer("head_count_kv", model.n_head_kv)
    widths_k, widths_v = per_layer("key_length", head), per_layer("value_length", head)
    n_cells = params._n_ctx(model)
    return sum(
        n_cells * (n * _row_bytes(params.type_k, k) + n * _row_bytes(params.type_v, v))
        for n, k, v in zip(heads, widths_k, widths_v, strict=False)
    )


def _row_bytes(kind: GgmlType, n: int) -> int:
    return int(n * C.ggml_type_size(kind) // C.ggml_blck_size(kind))


def _padded(n: int) -> int:
    return -(-n // _PAD) * _PAD


def _installed_memory() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
