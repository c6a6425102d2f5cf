"""The embedder: packing, threads, long queries, prefixes, files that are no embedding model."""

from __future__ import annotations

import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from knowledge.embedder import PACK_INPUTS, PACK_TOKENS, Embedder, EmbeddingModelError
from knowledge.prefixes import Prefixes, recognise
from llama_native import ClosedError, ModelNotFound, NotGGUF, TokenizeError

TEXTS = [f"Sentence {i} is about {'wooden screws ' * (i * 7 % 40)}and nothing else." for i in range(90)]


def test_packed_vectors_are_those_of_each_input_alone_in_order(embedder: Embedder) -> None:
    inputs = [embedder.tokenize(text) for text in TEXTS]
    together = embedder.embed(inputs)
    assert together.shape == (90, embedder.dimensions) == (90, 384)
    assert together.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    alone = np.concatenate([embedder.embed([tokens]) for tokens in inputs])
    assert np.einsum("ij,ij->i", together, alone).min() > 0.9995


def test_packs_are_full_and_bounded(embedder: Embedder) -> None:
    lengths = [1] * 200 + [500, 300, 200, 100, 30, 30]
    packs = list(embedder._packs(lengths))
    assert sorted(i for pack in packs for i in pack) == list(range(206))
    assert max(len(pack) for pack in packs) == PACK_INPUTS
    assert max(sum(lengths[i] for i in pack) for pack in packs) <= PACK_TOKENS
    assert len(packs) == 6


def test_no_inputs(embedder: Embedder) -> None:
    assert embedder.embed([]).shape == (0, 384)


def test_the_longest_input_fits_and_one_token_more_does_not(embedder: Embedder) -> None:
    tokens = embedder.tokenize("word " * 1000)
    assert embedder.max_tokens == 512
    assert embedder.embed([tokens[:512]]).shape == (1, 384)
    with pytest.raises(ValueError, match="input 1 has 513 tokens"):
        embedder.embed([tokens[:5], tokens[:513]])
    with pytest.raises(ValueError, match="input 0 has 0 tokens"):
        embedder.embed([tokens[:0]])


def test_special_tokens_in_text_are_text(embedder: Embedder) -> None:
    assert embedder.tokenize("[SEP]").tolist().count(102) == 1
    with pytest.raises(TokenizeError):
        embedder.tokenize("\ud800")


def test_queries_of_any_length(embedder: Embedder) -> None:
    short = embedder.embed_query("Who was Thom Rhubarb?")
    np.testing.assert_allclose(short, embedder.embed([embedder.tokenize("Who was Thom Rhubarb?")])[0], atol=1e-6)
    long = embedder.embed_query("Who was Thom Rhubarb? " * 300)
    assert np.linalg.norm(long) == pytest.approx(1, abs=1e-5)
    assert short @ long > embedder.embed_query("How is the weather in Lisbon?") @ long + 0.3
    body = embedder.vocab.tokenize("Who was Thom Rhubarb? " * 300)
    pieces = [np.concatenate([[101], body[i : i + 510], [102]]).astype(np.int32) for i in range(0, len(body), 510)]
    mean = embedder.embed(pieces).mean(axis=0)
    np.testing.assert_allclose(long, mean / np.linalg.norm(mean), atol=1e-3)
    assert embedder.embed_query("").shape == (384,)
    assert embedder.embed_query("x" * 1_000_000).shape == (384,)


def test_many_threads_get_their_own_vectors(embedder: Embedder) -> None:
    expected = embedder.embed([embedder.tokenize(text) for text in TEXTS])
    with ThreadPoolExecutor(8) as pool:
        vectors = list(pool.map(embedder.embed_query, TEXTS))
    assert np.einsum("ij,ij->i", expected, np.array(vectors)).min() > 0.9995


def test_a_query_waits_for_a_pack_and_not_for_all_of_an_indexing_run(embedder: Embedder) -> None:
    inputs = [embedder.tokenize("word " * 300)] * 60
    done = threading.Event()

    def index() -> None:
        embedder.embed(inputs)
        done.set()

    thread = threading.Thread(target=index)
    thread.start()
    answered = 0
    for _ in range(5):
        embedder.embed_query("a query")
        answered += not done.is_set()
    thread.join()
    assert answered == 5


def test_the_fingerprint_is_the_files_content(embedder: Embedder, tmp_path: Path) -> None:
    copy = tmp_path / "other-name.gguf"
    shutil.copyfile(embedder.path, copy)
    with Embedder(copy) as same:
        assert same.fingerprint == embedder.fingerprint
    with copy.open("r+b") as file:
        file.seek(copy.stat().st_size // 2 + 200_000)
        byte = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte[0] ^ 1]))
    with Embedder(copy) as different:
        assert different.fingerprint != embedder.fingerprint


def test_prefixes_come_from_the_family_unless_given(embedder: Embedder, embedding_model_path: Path) -> None:
    assert embedder.prefixes == Prefixes()
    with Embedder(embedding_model_path, query_prefix="query: ", document_prefix="passage: ") as prefixed:
        assert prefixed.prefixes == Prefixes("query: ", "passage: ")
        expected = embedder.embed([embedder.tokenize("query: screws")])[0]
        np.testing.assert_allclose(prefixed.embed_query("screws"), expected, atol=1e-3)


@pytest.mark.parametrize(
    ("metadata", "file", "query", "document"),
    [
        ({"general.basename": "nomic-embed-text"}, "", "search_query: ", "search_document: "),
        ({"general.name": "Bge Small En v1.5"}, "", "Represent this sentence for searching relevant passages: ", ""),
        ({"general.name": "bge-m3"}, "", "", ""),
        ({"general.name": "multilingual-e5-base"}, "", "query: ", "passage: "),
        ({}, "e5-small-v2-q8_0.gguf", "query: ", "passage: "),
        ({"general.name": "all-MiniLM-L6-v2"}, "embed.gguf", "", ""),
        ({"general.name": "Snowflake Arctic Embed L v2.0"}, "", "query: ", ""),
    ],
)
def test_families(metadata: dict[str, str], file: str, query: str, document: str) -> None:
    assert recognise(metadata, file) == Prefixes(query, document)


def test_what_is_no_embedding_model(chat_model_path: Path, tmp_path: Path) -> None:
    with pytest.raises(EmbeddingModelError, match="not an embedding model"):
        Embedder(chat_model_path)
    with pytest.raises(ModelNotFound):
        Embedder(tmp_path / "missing.gguf")
    (tmp_path / "text.gguf").write_text("hello")
    with pytest.raises(NotGGUF):
        Embedder(tmp_path / "text.gguf")


def test_closed(embedding_model_path: Path) -> None:
    embedder = Embedder(embedding_model_path)
    tokens = embedder.tokenize("hello")
    embedder.close()
    embedder.close()
    with pytest.raises(ClosedError):
        embedder.embed([tokens])
