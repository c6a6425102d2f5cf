"""A model: weights, vocabulary and what the file says about them.

Loading checks the file's header first (gguf.py), so that most bad files give a precise error, and then hands it to
llama.cpp. A model is read-only; several contexts and threads may use it at once.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

from llama_native import gguf, log
from llama_native.enums import FileType, Pooling, RopeType
from llama_native.errors import LoadCancelled, ModelLoadError, UnsupportedModel, failure_reason
from llama_native.ffi import C, ffi, text
from llama_native.handle import Handle, Resource
from llama_native.model_params import ModelParams
from llama_native.vocab import Vocab

Progress = Callable[[float], bool | None]

_UNSUPPORTED = ("unknown model architecture", "unknown tokenizer", "unknown pre-tokenizer", "CLIP cannot be used")


class Model(Resource):
    """A model loaded from a GGUF file.

    :param path: the file; of a split model, its first part.
    :param params: how to load it.
    :param progress: called with 0.0 to 1.0 while the weights are read, in the calling thread. Returning False cancels;
        an exception cancels too and is raised again here.
    :raises ModelNotFound, NotGGUF, TruncatedGGUF: the file is not what it should be.
    :raises UnsupportedModel: this build of llama.cpp does not know the architecture or the tokenizer.
    :raises LoadCancelled: `progress` returned False.
    :raises ModelLoadError: anything else; the message carries llama.cpp's reason.
    """

    def __init__(
        self, path: str | os.PathLike[str], params: ModelParams | None = None, progress: Progress | None = None
    ) -> None:
        log.sync_level()
        self.path = Path(path)
        """The file."""
        self.params = params or ModelParams()
        """How it was loaded."""
        self.header = _check_files(self.path)
        """The file's header: all metadata with types, and the tensor table."""
        call = _ProgressCall(progress)
        c_params, keep = self.params.to_c()
        if progress is not None:
            c_params.progress_callback = C.lucid_on_progress
            c_params.progress_callback_user_data = call.user_data
        packed = ffi.new("size_t *")
        pointer = C.lucid_model_load(os.fsencode(self.path), c_params, self.params.kernels, packed)
        del keep
        if pointer == ffi.NULL:
            raise call.error or _load_error(self.path, call)
        self._handle = Handle(pointer, C.llama_model_free)
        self.packed_size = int(packed[0])
        """Bytes of weights that are packed for our own kernels."""
        if self.packed_size:  # llama.cpp keeps what it mapped between the weights that stay as they are
            for part in gguf.shard_paths(self.path, self.header):
                C.lucid_forget_pages(os.fsencode(os.path.realpath(part)))
        self.vocab = Vocab(self._handle)
        """The vocabulary; it closes with the model."""

    def __repr__(self) -> str:
        return f"<Model {self.path.name}{' (closed)' if self.closed else ''}>"

    def close(self) -> None:
        """Gives the model up. Its memory is freed once its contexts and adapters are closed too."""
        super().close()
        self.vocab.close()

    @cached_property
    def metadata(self) -> dict[str, str]:
        """The file's metadata as strings, without arrays."""
        model = self._live().pointer
        result = {}
        for i in range(C.llama_model_meta_count(model)):
            key = _read(C.llama_model_meta_key_by_index, model, i)
            result[key] = _read(C.llama_model_meta_val_str_by_index, model, i)
        return result

    def chat_template(self, name: str | None = None) -> str | None:
        """Returns the Jinja chat template called `name`, or the default one; None if the file has none."""
        model = self._live()
        pointer = C.llama_model_chat_template(model.pointer, ffi.NULL if name is None else name.encode())
        return None if pointer == ffi.NULL else text(pointer)

    @property
    def architecture(self) -> str:
        """The architecture's name in the file, such as "llama" or "bert"."""
        return self.header.architecture

    @property
    def description(self) -> str:
        """llama.cpp's short description: architecture, size class, weights format."""
        return _read(C.llama_model_desc, self._live().pointer)

    @property
    def size(self) -> int:
        """Bytes of all weights."""
        return int(C.llama_model_size(self._live().pointer))

    @property
    def n_params(self) -> int:
        """Number of parameters."""
        return int(C.llama_model_n_params(self._live().pointer))

    @property
    def n_ctx_train(self) -> int:
        """Context length in tokens that the model was trained with."""
        return int(C.llama_model_n_ctx_train(self._live().pointer))

    @property
    def n_embd(self) -> int:
        """Width of the hidden state."""
        return int(C.llama_model_n_embd(self._live().pointer))

    @property
    def n_embd_out(self) -> int:
        """Length of an embedding vector."""
        return int(C.llama_model_n_embd_out(self._live().pointer))

    @property
    def n_layer(self) -> int:
        """Number of layers."""
        return int(C.llama_model_n_layer(self._live().pointer))

    @property
    def n_head(self) -> int:
        """Number of attention heads (of the first layer, where layers differ)."""
        return int(C.llama_model_n_head(self._live().pointer))

    @property
    def n_head_kv(self) -> int:
        """Number of key/value heads (of the first layer, where layers differ)."""
        return int(C.llama_model_n_head_kv(self._live().pointer))

    @property
    def plain_attention(self) -> bool:
        """Whether scores of attention are only scaled: no ALiBi, soft cap or sinks, and heads of a multiple of 16.

        That is what our own attention kernel takes (`ModelParams.kernels`).
        """
        value, name = self.header.metadata.get, self.architecture
        lengths = [value(f"{name}.attention.{kind}_length") for kind in ("key", "value")]
        whole = self.n_embd // max(1, self.n_head)
        extras = (f"{name}.attention.max_alibi_bias", f"{name}.attn_logit_softcapping")
        return (
            all((whole if length is None else length) % 16 == 0 for length in lengths if isinstance(length, int | None))
            and not any(value(key) for key in extras)
            and not any(".attn_sinks" in tensor for tensor in self.header.tensors)
        )

    @property
    def n_swa(self) -> int:
        """Width of the sliding attention window in tokens; 0 if the model has none."""
        return int(C.llama_model_n_swa(self._live().pointer))

    @property
    def n_classes(self) -> int:
        """Number of outputs of a classifier (reranker)."""
        return int(C.llama_model_n_cls_out(self._live().pointer))

    @property
    def rope_type(self) -> RopeType:
        """Layout of the rotary position embeddings."""
        return RopeType(C.llama_model_rope_type(self._live().pointer))

    @property
    def ftype(self) -> FileType:
        """Weights format of most tensors."""
        return FileType(C.llama_model_ftype(self._live().pointer) & ~FileType.GUESSED)

    @property
    def is_recurrent(self) -> bool:
        """Whether the memory is a state that cannot be cut (Mamba, RWKV)."""
        return bool(C.llama_model_is_recurrent(self._live().pointer))

    @property
    def is_hybrid(self) -> bool:
        """Whether the model has both attention and recurrent layers."""
        return bool(C.llama_model_is_hybrid(self._live().pointer))

    @property
    def is_diffusion(self) -> bool:
        """Whether the model generates by diffusion (which this package does not do)."""
        return bool(C.llama_model_is_diffusion(self._live().pointer))

    @property
    def has_encoder(self) -> bool:
        """Whether the model has an encoder that `Context.encode` runs (T5). BERT counts as a decoder here."""
        return bool(C.llama_model_has_encoder(self._live().pointer))

    @property
    def has_decoder(self) -> bool:
        """Whether the model has a decoder, in llama.cpp's sense."""
        return bool(C.llama_model_has_decoder(self._live().pointer))

    @property
    def pooling(self) -> Pooling:
        """How the file says token embeddings become one vector; UNSPECIFIED for a generating model."""
        value = self.header.metadata.get(f"{self.architecture}.pooling_type")
        return Pooling(value) if isinstance(value, int) and value in list(Pooling) else Pooling.UNSPECIFIED

    @property
    def can_generate(self) -> bool:
        """Whether the model predicts next tokens. False for embedding models, which attend in both directions."""
        causal = self.header.metadata.get(f"{self.architecture}.attention.causal", True)
        return bool(self.has_decoder and causal and not self.is_diffusion)

    @property
    def decoder_start_token(self) -> int | None:
        """The token that starts the decoder of an encoder-decoder model; None for others."""
        token = int(C.llama_model_decoder_start_token(self._live().pointer))
        return None if token < 0 else token


class _ProgressCall:
    """What the progress callback needs while one model loads, and what it left behind."""

    def __init__(self, progress: Progress | None) -> None:
        self.progress = progress
        self.error: BaseException | None = None
        self.cancelled = False
        self.user_data = ffi.new_handle(self)

    def run(self, fraction: float) -> bool:
        """Calls the user's function. Returns False to stop loading."""
        assert self.progress is not None
        try:
            self.cancelled = self.progress(fraction) is False
        except BaseException as error:  # noqa: BLE001 - KeyboardInterrupt too: nothing may get lost in C
            self.error = error
        return not (self.cancelled or self.error)


@ffi.def_extern(name="lucid_on_progress")  # type: ignore[untyped-decorator]
def _on_progress(fraction: float, user_data: Any) -> bool:
    call: _ProgressCall = ffi.from_handle(user_data)
    return call.run(fraction)


def _check_files(path: Path) -> gguf.Header:
    header = gguf.read_header(path)
    if not header.architecture:
        raise UnsupportedModel(f"{path}: the file names no architecture (general.architecture)")
    for part in gguf.shard_paths(path, header)[1:]:
        gguf.read_header(part)
    return header


def _load_error(path: Path, call: _ProgressCall) -> ModelLoadError:
    if call.cancelled:
        return LoadCancelled(f"{path}: loading was cancelled")
    reason = failure_reason("llama.cpp gave no reason")
    kind = UnsupportedModel if any(mark in reason for mark in _UNSUPPORTED) else ModelLoadError
    return kind(f"{path}: {reason}")


def _read(function: Callable[..., int], *arguments: Any) -> str:
    """Calls one of llama.cpp's functions that write a string into a buffer and return its length."""
    size = 256
    while True:
        buffer = ffi.new("char[]", size)
        length = function(*arguments, buffer, size)
        if length < size:
            return "" if length < 0 else bytes(ffi.buffer(buffer, length)).decode("utf-8", errors="replace")
        size = length + 1
