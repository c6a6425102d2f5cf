"""Every exception of llama_native, and the one place that turns C return values into them.

All derive from `LlamaError`, so one `except` catches whatever the library can say. It knows llama.cpp's return codes
and how the C helpers report a guarded failure (decl/shim.h); it does not know who called.
"""

from __future__ import annotations

import re

from llama_native.ffi import C, text

_FUNCTION = re.compile(r"^\w+: ")  # llama.cpp begins a line with the name of the function that logs it


class LlamaError(Exception):
    """Base class of all errors of llama_native."""


class ClosedError(LlamaError):
    """The object was used after `close()`."""


class ModelLoadError(LlamaError):
    """A model file could not be loaded. The subclasses say which kind of failure it was."""


class ModelNotFound(ModelLoadError):
    """There is no such file, it is a directory, or it cannot be read."""


class NotGGUF(ModelLoadError):
    """The file is not a GGUF file, or its header contradicts itself."""


class TruncatedGGUF(ModelLoadError):
    """The file ends before the data that its header announces."""


class UnsupportedModel(ModelLoadError):
    """A sound GGUF file whose architecture or tokenizer this build of llama.cpp does not know."""


class LoadCancelled(ModelLoadError):
    """The progress callback returned False."""


class RpcError(LlamaError):
    """The devices of another machine cannot be used: this build has no RPC backend, or the server does not answer."""


class ContextError(LlamaError):
    """A context could not be created, or it is unusable after a fatal error, or in use by another thread."""


class TokenizeError(LlamaError):
    """Text could not be tokenized, or tokens not turned back into text."""


class SequenceError(LlamaError):
    """A memory operation named a sequence or a range that this context does not support."""


class SamplingError(LlamaError):
    """No token could be sampled: the logits are not finite, or the chain left no candidate."""


class GrammarError(LlamaError):
    """A grammar could not be parsed, or a token was accepted that it does not allow."""


class StateError(LlamaError):
    """Saved state could not be written, or does not fit this model and context, or is damaged."""


class LoraError(LlamaError):
    """A LoRA adapter could not be loaded or does not belong to this model."""


class QuantizeError(LlamaError):
    """A model file could not be quantized."""


class DecodeError(LlamaError):
    """A batch could not be processed. `code` is llama.cpp's return code."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class KVCacheFull(DecodeError):
    """No room in the KV cache for the batch (code 1). The memory is as it was before the call."""


class DecodeAborted(DecodeError):
    """`Context.abort()` stopped the call (code 2). Micro-batches done before it stay in the memory."""


class InvalidBatch(DecodeError):
    """The batch breaks a rule (code -1): ids, positions, sizes. The memory is unchanged."""


class DecodeFailed(DecodeError):
    """Computing failed (code below -1). Micro-batches done before it stay in the memory."""


def failure_reason(default: str) -> str:
    """Returns why this thread's last guarded call failed: what it threw, else what llama.cpp logged, else `default`."""
    return text(C.lucid_message()) or log_reason() or default


def log_reason() -> str:
    """Returns the error lines llama.cpp logged on this thread since its last guarded call began, joined by "; "."""
    lines = text(C.lucid_log_errors()).splitlines()
    return "; ".join(_FUNCTION.sub("", line).strip() for line in lines)


def assertion_failed() -> bool:
    """Returns whether this thread's last guarded call was ended by a failed assertion inside llama.cpp."""
    return bool(C.lucid_failure() == C.LUCID_ASSERTION)


def decode_error(code: int) -> DecodeError:
    """Returns the exception for a return code of decode, encode or step other than 0."""
    if code == 1:
        return KVCacheFull("no room in the KV cache for this batch", code)
    if code == 2:
        return DecodeAborted("aborted on request", code)
    if code == C.LUCID_CODE_BAD_BATCH:
        return InvalidBatch(text(C.lucid_message()), -1)
    if code == -1:
        return InvalidBatch(log_reason() or "llama.cpp rejected the batch", code)
    return DecodeFailed(failure_reason(f"llama.cpp failed with code {code}"), code)
