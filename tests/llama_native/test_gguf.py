"""The look at a file's header before llama.cpp gets it."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from llama_native import ModelNotFound, NotGGUF, TruncatedGGUF, gguf
from tests.llama_native import tiny


def test_a_sound_file(tiny_path: Path) -> None:
    header = gguf.read_header(tiny_path)
    assert header.architecture == "llama"
    assert header.metadata["llama.block_count"] == tiny.N_LAYER
    assert header.tensors["blk.0.attn_k.weight"].dims == (tiny.N_EMBD, tiny.N_EMBD // 2)
    assert sum(t.nbytes for t in header.tensors.values()) < tiny_path.stat().st_size


def test_the_demo_model(chat_model_path: Path) -> None:
    header = gguf.read_header(chat_model_path)
    assert header.metadata["tokenizer.ggml.tokens"] is None  # long arrays are checked, not kept
    end = max(t.offset + t.nbytes for t in header.tensors.values())
    assert 0 < chat_model_path.stat().st_size - end < 8 << 20


def test_missing_directory_and_empty(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="no such file"):
        gguf.read_header(tmp_path / "missing.gguf")
    with pytest.raises(ModelNotFound, match="directory"):
        gguf.read_header(tmp_path)
    empty = tmp_path / "empty.gguf"
    empty.touch()
    with pytest.raises(NotGGUF, match="empty"):
        gguf.read_header(empty)


def test_every_truncation_is_found(tiny_path: Path, tmp_path: Path) -> None:
    data = tiny_path.read_bytes()
    path = tmp_path / "cut.gguf"
    sizes = [*range(4, 5000, 37), *range(5000, len(data), 10007), len(data) - 300]
    for size in sizes:
        path.write_bytes(data[:size])
        with pytest.raises(TruncatedGGUF):
            gguf.read_header(path)


def test_no_cut_inside_the_magic_passes(tmp_path: Path) -> None:
    path = tmp_path / "cut.gguf"
    for size in (1, 2, 3):
        path.write_bytes(b"GGUF"[:size])
        with pytest.raises(NotGGUF):
            gguf.read_header(path)


def kv(key: str, kind: int, value: bytes) -> bytes:
    return struct.pack("<Q", len(key)) + key.encode() + struct.pack("<I", kind) + value


def header(n_tensors: int, n_values: int, rest: bytes = b"", version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, n_tensors, n_values) + rest


U32 = kv("a", 4, struct.pack("<I", 1))

HOSTILE = {
    "another format": (b"PK\3\4" + bytes(100), NotGGUF, "not a GGUF file"),
    "future version": (header(0, 0, bytes(64), version=99), NotGGUF, "version 99"),
    "big-endian": (header(0, 0, bytes(64), version=3 << 24), NotGGUF, "big-endian"),
    "many tensors": (header(2**63, 0, bytes(64)), TruncatedGGUF, "tensors cannot fit"),
    "many values": (header(0, 2**64 - 1, bytes(64)), TruncatedGGUF, "values cannot fit"),
    "long key": (header(0, 1, struct.pack("<Q", 2**40) + bytes(64)), NotGGUF, "bytes long"),
    "key twice": (header(0, 2, U32 + U32), NotGGUF, "twice"),
    "unknown type": (header(0, 1, kv("a", 77, bytes(8))), NotGGUF, "unknown type 77"),
    "nested array": (header(0, 1, kv("a", 9, struct.pack("<IQ", 9, 1) + bytes(64))), NotGGUF, "unknown type 9"),
    "huge array": (header(0, 1, kv("a", 9, struct.pack("<IQ", 0, 2**62)) + bytes(64)), TruncatedGGUF, "cannot fit"),
    "huge string": (header(0, 1, kv("a", 8, struct.pack("<Q", 2**62)) + bytes(64)), NotGGUF, "bytes long"),
    "alignment": (
        header(0, 1, kv("general.alignment", 4, struct.pack("<I", 33)) + bytes(64)),
        NotGGUF,
        "power of two",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_headers(name: str, tmp_path: Path) -> None:
    data, kind, message = HOSTILE[name]
    path = tmp_path / "hostile.gguf"
    path.write_bytes(data)
    with pytest.raises(kind, match=message):
        gguf.read_header(path)


def tensor(dims: tuple[int, ...], kind: int = 0, offset: int = 0) -> bytes:
    return struct.pack("<Q", 1) + b"t" + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, kind, offset)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (tensor((1,) * 5), "5 dimensions"),
        (tensor((2**40, 2**40)), "impossible shape"),
        (tensor((0,)), "impossible shape"),
        (tensor((33,), kind=2), "impossible shape"),
        (tensor((4,), kind=4), "unknown type 4"),
        (tensor((4,), kind=2**31), "unknown type"),
        (tensor((4,), offset=64), "offset 64"),
    ],
)
def test_hostile_tensors(entry: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "hostile.gguf"
    path.write_bytes(header(1, 0, entry + bytes(256)))
    with pytest.raises(NotGGUF, match=message):
        gguf.read_header(path)


def test_shards(tmp_path: Path) -> None:
    split = gguf.Header(3, {"split.count": 3}, {})
    assert [p.name for p in gguf.shard_paths(tmp_path / "m-00001-of-00003.gguf", split)] == [
        "m-00001-of-00003.gguf",
        "m-00002-of-00003.gguf",
        "m-00003-of-00003.gguf",
    ]
    assert gguf.shard_paths(tmp_path / "m.gguf", gguf.Header(3, {}, {})) == [tmp_path / "m.gguf"]
