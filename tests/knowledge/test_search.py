"""Searching by vector, word and both; joining neighbours."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from knowledge.embedder import Embedder
from knowledge.indexer import Indexer
from knowledge.search import Fusion, find, fuse, merge_neighbours
from knowledge.settings import KnowledgeSettings, Mode
from knowledge.sqlite_store import SqliteStore
from knowledge.store import Chunk, Hit

DOCUMENTS = {
    "rhubarb.txt": "Thom Rhubarb built a printer that made wooden screws. He sold it to a carpenter in Bath.",
    "moon.txt": "The lunar base has its own bakery, and bread rises higher there because gravity is weak.",
    "code.txt": "Error QX-7741 means that the feed roller is blocked. Open flap B and remove the sheet.",
    "tea.txt": "A good cup of tea needs water that has just boiled and leaves that are not too old.",
}


@pytest.fixture(scope="module")
def store(embedder: Embedder, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SqliteStore]:
    folder = tmp_path_factory.mktemp("search")
    (folder / "data").mkdir()
    for name, text in DOCUMENTS.items():
        (folder / "data" / name).write_text(text)
    made = SqliteStore(folder / "store.sqlite")
    Indexer(made, embedder, KnowledgeSettings(folder / "data")).run()
    yield made
    made.close()


def files(store: SqliteStore, embedder: Embedder, query: str, mode: Mode, threshold: float = -1.0) -> list[str]:
    hits = find(
        store,
        query,
        None if mode == "lexical" else embedder.embed_query(query),
        embedder.fingerprint,
        mode=mode,
        top_k=3,
        threshold=threshold,
        fusion=Fusion(),
    )
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    return [hit.file for hit in hits]


def test_meaning_words_and_both(store: SqliteStore, embedder: Embedder) -> None:
    meaning = "Who invented a machine for making fasteners out of timber?"
    assert files(store, embedder, meaning, "dense")[0] == "rhubarb.txt"
    assert "rhubarb.txt" not in files(store, embedder, meaning, "lexical")
    assert files(store, embedder, meaning, "hybrid")[0] == "rhubarb.txt"
    assert files(store, embedder, "QX-7741", "lexical") == ["code.txt"]
    assert files(store, embedder, "QX-7741", "hybrid")[0] == "code.txt"
    assert len(files(store, embedder, "tea", "dense")) == len(files(store, embedder, "tea", "hybrid")) == 3


def test_the_threshold_is_a_similarity(store: SqliteStore, embedder: Embedder) -> None:
    query = "How is bread baked on the Moon?"
    scores = {hit.file: hit.score for hit in store.dense(embedder.embed_query(query), 4, embedder.fingerprint)}
    second = sorted(scores.values())[-2]
    for mode in ("dense", "hybrid"):
        assert files(store, embedder, query, mode, threshold=second + 0.001) == ["moon.txt"]
        assert files(store, embedder, query, mode, threshold=0.999) == []
    unrelated = "the screws of football"  # a word of it occurs, and that alone is not enough
    assert files(store, embedder, unrelated, "lexical") == ["rhubarb.txt"]
    assert files(store, embedder, unrelated, "hybrid", threshold=0.9) == []


def test_words_alone_are_not_enough_where_every_candidate_is_similar(store: SqliteStore, embedder: Embedder) -> None:
    query = "Who invented a machine for fasteners out of timber? QX-7741"
    vector, fusion = embedder.embed_query(query), Fusion(lexical_weight=5, candidates=1)
    cosines = {hit.file: hit.score for hit in store.dense(vector, 4, embedder.fingerprint)}
    assert max(cosines, key=lambda file: cosines[file]) == "rhubarb.txt"
    assert files(store, embedder, query, "lexical") == ["code.txt"]
    for least, expected in ((-0.001, "code.txt"), (0.001, "rhubarb.txt")):
        threshold = cosines["code.txt"] + least
        (best,) = find(
            store, query, vector, embedder.fingerprint, mode="hybrid", top_k=1, threshold=threshold, fusion=fusion
        )
        assert best.file == expected


def hit(file: str, index: int, score: float = 0.5, text: str = "x", start: int = 0) -> Hit:
    return Hit(file, Chunk(index, start, start + len(text), 1, text), score)


def test_fusion_is_reciprocal_rank_fusion() -> None:
    dense, lexical = [hit("a", 0), hit("b", 0), hit("c", 0)], [hit("c", 0), hit("a", 0), hit("d", 0)]
    fused = fuse(dense, lexical, Fusion(k=60, lexical_weight=0.5))
    best = 1.5 / 61
    expected = {
        "a": (1 / 61 + 0.5 / 62) / best,
        "c": (1 / 63 + 0.5 / 61) / best,
        "b": (1 / 62) / best,
        "d": (0.5 / 63) / best,
    }
    assert [h.file for h in fused] == list(expected)
    np.testing.assert_allclose([h.score for h in fused], list(expected.values()))
    same = fuse(dense, dense, Fusion(k=3, lexical_weight=2))
    assert [h.file for h in same] == ["a", "b", "c"]
    assert same[0].score == pytest.approx(1)
    assert fuse([], [], Fusion()) == []


def test_neighbours_are_joined_to_the_text_of_the_document() -> None:
    text = "0123456789abcdefghij"

    def piece(index: int, start: int, end: int, score: float, file: str = "a") -> Hit:
        return hit(file, index, score, text[start:end], start)

    hits = [
        piece(5, 16, 20, 0.9),
        piece(2, 6, 12, 0.8),
        piece(2, 6, 12, 0.7, file="b"),
        piece(1, 2, 8, 0.6),
        piece(3, 12, 14, 0.5),
        piece(4, 12, 13, 0.4),
    ]
    merged = merge_neighbours(hits, len)
    assert [(h.file, h.chunk.index, h.chunk.start, h.chunk.end, h.score) for h in merged] == [
        ("a", 5, 16, 20, 0.9),
        ("a", 1, 2, 14, 0.8),
        ("b", 2, 6, 12, 0.7),
    ]
    assert all(h.chunk.text == text[h.chunk.start : h.chunk.end] for h in merged)
    assert [h.chunk.n_tokens for h in merged] == [1, 12, 1]
    assert merge_neighbours([], len) == []
