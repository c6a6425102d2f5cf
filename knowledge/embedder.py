"""Texts to vectors with an embedding model: many inputs a decode, from any thread.

An `Embedder` owns a model and one context. Inputs of similar length are packed together, as many as fit into one
micro-batch, and the context is given up between packs, so that a search waits for one decode of a long indexing run and
not for its end. It knows tokens and vectors; files, chunks and stores are other modules' business.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import numpy as np

from knowledge.prefixes import Prefixes, recognise
from llama_native import (
    Context,
    ContextError,
    ContextParams,
    Model,
    ModelParams,
    Pooling,
    embed,
    release_compute_threads,
)
from llama_native.arrays import Floats, Tokens

#: Tokens of a pack. Measured with the demo model on 2 cores: 256 to 512 are fastest, 2048 is 40% slower.
PACK_TOKENS = 512
#: Inputs of a pack. llama.cpp wants the micro-batch to be a multiple of it where embeddings are pooled.
PACK_INPUTS = 64
#: The longest input taken from models that could read more: working memory grows with it.
MAX_TOKENS = 2048
#: A query longer than this many times `max_tokens` is looked at up to there.
_QUERY_PIECES = 8


class EmbeddingModelError(Exception):
    """The model loads but gives no embeddings: it is no embedding model."""


class Embedder:
    """An embedding model, ready to use. Thread-safe.

    :param path: a GGUF file of an embedding model.
    :param threads: compute threads; 0 means one per available CPU.
    :param gpu_layers: layers to keep on the GPU.
    :param main_gpu: index of that GPU.
    :param kernels: let Lucid's own matrix kernels take the weights they are faster with.
    :param query_prefix, document_prefix: put before queries and documents; None takes those of the model's family.
    :param pack_tokens: most tokens in one decode, unless a single input is longer.
    :raises LlamaError: the file is missing, damaged or not supported (`llama_native.ModelLoadError` and its kinds).
    :raises EmbeddingModelError: it is not an embedding model.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        threads: int = 0,
        gpu_layers: int = 0,
        main_gpu: int = 0,
        kernels: bool = True,
        query_prefix: str | None = None,
        document_prefix: str | None = None,
        pack_tokens: int = PACK_TOKENS,
    ) -> None:
        self.path = Path(path)
        """The model's file."""
        self._model = Model(self.path, ModelParams(n_gpu_layers=gpu_layers, main_gpu=main_gpu, kernels=kernels))
        try:
            self.fingerprint = _fingerprint(self.path)
            """Identity of the model's file: vectors of different fingerprints must never be compared."""
            self.max_tokens = min(self._model.n_ctx_train, MAX_TOKENS)
            """The longest input, special tokens included."""
            tokens = max(self.max_tokens, pack_tokens)
            tokens += -tokens % PACK_INPUTS
            self._context = _context(self._model, tokens, threads)
        except BaseException:
            self._model.close()
            raise
        self._pack_tokens = pack_tokens
        metadata = self._model.metadata
        self._name = metadata.get("general.name") or self.path.stem
        family = recognise(metadata, self.path.name)
        self.prefixes = Prefixes(
            family.query if query_prefix is None else query_prefix,
            family.document if document_prefix is None else document_prefix,
        )
        """What is put before queries and documents."""
        self.dimensions = self._model.n_embd_out
        """Length of a vector."""
        self.vocab = self._model.vocab
        """The vocabulary, thread-safe."""
        self._gate, self._turn = threading.Lock(), threading.Lock()
        self._decodes = 0

    def __repr__(self) -> str:
        return f"<Embedder {self.path.name}, {self.dimensions} dimensions>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Waits for a decode under way and frees the model. Later calls raise `ClosedError`."""
        with self._exclusive():
            self._context.close()
            self._model.close()

    @property
    def turn(self) -> int | None:
        """Which decode is under way, by number; None if none is. If it stays the same, the decode does not end."""
        return self._decodes if self._turn.locked() else None

    @property
    def model(self) -> Model:
        """The model itself, for what is known of it. It belongs to the embedder."""
        return self._model

    @property
    def name(self) -> str:
        """The model's name in its file, or the file's name."""
        return self._name

    def tokenize(self, text: str) -> Tokens:
        """Returns the tokens of a text, int32 (n,), with the special tokens that the model adds.

        Text that spells a special token is plain text. Raises `TokenizeError` for lone surrogates.
        """
        return self.vocab.tokenize(text, add_special=True)

    def embed(self, token_lists: Sequence[Tokens]) -> Floats:
        """Returns the vectors of the inputs in their order, float32 (n, dimensions), each of length 1.

        :param token_lists: token arrays of `tokenize`, 1 to `max_tokens` tokens each.
        :raises ValueError: an input is empty or too long; the message tells which.
        :raises DecodeError: computing failed.
        """
        lengths = [len(tokens) for tokens in token_lists]
        for i, length in enumerate(lengths):
            if not 1 <= length <= self.max_tokens:
                raise ValueError(f"input {i} has {length} tokens; the embedding model takes 1 to {self.max_tokens}")
        result = np.empty((len(token_lists), self.dimensions), np.float32)
        for pack in self._packs(lengths):
            with self._exclusive():
                result[pack] = embed(self._context, [token_lists[i] for i in pack])
        return result

    def embed_query(self, text: str) -> Floats:
        """Returns the vector (dimensions,) of a search query, with the model's query prefix.

        A query longer than the model reads is embedded in pieces and gets their mean, up to 8 pieces.
        """
        text = self.prefixes.query + text
        text = text[: _QUERY_PIECES * self.max_tokens * max(1, self.vocab.longest_token)]
        tokens = self.tokenize(text)
        if len(tokens) <= self.max_tokens:
            return np.asarray(self.embed([tokens])[0], np.float32)
        body = self.vocab.tokenize(text)
        before = next(i for i in range(len(tokens)) if np.array_equal(tokens[i : i + len(body)], body))
        head, tail = tokens[:before], tokens[before + len(body) :]
        size = self.max_tokens - len(head) - len(tail)
        starts = range(0, min(len(body), _QUERY_PIECES * size), size)
        mean = self.embed([np.concatenate([head, body[i : i + size], tail]) for i in starts]).mean(axis=0)
        return np.asarray(mean / max(float(np.linalg.norm(mean)), 1e-12), np.float32)

    def _packs(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        """Yields which inputs to decode together: similar lengths, longest first."""
        pack: list[int] = []
        total = 0
        for i in sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True):
            if pack and (len(pack) == PACK_INPUTS or total + lengths[i] > self._pack_tokens):
                yield pack
                pack, total = [], 0
            pack.append(i)
            total += lengths[i]
        if pack:
            yield pack

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        # Locks are not fair: a thread that embeds pack after pack would take the lock again before a waiting one wakes
        # up. At the gate it has to queue behind the one that waits for its turn.
        with self._gate:
            self._turn.acquire()
        self._decodes += 1
        try:
            yield
        finally:
            release_compute_threads()  # any thread may embed; what it keeps would slow the engine's down for ever
            self._turn.release()


def _context(model: Model, tokens: int, threads: int) -> Context:
    if model.pooling in (Pooling.UNSPECIFIED, Pooling.NONE, Pooling.RANK):
        raise EmbeddingModelError(
            f"{model.path} is not an embedding model: its pooling is {model.pooling.name.lower()}; "
            "set EMBEDDING_MODEL to a GGUF file of an embedding model"
        )
    params = ContextParams(
        n_ctx=tokens,
        n_batch=tokens,
        n_ubatch=tokens,
        n_seq_max=PACK_INPUTS,
        n_threads=threads,
        kv_unified=True,
        embeddings=True,
    )
    try:
        return Context(model, params)
    except ContextError as error:
        raise EmbeddingModelError(f"{model.path} cannot be used for embeddings: {error}") from error


def _fingerprint(path: Path) -> str:
    """Returns a hash of the whole file.

    It takes about a second a gigabyte; the first decode reads all of the file anyway, and the pages stay.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:32]
