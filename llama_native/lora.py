"""LoRA adapters: small weight changes that a context can apply on top of its model (https://arxiv.org/abs/2106.09685)."""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path

from llama_native import gguf, log
from llama_native.errors import LoraError, ModelLoadError, failure_reason
from llama_native.ffi import C, ffi
from llama_native.handle import Handle, Resource
from llama_native.model import Model, _read


class LoraAdapter(Resource):
    """A LoRA adapter for `model`, loaded from a GGUF file. Apply it with `Context.set_loras`.

    :raises LoraError: the file is not a sound adapter, or it belongs to another model; the message says why.
    """

    def __init__(self, model: Model, path: str | os.PathLike[str]) -> None:
        log.sync_level()
        model_handle = model._live()
        self.path = Path(path)
        if model.params.vocab_only:
            raise LoraError("the model was loaded with vocab_only: it has no weights to adapt")
        try:
            gguf.read_header(self.path)
        except ModelLoadError as error:
            raise LoraError(str(error)) from error
        pointer = C.lucid_lora_load(model_handle.pointer, os.fsencode(self.path))
        if pointer == ffi.NULL:
            raise LoraError(f"{self.path}: {failure_reason('llama.cpp gave no reason')}")
        self._model = model_handle
        self._handle = Handle(pointer, C.llama_adapter_lora_free, model_handle)

    def __repr__(self) -> str:
        return f"<LoraAdapter {self.path.name}{' (closed)' if self.closed else ''}>"

    @cached_property
    def metadata(self) -> dict[str, str]:
        """The file's metadata as strings, without arrays."""
        adapter = self._live().pointer
        result = {}
        for i in range(C.llama_adapter_meta_count(adapter)):
            key = _read(C.llama_adapter_meta_key_by_index, adapter, i)
            result[key] = _read(C.llama_adapter_meta_val_str_by_index, adapter, i)
        return result

    def _for_model(self, model: Handle) -> Handle:
        """Returns the handle. Raises `LoraError` if the adapter was loaded for another model."""
        handle = self._live()
        if self._model is not model:
            raise LoraError("the adapter was loaded for another model")
        return handle
