"""enums.py against the values the compiler found in llama.cpp's headers."""

from __future__ import annotations

from enum import IntEnum, IntFlag

import pytest

from llama_native import enums
from llama_native.ffi import ffi

PAIRS = [
    (enums.SplitMode, "llama_split_mode", "LLAMA_SPLIT_MODE_"),
    (enums.LoadMode, "llama_load_mode", "LLAMA_LOAD_MODE_"),
    (enums.VocabType, "llama_vocab_type", "LLAMA_VOCAB_TYPE_"),
    (enums.TokenAttr, "llama_token_attr", "LLAMA_TOKEN_ATTR_"),
    (enums.RopeType, "llama_rope_type", "LLAMA_ROPE_TYPE_"),
    (enums.RopeScaling, "llama_rope_scaling_type", "LLAMA_ROPE_SCALING_TYPE_"),
    (enums.Pooling, "llama_pooling_type", "LLAMA_POOLING_TYPE_"),
    (enums.Attention, "llama_attention_type", "LLAMA_ATTENTION_TYPE_"),
    (enums.GgmlType, "ggml_type", "GGML_TYPE_"),
    (enums.FileType, "llama_ftype", "LLAMA_FTYPE_"),
    (enums.ThreadPriority, "ggml_sched_priority", "GGML_SCHED_PRIO_"),
    (enums.DeviceType, "ggml_backend_dev_type", "GGML_BACKEND_DEVICE_TYPE_"),
]


@pytest.mark.parametrize(("ours", "name", "prefix"), PAIRS)
def test_values_are_those_of_the_headers(ours: type[IntEnum | IntFlag], name: str, prefix: str) -> None:
    theirs = {key.removeprefix(prefix): value for value, key in ffi.typeof(f"enum {name}").elements.items()}
    theirs = {key.removeprefix("MOSTLY_").removeprefix("ALL_"): value for key, value in theirs.items()}
    assert {member.name: int(member) for member in ours.__members__.values()} == theirs


def test_flash_attention() -> None:
    theirs = {key: value for value, key in ffi.typeof("enum llama_flash_attn_type").elements.items()}
    prefix = "LLAMA_FLASH_ATTN_TYPE_"
    assert theirs == {
        prefix + "AUTO": enums.FlashAttention.AUTO,
        prefix + "DISABLED": enums.FlashAttention.OFF,
        prefix + "ENABLED": enums.FlashAttention.ON,
    }
