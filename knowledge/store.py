"""What a store of chunks must do, and the plain data that go in and out.

A store keeps files, their chunks and the chunks' vectors, and searches both by vector and by word. Every change is one
transaction: whoever reads, in this process or another, and whatever crashes, sees the state before or after it, never a
part. `SqliteStore` and `PostgresStore` are the two implementations. This module knows data and promises only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from llama_native.arrays import Floats


class StoreError(Exception):
    """The store cannot be used: the file is damaged or of another version, or the server is away. Nothing is lost."""


class StoreClosedError(StoreError):
    """The store was closed, by `close` or with the server."""


class StoreBusyError(StoreError):
    """Another indexer holds the store for writing."""


class StoreMismatchError(StoreError):
    """The store's vectors were made by another embedding model: index again, or use the model they were made with."""


class StoreTakenError(StoreError):
    """Another indexer has made the store anew with other settings since this one wrote it."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How the vectors of a store were made. A store holds one recipe; another one means indexing everything again.

    :ivar model: name of the embedding model, to show.
    :ivar fingerprint: identity of the model's file (`Embedder.fingerprint`).
    :ivar dimensions: length of a vector.
    :ivar chunk_tokens: most tokens of a chunk, as the embedding model counts, without prefix and special tokens.
    :ivar chunk_overlap: most tokens that neighbouring chunks share.
    :ivar document_prefix: what was put before the text of a chunk when it was embedded.
    :ivar document_weight: share of its document's beginning in a chunk's vector (`knowledge.in_document`).
    :ivar reader: version of the code that turns files into chunks.
    """

    model: str
    fingerprint: str
    dimensions: int
    chunk_tokens: int
    chunk_overlap: int
    document_prefix: str
    reader: int
    document_weight: float = 0.0


@dataclass(frozen=True, slots=True)
class FileRecord:
    """A file as it was when it was indexed.

    :ivar file: path relative to the data folder, with slashes.
    :ivar size: bytes.
    :ivar mtime_ns: time of the last modification; with `size` it tells without reading that nothing changed.
    :ivar digest: hash of the content.
    :ivar skipped: why the file has no chunks although it has content (binary, damaged, too large); "" if it was read.
    :ivar n_chunks: how many chunks it has.
    """

    file: str
    size: int
    mtime_ns: int
    digest: str
    skipped: str = ""
    n_chunks: int = 0


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of a document: `text` is exactly the document's text from character `start` to before `end`."""

    index: int
    start: int
    end: int
    n_tokens: int
    text: str


@dataclass(frozen=True, slots=True)
class Document:
    """A file's record with its chunks and their vectors, float32 (len(chunks), dimensions).

    A vector is of length 1, or less if it was moved towards its document's beginning (`knowledge.in_document`), so the
    largest dot product is not the smallest angle or distance: stores search by the dot product itself.
    """

    record: FileRecord
    chunks: Sequence[Chunk]
    vectors: Floats


@dataclass(frozen=True, slots=True)
class Hit:
    """A chunk that a search found. `score` is the similarity, BM25 or a fused score: larger is better."""

    file: str
    chunk: Chunk
    score: float


@dataclass(frozen=True, slots=True)
class StoreStats:
    """What a store holds. `n_bytes` is its size on disk; `n_skipped` counts files that have content and no chunks."""

    n_files: int
    n_skipped: int
    n_chunks: int
    n_tokens: int
    n_bytes: int
    recipe: Recipe | None


class Store(Protocol):
    """A store of one data folder. Thread-safe: any number of searches go on while one indexer writes.

    Every method may raise `StoreError`.
    """

    @property
    def location(self) -> str:
        """Where the store is, for people: a path or an address without its password."""
        ...

    # Writing: only between the beginning and end of `writing()`.

    def writing(self) -> AbstractContextManager[None]:
        """Holds the store for writing, against other threads and processes; a crash of the holder frees it.

        Raises `StoreBusyError` at once if another indexer holds it.
        """
        ...

    def reset(self, recipe: Recipe) -> None:
        """Removes everything and starts anew for `recipe`."""
        ...

    def replace(self, documents: Sequence[Document]) -> None:
        """Puts these files in place of what was known of them, all in one transaction."""
        ...

    def touch(self, records: Sequence[FileRecord]) -> None:
        """Notes new sizes and modification times of files whose content is the same, in one transaction."""
        ...

    def delete(self, files: Sequence[str]) -> None:
        """Forgets these files, in one transaction. Those not known are ignored."""
        ...

    # Reading

    def recipe(self) -> Recipe | None:
        """Returns how the vectors were made; None for a store that was never written."""
        ...

    def files(self) -> Mapping[str, FileRecord]:
        """Returns all files by their path."""
        ...

    def dense(self, vector: Floats, limit: int, fingerprint: str) -> list[Hit]:
        """Returns the chunks nearest to `vector` (dimensions,) by their dot product with it, best first.

        :param vector: of length 1, made by the embedding model with this `fingerprint`.
        :raises StoreMismatchError: the store's vectors are another model's.
        """
        ...

    def compare(self, vector: Floats, hits: Sequence[Hit], fingerprint: str) -> list[Hit]:
        """Returns those of `hits` that are still there, in their order, with their dot product with `vector`.

        :param vector: as for `dense`.
        :raises StoreMismatchError: the store's vectors are another model's.
        """
        ...

    def lexical(self, query: str, limit: int) -> list[Hit]:
        """Returns the chunks with words of `query` by BM25, best first. Any text is allowed; it has no syntax."""
        ...

    def chunks(self, file: str, first: int, last: int) -> list[Chunk]:
        """Returns the chunks of a file with indices `first` to `last`, those there are, in order."""
        ...

    def stats(self) -> StoreStats:
        """Returns what the store holds."""
        ...

    def close(self) -> None:
        """Closes the store. May be called twice."""
        ...
