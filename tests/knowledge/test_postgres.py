"""The PostgreSQL store against a real server, which is started, stopped and killed here."""

import shutil
import subprocess
import sys
import threading
import traceback
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from knowledge import postgres
from knowledge.embedder import Embedder
from knowledge.in_document import in_document
from knowledge.postgres import Hnsw, PostgresStore
from knowledge.settings import KnowledgeSettings
from knowledge.store import Document, FileRecord, Hit, StoreBusyError, StoreError, StoreMismatchError
from server import config
from server.documents import open_knowledge
from tests.knowledge.stores import DIMENSIONS, RECIPE, document, found, vectors, write


def test_what_is_written_is_read(store: PostgresStore) -> None:
    first, second = document("a.txt", ["one\ntext", "Größe \U0001f9a2"]), document("b/c d.txt", ["third"], seed=1)
    write(store, first, second)
    assert store.recipe() == RECIPE
    assert dict(store.files()) == {"a.txt": first.record, "b/c d.txt": second.record}
    assert store.chunks("a.txt", 0, 5) == list(first.chunks)
    assert store.chunks("a.txt", 1, 1) == [first.chunks[1]]
    assert store.chunks("unknown", 0, 5) == []
    (hit, *others) = store.dense(first.vectors[1], 10, "fingerprint")
    assert (hit.file, hit.chunk) == ("a.txt", first.chunks[1]) and hit.score == pytest.approx(1, abs=1e-5)
    assert [other.score for other in others] == sorted((other.score for other in others), reverse=True)
    assert len(others) == 2
    gone = Hit("gone.txt", hit.chunk, 0.0)
    assert store.compare(first.vectors[1], [others[1], gone, hit], "fingerprint") == [
        replace(others[1], score=pytest.approx(others[1].score, abs=1e-5)),
        replace(hit, score=pytest.approx(1, abs=1e-5)),
    ]
    stats = store.stats()
    assert (stats.n_files, stats.n_skipped, stats.n_chunks, stats.n_tokens) == (2, 0, 3, 5)
    assert stats.n_bytes > 0 and stats.recipe == RECIPE


def test_changes(store: PostgresStore) -> None:
    write(store, document("a.txt", ["old words", "more"]), document("b.txt", ["stays"]))
    skipped = FileRecord("c.bin", 5, 6, "digest", "binary")
    with store.writing():
        store.replace([document("a.txt", ["new words"]), Document(skipped, [], vectors(0))])
        store.touch([FileRecord("b.txt", 11, 21, "digest")])
        store.delete(["unknown"])
    files = store.files()
    assert files["c.bin"] == skipped
    assert (files["b.txt"].size, files["b.txt"].mtime_ns, files["b.txt"].n_chunks) == (11, 21, 1)
    assert found(store, "old") == [] and found(store, "new") == [("a.txt", 0)]
    assert (store.stats().n_files, store.stats().n_skipped, store.stats().n_chunks) == (3, 1, 2)
    with store.writing():
        store.delete(["a.txt", "b.txt", "c.bin"])
    assert (store.stats().n_files, store.stats().n_chunks, store.stats().n_tokens) == (0, 0, 0)
    assert store.dense(vectors(1)[0], 5, "fingerprint") == [] and found(store, "stays") == []


def test_writing_is_for_writers(store: PostgresStore) -> None:
    with pytest.raises(StoreError, match="inside writing"):
        store.replace([document("a.txt", ["x"])])


def test_ranking_by_words(store: PostgresStore) -> None:
    write(
        store,
        document("common.txt", [f"the printer number {i}" for i in range(12)] + ["nothing"] * 20),
        document("rare.txt", ["the printer of Rhubarb", "Rhubarb, rhubarb, rhubarb", "rhubarb " + "and cake " * 50]),
    )
    assert found(store, "Who was Rhubarb?") == [("rare.txt", 1), ("rare.txt", 0), ("rare.txt", 2)]
    assert set(found(store, "printer Rhubarb")[:2]) == {("rare.txt", 0), ("rare.txt", 1)}
    assert found(store, "printer of Rhubarb and 7")[:1] == [("common.txt", 7)]
    assert len(found(store, "printers")) == 10 and not any(chunk > 11 for _, chunk in found(store, "printers"))
    scores = [hit.score for hit in store.lexical("printer Rhubarb", 10)]
    assert scores == sorted(scores, reverse=True) and scores[-1] > 0


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("screw-printer", [0]),
        ("printer", [0]),
        ("usr lib", [1]),
        ("libx.so", [1]),
        ("MÜLLER", [2]),
        ("who is the", []),
        ("", []),
        ("\0", []),
        ("a'b\\ & | ! <-> :* () \"", []),
        ("печать", [3]),
        ("x" * 200_000, []),
    ],
)
def test_queries_are_plain_words(store: PostgresStore, query: str, expected: list[int]) -> None:
    write(store, document("a.txt", ["a screw-printer", "see /usr/lib/libx.so", "Herr Müller", "машина для печать"]))
    assert [chunk for _, chunk in found(store, query)] == expected


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_is_stored_and_searched(store: PostgresStore, text: str) -> None:
    write(store, document("a.txt", [text]))
    assert [chunk.text for chunk in store.chunks("a.txt", 0, 0)] == [text.replace("\0", "\ufffd")]
    store.lexical(text, 3)


def test_word_counts_follow_every_change(store: PostgresStore, server: Any) -> None:
    rng = np.random.default_rng(0)
    for turn in range(12):
        texts = [" ".join(f"word{n}" for n in rng.integers(0, 8, 4)) for _ in range(int(rng.integers(0, 4)))]
        with store.writing():
            store.replace([document(f"{rng.integers(0, 4)}.txt", texts, seed=turn)])
            if turn % 4 == 3:
                store.delete([f"{rng.integers(0, 4)}.txt"])
    counted: Counter[str] = Counter()
    for file in store.files():
        for chunk in store.chunks(file, 0, 100):
            counted.update(set(chunk.text.split()))
    with psycopg.connect(server.get_uri()) as connection:
        rows = connection.execute("SELECT word, n FROM lucid_knowledge.word WHERE n <> 0").fetchall()
    assert dict(rows) == dict(counted)


def test_another_models_vectors_are_never_compared(store: PostgresStore) -> None:
    write(store, document("a.txt", ["x"]))
    with pytest.raises(StoreMismatchError, match="another embedding model"):
        store.dense(vectors(1)[0], 5, "other")
    with pytest.raises(StoreMismatchError):
        store.dense(np.ones(DIMENSIONS * 2, np.float32), 5, "other")
    with pytest.raises(StoreMismatchError):
        store.compare(np.ones(DIMENSIONS * 2, np.float32), store.lexical("x", 1), "other")


def test_the_index_is_built_used_and_kept_current(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "INDEX_FROM", 2000)
    store = PostgresStore(server.get_uri(), Hnsw(m=8, ef_construction=32, ef_search=40))
    moved = [in_document(vectors(20, seed=1000 + n), KnowledgeSettings().document_weight) for n in range(105)]
    many = np.concatenate(moved)
    with store.writing():
        store.reset(RECIPE)
        texts = [f"text {i}" for i in range(20)]
        store.replace([replace(document(f"{n:03}", texts), vectors=some) for n, some in enumerate(moved)])
    write(store, document("late.txt", ["late"], seed=99))
    (hit, *_) = store.dense(vectors(1, seed=99)[0], 10, "fingerprint")
    assert hit.file == "late.txt"
    right = 0
    for query in vectors(50, seed=5):
        hits = store.dense(query, 10, "fingerprint")
        rows = {20 * int(hit.file) + hit.chunk.index for hit in hits if hit.file != "late.txt"}
        right += len(rows & set(np.argsort(-(many @ query))[:10].tolist()))
    assert right / 500 >= 0.9
    assert len(store.dense(vectors(1)[0], 300, "fingerprint")) == 300  # more than ef_search
    store.close()
    with psycopg.connect(server.get_uri(), autocommit=True) as connection:
        definition = connection.execute("SELECT indexdef FROM pg_indexes WHERE indexname = 'chunk_vector'").fetchone()
        assert definition is not None and "hnsw" in definition[0] and "m='8'" in definition[0]
        scans = "SELECT idx_scan FROM pg_stat_user_indexes WHERE indexrelname = 'chunk_vector'"
        for _ in range(100):  # connections report what they did when they end
            used = connection.execute(scans).fetchone()
            if used is not None and used[0] > 0:
                break
            threading.Event().wait(0.1)
    assert used is not None and used[0] > 0


def test_the_index_is_built_where_workers_cannot_share_memory(
    store: PostgresStore, server: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(postgres, "INDEX_FROM", 50)
    monkeypatch.setattr(postgres, "BUILD_MEMORY", f"{(shutil.disk_usage('/dev/shm').total >> 20) + 1024}MB")
    with psycopg.connect(server.get_uri(), autocommit=True) as connection:
        connection.execute("ALTER TABLE lucid_knowledge.chunk SET (parallel_workers = 2)")
        write(store, document("a.txt", [f"text {i}" for i in range(60)]))
        connection.execute("ALTER TABLE lucid_knowledge.chunk RESET (parallel_workers)")
        assert connection.execute("SELECT to_regclass('lucid_knowledge.chunk_vector') IS NOT NULL").fetchone() == (
            True,
        )
    assert "built by one process" in caplog.text


@pytest.mark.parametrize(("dimensions", "index", "error"), [(3000, "halfvec(3000)", 1e-3), (5000, "", 1e-6)])
def test_long_vectors(
    store: PostgresStore, server: Any, monkeypatch: pytest.MonkeyPatch, dimensions: int, index: str, error: float
) -> None:
    monkeypatch.setattr(postgres, "INDEX_FROM", 2)
    long = np.zeros((3, dimensions), np.float32)
    long[[0, 1, 2], [0, 1, 2]], long[[0, 1, 2], -1] = 0.6, 0.8  # half precision holds neither
    texts = document("a.txt", ["one", "two", "three"])
    with store.writing():
        store.reset(replace(RECIPE, dimensions=dimensions))
        store.replace([replace(texts, vectors=long)])
    hits = store.dense(long[1], 3, "fingerprint")
    assert hits[0].chunk.text == "two"
    assert [hit.score for hit in hits] == pytest.approx([1, 0.64, 0.64], abs=error)
    with psycopg.connect(server.get_uri()) as connection:
        row = connection.execute("SELECT indexdef FROM pg_indexes WHERE indexname = 'chunk_vector'").fetchone()
    assert index in row[0] if index else row is None


def test_one_writer(store: PostgresStore, server: Any) -> None:
    other = PostgresStore(server.get_uri())
    with store.writing():
        with pytest.raises(StoreBusyError, match="another process"), other.writing():
            pass
        with pytest.raises(StoreBusyError, match="this process"), store.writing():
            pass
    with other.writing():
        other.replace([document("a.txt", ["x"])])
    other.close()
    assert list(store.files()) == ["a.txt"]


CRASH = """
import os, signal, sys
sys.path[:0] = [sys.argv[2]]
from knowledge.postgres import PostgresStore
from tests.knowledge.stores import document

class Deadly(list):
    def __iter__(self):
        for n, item in enumerate(list.__iter__(self)):
            if n == 500:
                os.kill(os.getpid(), signal.SIGKILL)
            yield item

store = PostgresStore(sys.argv[1])
whole, torn = document("whole.txt", ["complete"]), document("a.txt", ["torn"] * 1000)
object.__setattr__(torn, "chunks", Deadly(torn.chunks))
with store.writing():
    store.replace([whole])
    store.replace([torn])
"""


def test_a_killed_writer_leaves_the_last_complete_state(store: PostgresStore, server: Any) -> None:
    write(store, document("a.txt", ["before"]))
    root = Path(__file__).parents[2]
    died = subprocess.run([sys.executable, "-c", CRASH, server.get_uri(), str(root)], timeout=60)
    assert died.returncode == -9
    assert sorted(store.files()) == ["a.txt", "whole.txt"]
    assert [chunk.text for chunk in store.chunks("a.txt", 0, 9)] == ["before"]
    assert found(store, "torn") == [] and store.stats().n_chunks == 2
    for _ in range(50):  # the database notices the dead client by itself
        try:
            write(store, document("a.txt", ["newer"]))
            break
        except StoreBusyError:
            threading.Event().wait(0.1)
    assert found(store, "newer") == [("a.txt", 0)]


def test_the_database_goes_away_and_comes_back(
    store: PostgresStore, server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "PATIENCE", 0.5)
    write(store, document("a.txt", ["kept"]))
    impatient = PostgresStore(server.get_uri())
    assert impatient.lexical("kept", 1)
    server.stop()
    never = PostgresStore(server.get_uri())
    for unreachable in (impatient, never, impatient, never, impatient):
        with pytest.raises(StoreError, match="cannot be reached"):
            unreachable.lexical("kept", 1)
        with pytest.raises(StoreError, match="cannot be reached"), unreachable.writing():
            pass
    server.ensure_postgres_running()
    for back in (impatient, never, store):
        assert [hit.chunk.text for hit in back.lexical("kept", 1)] == ["kept"]
    write(impatient, document("b.txt", ["new"]))
    assert sorted(store.files()) == ["a.txt", "b.txt"]
    impatient.close()
    never.close()


def test_a_write_that_the_database_does_not_survive(store: PostgresStore, server: Any) -> None:
    write(store, document("a.txt", ["kept"]))
    with pytest.raises(StoreError), store.writing():
        store.replace([document("b.txt", ["whole"])])
        server.stop()
        store.replace([document("a.txt", ["lost"])])
    server.ensure_postgres_running()
    assert sorted(store.files()) == ["a.txt", "b.txt"] and found(store, "kept") == [("a.txt", 0)]
    write(store, document("a.txt", ["newer"]))
    assert found(store, "newer") == [("a.txt", 0)]


def test_readers_see_whole_states_while_a_writer_works(store: PostgresStore) -> None:
    write(store, document("a.txt", ["state 0"] * 20))
    wrong: list[object] = []
    over = threading.Event()

    def read() -> None:
        while not over.is_set():
            texts = {chunk.text for chunk in store.chunks("a.txt", 0, 99)}
            hits = store.dense(vectors(1)[0], 100, "fingerprint")
            if len(texts) != 1 or len(hits) != 20:
                wrong.append((texts, len(hits)))

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for turn in range(1, 20):
        write(store, document("a.txt", [f"state {turn}"] * 20, seed=turn))
    over.set()
    for reader in readers:
        reader.join()
    assert not wrong


def test_servers_that_start_together(server: Any) -> None:
    with psycopg.connect(server.get_uri(), autocommit=True) as connection:
        connection.execute("DROP SCHEMA IF EXISTS lucid_knowledge CASCADE")
    stores = [PostgresStore(server.get_uri()) for _ in range(6)]
    results: list[object] = []
    threads = [threading.Thread(target=lambda store=store: results.append(store.recipe())) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [None] * 6
    assert stores[0].dense(vectors(1)[0], 5, "any") == []
    for store in stores:
        store.close()


def test_tables_of_another_version_are_refused(server: Any) -> None:
    with psycopg.connect(server.get_uri(), autocommit=True) as connection:
        store = PostgresStore(server.get_uri())
        store.stats()
        store.close()
        connection.execute("UPDATE lucid_knowledge.meta SET version = 99")
        with pytest.raises(StoreError, match=r"version 99, .* DROP SCHEMA lucid_knowledge"):
            PostgresStore(server.get_uri()).stats()
        connection.execute("DROP SCHEMA lucid_knowledge CASCADE")


def test_addresses() -> None:
    shown = PostgresStore("postgresql://me:s%40fe@db.example:5433/facts").location
    assert shown == "PostgreSQL, facts on db.example:5433"
    assert PostgresStore("postgres://").location == "PostgreSQL, the user's database on localhost"
    store = PostgresStore("postgresql://localhost/x")
    store.close()
    store.close()
    with pytest.raises(StoreError, match="closed"):
        store.stats()


@pytest.mark.parametrize(
    "address",
    [
        "user:50%hidden@host/db",
        "user:50%zzhidden@host/db",
        "user:a/hidden@host/db",
        "user:a@hidden@host/db",
        "user:hidden/db",
        "user:a hidden@host/db",
        "[hidden",
        "user:hidden@[host/db",
        "host/db?password=50%hidden",
        "host/db?password=a&hidden",
        "user:hidden@host/db?nonsense=1",
    ],
)
def test_a_password_in_an_address_that_cannot_be_used_is_not_told(
    address: str, embedder: Embedder, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    url = f"postgresql://{address}"
    with pytest.raises(StoreError, match=r"KNOWLEDGE_URL .* percent-encode") as refused:
        PostgresStore(url)
    assert "hidden" not in "".join(traceback.format_exception(refused.value))
    assert open_knowledge(config.read({"DATA_PATH": str(tmp_path), "KNOWLEDGE_URL": url}), embedder) is None
    assert "percent-encode" in caplog.text and "hidden" not in caplog.text
