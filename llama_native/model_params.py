"""How to load a model, and how that becomes llama.cpp's parameter struct."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from llama_native.backend import device_list
from llama_native.enums import LoadMode, SplitMode
from llama_native.ffi import C, ffi

Override = int | float | bool | str


@dataclass(frozen=True)
class ModelParams:
    """How to load a model.

    :ivar n_gpu_layers: layers to keep on the GPU; negative means all. Without a GPU it has no effect.
    :ivar main_gpu: index of the GPU that holds the whole model when `split_mode` is NONE.
    :ivar split_mode: how to spread the model over several GPUs.
    :ivar tensor_split: share of the model for each GPU; empty lets llama.cpp choose.
    :ivar load_mode: memory-map the file (AUTO does where possible), read it, or lock it into memory. llama.cpp locks
        what is mapped and host buffers, so not the weights that are repacked.
    :ivar vocab_only: load the vocabulary and no weights; such a model can tokenize and nothing else.
    :ivar check_tensors: look for invalid numbers in the weights while loading; slow.
    :ivar use_extra_bufts: repack the weights for this CPU where that is faster; needs more memory.
    :ivar kernels: let Lucid's own kernels compute flash attention over keys and values in f16, products of weights in
        Q8_0 and, if `use_extra_bufts` is set, in Q4_1, where the processor has the instructions (see `build_info()`).
    :ivar devices: names of the devices to use (see `devices()`); None means all, () none but the CPU.
    :ivar kv_overrides: metadata values that replace the file's.
    """

    n_gpu_layers: int = 0
    main_gpu: int = 0
    split_mode: SplitMode = SplitMode.LAYER
    tensor_split: tuple[float, ...] = ()
    load_mode: LoadMode = LoadMode.AUTO
    vocab_only: bool = False
    check_tensors: bool = False
    use_extra_bufts: bool = True
    kernels: bool = True
    devices: tuple[str, ...] | None = None
    kv_overrides: Mapping[str, Override] = field(default_factory=dict)

    def to_c(self) -> tuple[Any, list[Any]]:
        """Returns a `struct llama_model_params *` and what must stay alive while it is used.

        Raises `ValueError` for an unknown device, too many split values, or an override that does not fit.
        """
        keep: list[Any] = []
        params = ffi.new("struct llama_model_params *", C.llama_model_default_params())
        params.n_gpu_layers = self.n_gpu_layers
        params.main_gpu = self.main_gpu
        params.split_mode = self.split_mode
        params.load_mode = self.load_mode
        params.vocab_only = self.vocab_only
        params.check_tensors = self.check_tensors
        params.use_extra_bufts = self.use_extra_bufts
        if self.devices is not None:
            keep.append(device_list(self.devices))
            params.devices = keep[-1]
        if self.tensor_split:
            keep.append(self._split_array())
            params.tensor_split = keep[-1]
        if self.kv_overrides:
            keep.append(self._override_array())
            params.kv_overrides = keep[-1]
        return params, keep

    def _split_array(self) -> Any:
        limit = int(C.llama_max_devices())
        if len(self.tensor_split) > limit or any(not 0 <= share < 1e6 for share in self.tensor_split):
            raise ValueError(f"tensor_split takes up to {limit} shares that are not negative")
        array = ffi.new("float[]", limit)
        array[0 : len(self.tensor_split)] = list(self.tensor_split)
        return array

    def _override_array(self) -> Any:
        array = ffi.new("struct llama_model_kv_override[]", len(self.kv_overrides) + 1)  # the last one is all zero
        for item, (key, value) in zip(array, self.kv_overrides.items(), strict=False):
            if not key or len(key.encode()) > 127 or (isinstance(value, str) and len(value.encode()) > 127):
                raise ValueError(f"kv_overrides: {key!r} or its value is empty or longer than 127 bytes")
            item.key = key.encode()
            match value:
                case bool():
                    item.tag, item.val_bool = 2, value
                case int():
                    item.tag, item.val_i64 = 0, value
                case float():
                    item.tag, item.val_f64 = 1, value
                case str():
                    item.tag, item.val_str = 3, value.encode()
                case _:
                    raise ValueError(f"kv_overrides: {key!r} must be an int, a float, a bool or a str")
        return array
