"""Chunks that are found by what their document begins with, too."""

import os
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from knowledge.embedder import Embedder
from knowledge.in_document import BEGINNING, in_document
from knowledge.indexer import Indexer
from knowledge.settings import KnowledgeSettings
from knowledge.sqlite_store import SqliteStore
from knowledge.store import Hit

FILLER = "It is turned clockwise until it stands, and then half a turn back, as it swells in the rain. "


def test_a_search_gets_the_weighted_mean_of_both_similarities() -> None:
    random = np.random.default_rng(1)
    vectors = random.standard_normal((5, 8)).astype(np.float32)
    question = random.standard_normal(8).astype(np.float32)
    similarity = vectors @ question
    expected = 0.7 * similarity + 0.3 * similarity[:BEGINNING].mean()
    assert np.allclose(in_document(vectors, 0.3) @ question, expected, atol=1e-5)


@pytest.mark.parametrize(("chunks", "weight"), [(0, 0.5), (1, 0.5), (3, 0.0)])
def test_what_has_nothing_to_be_moved_towards_stays(chunks: int, weight: float) -> None:
    vectors = np.arange(chunks * 4, dtype=np.float32).reshape(chunks, 4)
    assert np.array_equal(in_document(vectors, weight), vectors)


def test_a_chunk_that_does_not_say_what_it_is_about_is_found(tmp_path: Path, embedder: Embedder) -> None:
    """Two manuals, alike but for their first words: alone, their last chunks cannot be told apart."""
    data = tmp_path / "data"
    data.mkdir()
    old = time.time_ns() - 10**11
    for name, subject in (("a.txt", "a press for printing books"), ("b.txt", "a wooden screw for a wine press")):
        (data / name).write_text(f"This is about {subject}. {FILLER * 30}")
        os.utime(data / name, ns=(old, old))
    settings = KnowledgeSettings(data, url=str(tmp_path / "store.sqlite"), chunk_tokens=64, chunk_overlap=0)
    vector = embedder.embed_query("How do I turn the wooden screw of the wine press?")

    def last_chunks(weight: float) -> list[Hit]:
        store = SqliteStore(settings.sqlite_path)
        report = Indexer(store, embedder, replace(settings, document_weight=weight)).run()
        assert report.added == 2  # another weight makes the store anew
        hits = store.dense(vector, 100, embedder.fingerprint)
        store.close()
        most = {hit.file: max(other.chunk.index for other in hits if other.file == hit.file) for hit in hits}
        return [hit for hit in hits if hit.chunk.index == most[hit.file] - 1]

    alone = last_chunks(0.0)
    assert abs(alone[0].score - alone[1].score) < 1e-3
    within = last_chunks(0.35)
    assert within[0].file == "b.txt"
    assert within[0].score > within[1].score + 0.01
