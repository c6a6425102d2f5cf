"""Saved state: the memory of a sequence, or of a whole context, as bytes or in a file.

llama.cpp trusts the data it restores, so it is wrapped in an envelope: a magic, the model and the cache layout it was
made with, sizes and a checksum. Data from elsewhere, cut off or changed gives a `StateError` and nothing is touched.
Restoring needs the same model file, cache types and number of streams; the context may be larger or smaller. If the
tokens do not fit, the sequence is empty after the error. Files are written completely or not at all.
"""

from __future__ import annotations

import os
import struct
import zlib
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llama_native.arrays import TokenLike, Tokens, token_array
from llama_native.errors import StateError, assertion_failed, failure_reason
from llama_native.ffi import C, ffi

if TYPE_CHECKING:
    from llama_native.context import Context

_MAGIC = b"LUCIDKV1"
_SEQUENCE, _WHOLE = 1, 2
# magic, kind, fingerprint, token count, payload size, checksum of tokens and payload
_HEADER = struct.Struct("<8sI16sIQI")


def sequence_state(context: Context, seq: int, tokens: TokenLike = ()) -> bytes:
    """Returns the state of one sequence. See `Context.sequence_state`."""
    context._check_sequence(seq)
    with context._exclusive() as handle:
        size = int(C.lucid_sequence_size(handle.pointer, seq))
        data = ffi.new("uint8_t[]", max(size, 1))
        if size == 0 or int(C.lucid_sequence_get(handle.pointer, seq, data, size)) != size:
            raise _failed(context, "the state of the sequence could not be read")
        return _pack(context, _SEQUENCE, token_array(tokens), ffi.buffer(data, size))


def restore_sequence(context: Context, seq: int, data: bytes | memoryview) -> Tokens:
    """Replaces what sequence `seq` holds. Returns the tokens saved with it. See `Context.restore_sequence`."""
    context._check_sequence(seq)
    tokens, payload = _unpack(context, _SEQUENCE, data)
    with context._exclusive() as handle:
        pointer = ffi.from_buffer("uint8_t[]", payload)
        if not C.lucid_sequence_set(handle.pointer, seq, pointer, len(payload)):
            raise _failed(context, "the state of the sequence could not be restored")
    return tokens


def save_sequence(context: Context, path: str | os.PathLike[str], seq: int, tokens: TokenLike) -> None:
    """Writes the state of one sequence and its tokens to a file. See `Context.save_sequence`."""
    target = Path(path)
    partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
    data = sequence_state(context, seq, tokens)
    try:
        partial.write_bytes(data)
        partial.replace(target)
    except OSError as error:
        raise StateError(f"{target}: {error.strerror or error}") from error
    finally:
        partial.unlink(missing_ok=True)


def load_sequence(context: Context, path: str | os.PathLike[str], seq: int) -> Tokens:
    """Restores a sequence from a file and returns its tokens. See `Context.load_sequence`."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise StateError(f"{path}: {error.strerror or error}") from error
    return restore_sequence(context, seq, data)


def state(context: Context) -> bytes:
    """Returns the state of the whole context. See `Context.state`."""
    with context._exclusive() as handle:
        size = int(C.lucid_state_size(handle.pointer))
        data = ffi.new("uint8_t[]", max(size, 1))
        if size == 0 or int(C.lucid_state_get(handle.pointer, data, size)) != size:
            raise _failed(context, "the state could not be read")
        return _pack(context, _WHOLE, np.empty(0, np.int32), ffi.buffer(data, size))


def restore_state(context: Context, data: bytes | memoryview) -> None:
    """Replaces everything the context's memory holds. See `Context.restore_state`."""
    _, payload = _unpack(context, _WHOLE, data)
    with context._exclusive() as handle:
        if not C.lucid_state_set(handle.pointer, ffi.from_buffer("uint8_t[]", payload), len(payload)):
            raise _failed(context, "the state could not be restored")


def _fingerprint(context: Context, kind: int) -> bytes:
    """Returns what must be equal for a restore to make sense: the model, and how its cache is laid out."""
    params, header = context.params, context.model.header
    n_streams = 1 if params.kv_unified else context.n_seq_max
    layout: list[object] = [params.type_k, params.type_v, params.flash_attention, params.swa_full, n_streams]
    if kind == _WHOLE:
        layout += [context.n_seq_max]
    tensors = [(name, t.dims, t.type) for name, t in header.tensors.items()]
    return blake2b(repr((layout, header.metadata, tensors)).encode(), digest_size=16).digest()


def _pack(context: Context, kind: int, tokens: Tokens, payload: Any) -> bytes:
    body = tokens.astype("<i4").tobytes() + bytes(payload)
    fingerprint = _fingerprint(context, kind)
    return _HEADER.pack(_MAGIC, kind, fingerprint, len(tokens), len(payload), zlib.crc32(body)) + body


def _unpack(context: Context, kind: int, data: bytes | memoryview) -> tuple[Tokens, memoryview]:
    view = memoryview(data).cast("B")
    if len(view) < _HEADER.size or view[:8] != _MAGIC:
        raise StateError("this is not saved state")
    _, kind_found, fingerprint, n_tokens, size, checksum = _HEADER.unpack_from(view)
    body = view[_HEADER.size :]
    if kind_found != kind:
        raise StateError("this is the state of a " + ("whole context" if kind_found == _WHOLE else "single sequence"))
    if fingerprint != _fingerprint(context, kind):
        raise StateError("the state was saved with another model, or another layout of the KV cache")
    if len(body) != 4 * n_tokens + size or zlib.crc32(body) != checksum:
        raise StateError("the state is cut off or damaged")
    return np.frombuffer(body[: 4 * n_tokens], "<i4").astype(np.int32), body[4 * n_tokens :]


def _failed(context: Context, what: str) -> StateError:
    reason = failure_reason("llama.cpp gave no reason")
    if assertion_failed():
        context._poison(reason)
    return StateError(f"{what}: {reason}")
