"""Compute devices, and facts about the build of llama.cpp that is linked.

It starts the backends once, when imported. It knows devices by name; it does not choose among them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llama_native import log
from llama_native.enums import DeviceType
from llama_native.ffi import C, ffi, text

log.sync_level()
C.ggml_backend_load_all()
C.llama_backend_init()
C.lucid_huge_pages_install()
_KERNELS = bool(C.lucid_kernels_install())


@dataclass(frozen=True)
class Device:
    """A compute device. `memory_free` and `memory_total` are bytes; 0 where the backend does not say."""

    name: str
    description: str
    type: DeviceType
    memory_free: int
    memory_total: int


def devices() -> list[Device]:
    """Returns all devices that this build can use, CPU included."""
    found = []
    for index in range(C.ggml_backend_dev_count()):
        device = C.ggml_backend_dev_get(index)
        free, total = ffi.new("size_t *"), ffi.new("size_t *")
        C.ggml_backend_dev_memory(device, free, total)
        found.append(
            Device(
                name=text(C.ggml_backend_dev_name(device)),
                description=text(C.ggml_backend_dev_description(device)),
                type=DeviceType(C.ggml_backend_dev_type(device)),
                memory_free=int(free[0]),
                memory_total=int(total[0]),
            )
        )
    return found


def device_list(names: tuple[str, ...]) -> Any:
    """Returns a NULL-terminated C array of the named devices. Raises `ValueError` for a name that does not exist."""
    array = ffi.new("ggml_backend_dev_t[]", len(names) + 1)
    for i, name in enumerate(names):
        array[i] = C.ggml_backend_dev_by_name(name.encode())
        if array[i] == ffi.NULL:
            known = ", ".join(device.name for device in devices())
            raise ValueError(f"there is no device {name!r}; this build has: {known}")
    return array


def system_info() -> str:
    """Returns llama.cpp's line about the CPU features and backends it uses."""
    return text(C.llama_print_system_info())


def build_info() -> dict[str, str | int | bool]:
    """Returns facts about the linked llama.cpp: versions, commit, limits, what it supports.

    `kernels`: whether Lucid's own kernels run on this processor. `kernels_version`: a digest of their sources.
    """
    return {
        "llama_version": text(C.llama_version()),
        "ggml_version": text(C.ggml_version()),
        "ggml_commit": text(C.ggml_commit()),
        "max_devices": int(C.llama_max_devices()),
        "max_sequences": int(C.llama_max_parallel_sequences()),
        "supports_mmap": bool(C.llama_supports_mmap()),
        "supports_mlock": bool(C.llama_supports_mlock()),
        "supports_gpu_offload": bool(C.llama_supports_gpu_offload()),
        "supports_rpc": bool(C.llama_supports_rpc()),
        "kernels": _KERNELS,
        "kernels_version": text(C.lucid_kernels_version),
    }
