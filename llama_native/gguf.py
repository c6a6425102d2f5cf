"""A look at a GGUF file's header before llama.cpp gets to see it.

It walks magic, counts, metadata and tensor table, bounded by the file's size, and compares the offsets with it. So a
missing, foreign, truncated or contradictory file gives an error that says so, in Python. It does not judge whether
the model makes sense; llama.cpp does. Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import mmap
import os
import struct
from dataclasses import dataclass
from pathlib import Path

from llama_native.errors import ModelNotFound, NotGGUF, TruncatedGGUF
from llama_native.ffi import C

Value = int | float | bool | str | tuple[int | float | bool | str, ...] | None

_STRING, _ARRAY = 8, 9
_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_SIZES = {kind: struct.calcsize(code) for kind, code in _SCALARS.items()}
_U32 = struct.Struct("<I").unpack_from
_U64 = struct.Struct("<Q").unpack_from

_VERSIONS = (2, 3)
_MAX_KEY = 65535  # the specification's limit
_MAX_DIMS = 4
_MAX_KEPT = 4096  # longer arrays (vocabularies) are checked but not kept
_MAX_ELEMENTS = 1 << 30  # llama.cpp's own limit for an array


@dataclass(frozen=True)
class Tensor:
    """One entry of the tensor table: `dims` in ggml's order (innermost first), `offset` into the data section."""

    dims: tuple[int, ...]
    type: int
    offset: int
    nbytes: int


@dataclass(frozen=True)
class Header:
    """What the header says. Long arrays appear in `metadata` as None."""

    version: int
    metadata: dict[str, Value]
    tensors: dict[str, Tensor]

    @property
    def architecture(self) -> str:
        """The model's architecture, such as "llama"; "" if the file names none."""
        value = self.metadata.get("general.architecture")
        return value if isinstance(value, str) else ""


def read_header(path: str | os.PathLike[str]) -> Header:
    """Reads and checks the header of the GGUF file at `path`.

    Raises `ModelNotFound`, `NotGGUF` or `TruncatedGGUF`. Reads at most the header; takes time linear in its size.
    """
    name = Path(path)
    if not name.exists():
        raise ModelNotFound(f"{name}: no such file")
    if not name.is_file():
        raise ModelNotFound(f"{name}: not a file" + (" but a directory" if name.is_dir() else ""))
    try:
        with name.open("rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                raise NotGGUF(f"{name}: the file is empty")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _Walk(name, data).header()
    except OSError as error:
        raise ModelNotFound(f"{name}: {error.strerror or error}") from error


class _Walk:
    """One pass over a header. `at` is the next byte to read."""

    def __init__(self, name: Path, data: mmap.mmap) -> None:
        self.name = name
        self.data = data
        self.size = len(data)
        self.at = 0

    def header(self) -> Header:
        if self.data[:4] != b"GGUF":
            raise NotGGUF(f"{self.name}: not a GGUF file (it begins with {bytes(self.data[:4])!r})")
        self.at = 4
        version = self.u32("the version")
        if version not in _VERSIONS:
            swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
            hint = "; it is big-endian" if swapped in _VERSIONS else ""
            raise NotGGUF(f"{self.name}: GGUF version {version} is not supported{hint}")
        n_tensors, n_values = self.u64("the tensor count"), self.u64("the metadata count")
        self.must_fit(n_tensors, 24, "tensors")
        self.must_fit(n_values, 13, "metadata values")

        metadata: dict[str, Value] = {}
        for _ in range(n_values):
            key = self.string("a metadata key", _MAX_KEY)
            if not key or key in metadata:
                raise NotGGUF(f"{self.name}: metadata key {key!r} appears twice or is empty")
            metadata[key] = self.value(key)
        alignment = metadata.get("general.alignment", 32)
        if type(alignment) is not int or alignment < 1 or alignment & (alignment - 1) or alignment > 1 << 20:
            raise NotGGUF(f"{self.name}: alignment {alignment!r} is not a power of two")

        tensors: dict[str, Tensor] = {}
        for _ in range(n_tensors):
            key = self.string("a tensor name", _MAX_KEY)
            if key in tensors:
                raise NotGGUF(f"{self.name}: tensor {key!r} appears twice")
            tensors[key] = self.tensor(key)
        self.check_data(tensors, alignment)
        return Header(version, metadata, tensors)

    def check_data(self, tensors: dict[str, Tensor], alignment: int) -> None:
        start = -(-self.at // alignment) * alignment
        end = 0  # tensors lie after each other, padded to the alignment
        for key, tensor in tensors.items():
            if tensor.offset != end:
                raise NotGGUF(f"{self.name}: tensor {key!r} lies at offset {tensor.offset} instead of {end}")
            if start + tensor.offset + tensor.nbytes > self.size:
                raise TruncatedGGUF(
                    f"{self.name}: the file has {self.size} bytes, "
                    f"but tensor {key!r} ends at byte {start + tensor.offset + tensor.nbytes}"
                )
            end += -(-tensor.nbytes // alignment) * alignment

    def tensor(self, key: str) -> Tensor:
        n_dims = self.u32(f"tensor {key!r}")
        if n_dims > _MAX_DIMS:
            raise NotGGUF(f"{self.name}: tensor {key!r} has {n_dims} dimensions")
        dims = tuple(self.u64(f"tensor {key!r}") for _ in range(n_dims)) or (1,)
        kind, offset = self.u32(f"tensor {key!r}"), self.u64(f"tensor {key!r}")
        block = C.ggml_blck_size(kind) if kind < C.GGML_TYPE_COUNT else 0
        if block == 0:
            raise NotGGUF(f"{self.name}: tensor {key!r} has the unknown type {kind}")
        n_elements = 1
        for dim in dims:
            n_elements *= dim
        if n_elements == 0 or n_elements >= 1 << 62 or dims[0] % block:
            raise NotGGUF(f"{self.name}: tensor {key!r} has the impossible shape {dims}")
        return Tensor(dims, kind, offset, n_elements // block * C.ggml_type_size(kind))

    def value(self, key: str) -> Value:
        kind = self.u32(key)
        if kind == _STRING:
            return self.string(key, self.size)
        if kind in _SCALARS:
            return self.scalar(key, kind)
        if kind != _ARRAY:
            raise NotGGUF(f"{self.name}: metadata {key!r} has the unknown type {kind}")
        kind, count = self.u32(key), self.u64(key)
        if kind != _STRING and kind not in _SCALARS:
            raise NotGGUF(f"{self.name}: metadata {key!r} is an array of the unknown type {kind}")
        self.must_fit(count, _SIZES.get(kind, 8), f"elements of {key!r}")
        if count > _MAX_ELEMENTS:
            raise NotGGUF(f"{self.name}: metadata {key!r} has {count} elements")
        if count <= _MAX_KEPT:
            if kind == _STRING:
                return tuple(self.string(key, self.size) for _ in range(count))
            return tuple(self.scalar(key, kind) for _ in range(count))
        if kind == _STRING:
            self.skip_strings(key, count)
        else:
            self.at += count * _SIZES[kind]
        return None

    def skip_strings(self, key: str, count: int) -> None:
        at, data, last = self.at, self.data, self.size - 8
        for _ in range(count):
            if at > last:
                self.truncated(key)
            at += 8 + _U64(data, at)[0]
        if at > self.size:
            self.truncated(key)
        self.at = at

    def scalar(self, key: str, kind: int) -> int | float | bool:
        size = _SIZES[kind]
        if self.at + size > self.size:
            self.truncated(key)
        result: int | float | bool = struct.unpack_from(_SCALARS[kind], self.data, self.at)[0]
        self.at += size
        return result

    def string(self, what: str, limit: int) -> str:
        length = self.u64(what)
        if length > limit:
            raise NotGGUF(f"{self.name}: {what} is {length} bytes long")
        if self.at + length > self.size:
            self.truncated(what)
        raw = self.data[self.at : self.at + length]
        self.at += length
        return raw.decode("utf-8", errors="replace")

    def u32(self, what: str) -> int:
        if self.at + 4 > self.size:
            self.truncated(what)
        self.at += 4
        return int(_U32(self.data, self.at - 4)[0])

    def u64(self, what: str) -> int:
        if self.at + 8 > self.size:
            self.truncated(what)
        self.at += 8
        return int(_U64(self.data, self.at - 8)[0])

    def must_fit(self, count: int, smallest: int, what: str) -> None:
        if count * smallest > self.size - self.at:
            raise TruncatedGGUF(f"{self.name}: {count} {what} cannot fit into the file's {self.size} bytes")

    def truncated(self, what: str) -> None:
        raise TruncatedGGUF(f"{self.name}: the file ends inside its header ({what})")


def shard_paths(path: str | os.PathLike[str], header: Header) -> list[Path]:
    """Returns the paths of all parts of a split model, or just `path`. Parts are named NAME-00001-of-00003.gguf."""
    count = header.metadata.get("split.count", 0)
    first = Path(path)
    suffix = f"-00001-of-{count:05d}.gguf" if type(count) is int and 1 < count < 100000 else ""
    if not suffix or not first.name.endswith(suffix):
        return [first]
    stem = first.name.removesuffix(suffix)
    return [first.with_name(f"{stem}-{i + 1:05d}-of-{count:05d}.gguf") for i in range(int(str(count)))]
