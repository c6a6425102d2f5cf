"""A context: one model, a memory for its sequences, and the calls that compute.

A context belongs to one thread at a time: a second thread that calls in gets a `ContextError` instead of undefined
behaviour. Only `abort()` may be called from anywhere at any time. The GIL is free while C computes.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from llama_native import log, state
from llama_native.arrays import Floats, TokenLike, Tokens
from llama_native.batch import Batch
from llama_native.context_params import ContextParams
from llama_native.enums import Pooling
from llama_native.errors import ContextError, DecodeAborted, LlamaError, SequenceError, decode_error, failure_reason
from llama_native.ffi import NULL, C, ffi, text
from llama_native.handle import Handle, Resource
from llama_native.lora import LoraAdapter
from llama_native.mask import Mask, mask_pointer
from llama_native.memory import Memory
from llama_native.model import Model
from llama_native.results import Performance, StepResult
from llama_native.sampler import Sampler
from llama_native.threadpool import ThreadPool


class Context(Resource):
    """A context for `model`.

    :raises ContextError: the parameters do not fit the model or the machine; the message says why.
    """

    def __init__(self, model: Model, params: ContextParams | None = None) -> None:
        log.sync_level()
        model_handle = model._live()
        params = params or ContextParams()
        params.check(model)
        self.model = model
        self._model_handle = model_handle
        self.params = params
        self._broken: str | None = None
        self._busy = threading.Lock()
        self._abort_flag = ffi.new("int32_t *")
        c_params = params.to_c()
        c_params.abort_callback = C.lucid_abort_requested
        c_params.abort_callback_data = self._abort_flag
        pointer = C.lucid_context_new(model_handle.pointer, c_params)
        if pointer == ffi.NULL:
            raise ContextError(f"llama.cpp could not create the context: {failure_reason('it gave no reason')}")
        self._handle = Handle(pointer, C.llama_free, model_handle, self._abort_flag)
        self._threads_wanted = (int(c_params.n_threads), int(c_params.n_threads_batch))
        self._pools: tuple[tuple[Handle, int], ...] = ()
        self._retired_pools: tuple[tuple[Handle, int], ...] = ()
        self._loras: tuple[Handle, ...] = ()

        self.n_ctx = int(C.llama_n_ctx(pointer))
        """Tokens in the KV cache, over all sequences."""
        self.n_ctx_seq = int(C.llama_n_ctx_seq(pointer))
        """Tokens that one sequence can have."""
        self.n_batch = int(C.llama_n_batch(pointer))
        """Most tokens in one `decode`."""
        self.n_ubatch = int(C.llama_n_ubatch(pointer))
        """Most tokens computed at once."""
        self.n_seq_max = params.n_seq_max
        """How many sequences can be told apart."""
        self.n_vocab = model.vocab.n_tokens
        """Length of a row of logits."""
        self.pooling = Pooling(C.llama_pooling_type(pointer))
        """How token embeddings become one vector per sequence."""
        self.causal = bool(C.llama_get_causal_attn(pointer))
        """Whether a token attends only to those before it."""
        self.n_embd_out = model.n_embd_out
        """Length of an embedding vector."""
        self._n_classes = model.n_classes
        self._has_encoder = model.has_encoder
        self._window = model.n_swa
        self._recurrent = model.is_recurrent or model.is_hybrid
        self._memory = C.llama_get_memory(pointer)

        has_memory = self._memory != ffi.NULL
        pools = params.embeddings and self.pooling != Pooling.NONE
        if pools and has_memory and self.n_seq_max > 1 and not params.kv_unified:
            self.close()
            raise ContextError("pooling several sequences needs kv_unified for this model")  # else vectors are wrong
        one_shot = pools or not (self.causal and has_memory)  # such batches must not be cut into micro-batches
        self.max_batch = min(self.n_batch, self.n_ubatch) if one_shot else self.n_batch
        """Most tokens that one call takes: n_batch, or n_ubatch if attention is not causal or embeddings are pooled."""
        self._limits = ffi.new("lucid_limits *")
        self._limits.n_vocab = self.n_vocab
        self._limits.n_tokens_max = self.max_batch
        self._limits.n_seq_max = self.n_seq_max
        self._limits.n_outputs_max = params.n_outputs_max or self.n_batch
        self._limits.all_outputs = params.embeddings or not has_memory
        self._limits.kernels = model.params.kernels
        self._seconds = ffi.new("double[2]")
        self._reserve_rows(16)

    def __repr__(self) -> str:
        return f"<Context n_ctx={self.n_ctx} n_seq_max={self.n_seq_max}{' (closed)' if self.closed else ''}>"

    @property
    def memory(self) -> Memory:
        """The memory (KV cache) of this context."""
        return Memory(self, self._memory)

    # Computing

    def decode(self, batch: Batch) -> None:
        """Computes the batch and keeps its tokens in the memory.

        :raises InvalidBatch: an id or position is out of range, positions do not continue the sequence, or the batch
            is empty or too large.
        :raises KVCacheFull: no room; the memory is unchanged.
        :raises DecodeAborted: `abort()` was called.
        :raises DecodeFailed: computing failed.
        """
        self._compute(C.lucid_decode, batch)

    def encode(self, batch: Batch) -> None:
        """Computes the batch with the model's encoder, without memory. Raises as `decode` does.

        :raises ContextError: the model has no encoder and is not an embedding model.
        """
        if self._memory != ffi.NULL and not self._has_encoder:
            raise ContextError("this model has no encoder: use decode")
        self._compute(C.lucid_encode, batch)

    def step(
        self,
        batch: Batch,
        rows: TokenLike = (),
        samplers: Sequence[Sampler | None] = (),
        masks: Sequence[Mask | None] = (),
    ) -> StepResult:
        """Decodes the batch, then samples a token for each row, in one C call.

        :param rows: indices into the batch, of tokens whose output flag is set.
        :param samplers: one for each row, which then accepts its token; None takes the largest logit.
        :param masks: none, or one for each row (see `llama_native.mask`): its sampler sees the allowed tokens only.
        :returns: the tokens and how long it took. A row that cannot be sampled (nothing is allowed, or NaN) has token
            -1 and an entry in `failures`; the other rows are not affected.
        :raises: what `decode` raises, before anything is sampled.
        """
        n = len(rows)
        if len(samplers) != n:
            raise ValueError(f"{n} rows need {n} samplers, not {len(samplers)}")
        if masks and len(masks) != n:
            raise ValueError(f"{n} rows need {n} masks or none, not {len(masks)}")
        if n > len(self._rows_c):
            self._reserve_rows(n)
        rows_c, pointers, masks_c = self._rows_c, self._sampler_pointers, self._mask_pointers
        with self._exclusive() as handle:
            # Plain C arrays: numpy's code would be out of the processor's caches after every decode.
            keep = [None if sampler is None else sampler._live() for sampler in samplers]
            for k, owner in enumerate(keep):
                rows_c[k] = rows[k]
                pointers[k] = NULL if owner is None else owner.pointer
                masks_c[k] = mask_pointer(masks[k], self.n_vocab) if masks else NULL
            self._limits.n_seq_per_token = batch.n_seq_max if self.params.kv_unified else 1
            code = C.lucid_decode_sample(
                handle.pointer, batch._c, self._limits, rows_c, pointers, masks_c, n, self._tokens_c, self._seconds
            )
            self._retired_pools = ()
            if code != 0:
                raise self._decode_failed(code)
            tokens = ffi.unpack(self._tokens_c, n)
            failures = {k: text(C.lucid_row_message(k)) for k in range(n) if tokens[k] < 0} if -1 in tokens else {}
        return StepResult(tokens, self._seconds[0], self._seconds[1], failures)

    def synchronize(self) -> None:
        """Waits until all computing is done; only a GPU may still be at work after `decode`."""
        with self._exclusive() as handle:
            if not C.lucid_synchronize(handle.pointer):
                raise ContextError(failure_reason("llama.cpp could not finish the computation"))

    def abort(self) -> None:
        """Makes the running call, or the next one, stop with `DecodeAborted`. Callable from any thread.

        The request is used up when that error is raised; after it the context works as before. Only the CPU backend
        looks at it.
        """
        self._abort_flag[0] = 1

    def reset_abort(self) -> None:
        """Withdraws an abort request that has not stopped anything yet."""
        self._abort_flag[0] = 0

    # Results. The arrays are views of llama.cpp's memory: valid until the next decode, encode or step.

    def logits(self, row: int) -> Floats:
        """Returns the logits (n_vocab,) of the token at index `row` of the last batch; -1 is the last output.

        A view, without copying: read it before the next call that computes, or copy it.
        Raises `ContextError` if that token has no output.
        """
        return self._view(C.lucid_logits, (self.n_vocab,), "logits", row)

    def logits_all(self, n_outputs: int) -> Floats:
        """Returns the logits of the first `n_outputs` outputs of the last batch, (n_outputs, n_vocab). A view."""
        if n_outputs < 1:
            raise ValueError(f"{n_outputs} outputs")
        self._view(C.lucid_logits, (self.n_vocab,), "logits", -n_outputs)  # fails unless there are that many
        return self._view(C.lucid_logits_all, (n_outputs, self.n_vocab), "logits")

    def embeddings(self, row: int) -> Floats:
        """Returns the embedding (n_embd_out,) of the token at index `row` of the last batch. A view.

        Raises `ContextError` if there is none: the context was created without `embeddings`, or it pools.
        """
        return self._view(C.lucid_embeddings, (self.n_embd_out,), "embeddings", row)

    def embeddings_seq(self, seq: int) -> Floats:
        """Returns the pooled embedding (n_embd_out,) of a sequence of the last batch; a reranker's scores. A view."""
        self._check_sequence(seq)
        length = self._n_classes if self.pooling == Pooling.RANK else self.n_embd_out
        return self._view(C.lucid_embeddings_seq, (length,), "pooled embeddings", seq)

    def _view(self, function: Any, shape: tuple[int, ...], what: str, *arguments: int) -> Floats:
        with self._exclusive() as handle:
            pointer = function(handle.pointer, *arguments)
            if pointer == ffi.NULL:
                raise ContextError(f"there are no {what} here: {failure_reason('nothing was computed for it')}")
        owned = ffi.gc(pointer, partial(_keep, handle))  # the array keeps the context's memory, even after close()
        return np.frombuffer(ffi.buffer(owned, 4 * math.prod(shape)), np.float32).reshape(shape)

    # Threads

    @property
    def threads(self) -> tuple[int, int]:
        """Threads in use for single tokens, and for batches."""
        handle = self._live()
        return int(C.llama_n_threads(handle.pointer)), int(C.llama_n_threads_batch(handle.pointer))

    def set_threads(self, n_threads: int, n_threads_batch: int | None = None) -> None:
        """Sets how many threads compute single tokens and batches. An attached pool with fewer threads limits it.

        Raises `ValueError` for less than 1.
        """
        wanted = (n_threads, n_threads if n_threads_batch is None else n_threads_batch)
        if not all(1 <= n <= C.GGML_MAX_N_THREADS for n in wanted):
            raise ValueError(f"{wanted[0]} and {wanted[1]} threads are out of range")
        with self._exclusive() as handle:
            self._threads_wanted = wanted
            self._apply_threads(handle)

    def attach_threadpool(self, pool: ThreadPool, batch_pool: ThreadPool | None = None) -> None:
        """Computes with the threads of `pool`, and batches with those of `batch_pool` if given.

        A pool computes for one context at a time. The context keeps the pools alive until it is done with them.
        """
        pools = [(p._live(), p.n_threads) for p in (pool, batch_pool or pool)]
        with self._exclusive() as handle:
            C.llama_attach_threadpool(handle.pointer, *(p.pointer for p, _ in pools))
            self._retire_pools(tuple(pools))
            self._apply_threads(handle)

    def detach_threadpool(self) -> None:
        """Computes with llama.cpp's own threads again."""
        with self._exclusive() as handle:
            C.llama_detach_threadpool(handle.pointer)
            self._retire_pools(())
            self._apply_threads(handle)

    def _apply_threads(self, handle: Handle) -> None:
        # ggml does not check that the pool has as many threads as it uses.
        limits = [n for _, n in self._pools] or self._threads_wanted
        C.llama_set_n_threads(handle.pointer, *map(min, self._threads_wanted, limits))

    def _retire_pools(self, new: tuple[tuple[Handle, int], ...]) -> None:
        # The backend touches the old pool once more at the next decode, so it must live until then.
        self._retired_pools += self._pools
        self._pools = new

    # Saved state (state.py)

    def sequence_state(self, seq: int) -> bytes:
        """Returns what the memory holds of sequence `seq`, for `restore_sequence`. Raises `StateError`."""
        return state.sequence_state(self, seq)

    def restore_sequence(self, seq: int, data: bytes | memoryview) -> None:
        """Replaces what sequence `seq` holds by saved state, of this or another sequence of the same model.

        :raises StateError: the data is damaged, was saved with another model or cache layout, or does not fit.
        """
        state.restore_sequence(self, seq, data)

    def save_sequence(self, path: str | os.PathLike[str], seq: int, tokens: TokenLike) -> None:
        """Writes the state of sequence `seq` and its tokens to a file, all or nothing. Raises `StateError`."""
        state.save_sequence(self, path, seq, tokens)

    def load_sequence(self, path: str | os.PathLike[str], seq: int) -> Tokens:
        """Restores sequence `seq` from a file of `save_sequence` and returns its tokens. Raises `StateError`."""
        return state.load_sequence(self, path, seq)

    def state(self) -> bytes:
        """Returns what the memory holds of all sequences, for `restore_state`. Raises `StateError`."""
        return state.state(self)

    def restore_state(self, data: bytes | memoryview) -> None:
        """Replaces the whole memory by saved state. Raises `StateError` as `restore_sequence` does."""
        state.restore_state(self, data)

    # Adapters, timings

    def set_loras(self, adapters: Sequence[tuple[LoraAdapter, float]]) -> None:
        """Applies these LoRA adapters with these scales from now on, and no others. Empty removes all.

        What is already in the memory was computed without them. Raises `LoraError` for an adapter of another model.
        """
        handles = [adapter._for_model(self._model_handle) for adapter, _ in adapters]
        pointers = ffi.new("struct llama_adapter_lora *[]", [h.pointer for h in handles] or 1)
        scales = ffi.new("float[]", [scale for _, scale in adapters] or 1)
        with self._exclusive() as handle:
            if not C.lucid_lora_set(handle.pointer, pointers, len(handles), scales):
                raise ContextError(failure_reason("llama.cpp could not apply the adapters"))
            self._loras = tuple(handles)

    def performance(self) -> Performance:
        """Returns llama.cpp's own timings; all zero unless the context was created with `measure=True`."""
        data = C.llama_perf_context(self._live().pointer)
        return Performance(
            data.t_load_ms / 1e3,
            data.t_p_eval_ms / 1e3,
            data.t_eval_ms / 1e3,
            data.n_p_eval,
            data.n_eval,
            data.n_reused,
        )

    def reset_performance(self) -> None:
        """Sets the timings back to zero."""
        C.llama_perf_context_reset(self._live().pointer)

    # Internals

    def _compute(self, function: Any, batch: Batch) -> None:
        with self._exclusive() as handle:
            self._limits.n_seq_per_token = batch.n_seq_max if self.params.kv_unified else 1
            code = function(handle.pointer, batch._c, self._limits)
            self._retired_pools = ()
            if code != 0:
                raise self._decode_failed(code)

    def _check_sequence(self, seq: int) -> None:
        if not 0 <= seq < self.n_seq_max:
            raise SequenceError(f"sequence {seq} is outside 0..{self.n_seq_max - 1}")

    def _decode_failed(self, code: int) -> LlamaError:
        error = decode_error(code)
        if isinstance(error, DecodeAborted):
            self.reset_abort()
        if code == C.LUCID_CODE_GUARDED:
            self._poison(str(error))
        return error

    def _poison(self, reason: str) -> None:
        """From now on every call fails: llama.cpp stopped in the middle of something."""
        self._broken = reason

    def _exclusive(self) -> _Exclusive:
        """Lets one thread in: `with context._exclusive() as handle`."""
        return _Exclusive(self)

    def _reserve_rows(self, n: int) -> None:
        self._rows_c = ffi.new("int32_t[]", n)
        self._tokens_c = ffi.new("int32_t[]", n)
        self._sampler_pointers = ffi.new("struct llama_sampler *[]", n)
        self._mask_pointers = ffi.new("uint32_t *[]", n)


class _Exclusive:
    """One thread's turn at a context. Gives the handle, which keeps the C object even if another thread closes it."""

    __slots__ = ("_context",)

    def __init__(self, context: Context) -> None:
        self._context = context

    def __enter__(self) -> Handle:
        context = self._context
        if not context._busy.acquire(blocking=False):
            raise ContextError("the context is in use by another thread")
        handle = context._handle
        if handle is None or context._broken is not None:
            context._busy.release()
            context._live()
            raise ContextError(f"the context is unusable after an internal failure: {context._broken}")
        return handle

    def __exit__(self, *_: object) -> None:
        self._context._busy.release()


def _keep(*_: object) -> None:
    """Does nothing; a partial of it holds on to its arguments."""
