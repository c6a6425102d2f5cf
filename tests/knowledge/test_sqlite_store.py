"""The SQLite store: what it promises to readers, writers and those whose process is killed."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from knowledge.sqlite_store import SqliteStore
from knowledge.store import Document, FileRecord, Hit, Recipe, StoreBusyError, StoreError, StoreMismatchError
from knowledge.vectors import Vectors
from llama_native.arrays import Floats
from tests.knowledge.stores import RECIPE, document, found, vectors, write


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "store.sqlite"


@pytest.fixture
def store(path: Path) -> Iterator[SqliteStore]:
    """An empty store."""
    made = SqliteStore(path)
    with made.writing():
        made.reset(RECIPE)
    yield made
    made.close()


def nearest(store: SqliteStore, vector: Floats, limit: int = 10) -> list[tuple[str, int]]:
    return [(hit.file, hit.chunk.index) for hit in store.dense(vector, limit, "fingerprint")]


def test_what_is_written_is_read_by_this_and_the_next_process(store: SqliteStore, path: Path) -> None:
    first, second = document("a.txt", ["one\ntext", "Größe \U0001f9a2"]), document("b/c d.txt", ["third"], seed=1)
    write(store, first, second)
    other = SqliteStore(path)
    for reader in (store, other):
        assert reader.recipe() == RECIPE
        assert reader.files() == {"a.txt": first.record, "b/c d.txt": second.record}
        assert reader.chunks("a.txt", 0, 5) == list(first.chunks)
        assert reader.chunks("a.txt", 1, 1) == [first.chunks[1]]
        hits = reader.dense(second.vectors[0], 2, "fingerprint")
        assert (hits[0].file, hits[0].chunk, hits[0].score) == ("b/c d.txt", second.chunks[0], pytest.approx(1))
        assert hits[1].score < 1
        gone = Hit("gone.txt", hits[0].chunk, 0.0)
        assert reader.compare(second.vectors[0], [hits[1], gone, hits[0]], "fingerprint") == [
            replace(hits[1], score=pytest.approx(hits[1].score, abs=1e-5)),
            replace(hits[0], score=pytest.approx(1, abs=1e-5)),
        ]
        assert found(reader, "größe") == [("a.txt", 1)]
        stats = reader.stats()
        assert (stats.n_files, stats.n_skipped, stats.n_chunks, stats.n_tokens) == (2, 0, 3, 5)
        assert stats.n_bytes > 0
    other.close()


def test_changes_are_seen_by_all(store: SqliteStore, path: Path) -> None:
    other = SqliteStore(path)
    write(store, document("a", ["old words", "more"]), document("b", ["stay"], seed=1))
    before = document("a", ["x", "y"]).vectors[0]
    assert nearest(other, before)[0] == ("a", 0)
    write(store, document("a", ["new words"], seed=2))
    for reader in (store, other):
        assert found(reader, "old more") == []
        assert found(reader, "new") == [("a", 0)]
        assert nearest(reader, vectors(1, 2)[0]) == [("a", 0), ("b", 0)]
    with store.writing():
        store.touch([FileRecord("a", 11, 21, "digest")])
        store.delete(["b", "unknown"])
    assert set(other.files()) == {"a"}
    assert (other.files()["a"].size, other.files()["a"].mtime_ns, other.files()["a"].n_chunks) == (11, 21, 1)
    assert nearest(other, before) == [("a", 0)]
    with store.writing():
        store.reset(RECIPE)
    assert nearest(other, before) == found(other, "words") == []
    other.close()


def test_totals_follow_every_change_and_are_not_counted(store: SqliteStore) -> None:
    def totals() -> tuple[int, ...]:
        stats = store.stats()
        return stats.n_files, stats.n_skipped, stats.n_chunks, stats.n_tokens

    skipped = Document(FileRecord("c.bin", 5, 6, "digest", "binary"), [], vectors(0))
    write(store, document("a", ["two words", "one"]), document("b", ["three more words"]), skipped)
    assert totals() == (3, 1, 3, 6)
    write(store, document("a", ["one"]), document("c.bin", ["text now"]))
    assert totals() == (3, 0, 3, 6)
    with store.writing():
        store.delete(["a", "unknown"])
    assert totals() == (2, 0, 2, 5)
    read: set[str | None] = set()

    def note(action: int, table: str | None, *_: object) -> int:
        if action == sqlite3.SQLITE_READ:
            read.add(table)
        return sqlite3.SQLITE_OK

    for connection in store._idle:
        connection.set_authorizer(note)
    assert totals() == (2, 0, 2, 5) and read == {"state"}, "what has a row for each file or chunk is not read"
    with store.writing():
        store.reset(RECIPE)
    assert totals() == (0, 0, 0, 0)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 700), st.integers(0, 99)), min_size=1, max_size=12))
def test_search_is_exact_after_any_changes(store: SqliteStore, changes: list[tuple[int, int, int]]) -> None:
    with store.writing():
        store.reset(RECIPE)
    state: dict[str, Floats] = {}
    for number, count, seed in changes:
        name = f"file{number}"
        write(store, document(name, ["word"] * count, seed))
        state[name] = vectors(count, seed)
        query = vectors(1, 1000 + seed)[0]
        expected = sorted((float(v @ query) for array in state.values() for v in array), reverse=True)[:20]
        hits = store.dense(query, 20, "fingerprint")
        np.testing.assert_allclose([hit.score for hit in hits], expected, atol=1e-5)
        for hit in hits:
            assert hit.score == pytest.approx(float(state[hit.file][hit.chunk.index] @ query), abs=1e-5)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("screw", [0, 1]),
        ("SCREWS!", [0, 1]),
        ('" OR text:* NEAR(', []),
        ("what is the printer", [1]),
        ("", []),
        ("?!", []),
        ("snake_case", [2]),
        ("the", []),
        ("x" * 100_000, []),
        ("AND OR NOT", [0]),
        ("printer\0screw", [1, 0]),
    ],
)
def test_queries_are_plain_words(store: SqliteStore, query: str, expected: list[int]) -> None:
    write(store, document("a", ["a wooden screw of some length and width", "screw printer", "snake_case is a name"]))
    assert sorted(index for _, index in found(store, query)) == sorted(expected)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_is_stored_and_searched(store: SqliteStore, text: str) -> None:
    write(store, document("a", [text]))
    assert store.chunks("a", 0, 0)[0].text == text
    store.lexical(text, 5)


def test_another_models_vectors_are_never_compared(store: SqliteStore) -> None:
    write(store, document("a", ["text"]))
    with pytest.raises(StoreMismatchError, match="another embedding model"):
        store.dense(vectors(1)[0], 5, "other")
    with pytest.raises(StoreMismatchError, match="another embedding model"):
        store.compare(vectors(1)[0], store.lexical("text", 1), "other")
    with store.writing():
        store.reset(Recipe("other", "other", 4, 200, 20, "", 1))
    assert store.dense(np.array([1, 0, 0, 0], np.float32), 5, "other") == []


def test_a_file_for_which_there_was_no_memory_is_loaded_later(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: Vectors, _n: int) -> None:
        raise MemoryError

    added = document("a", ["text"])
    assert nearest(store, added.vectors[0]) == []
    write(store, added)
    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr(Vectors, "reserve", full)
        nearest(store, added.vectors[0])
    assert nearest(store, added.vectors[0]) == [("a", 0)]


def test_one_writer(store: SqliteStore, path: Path) -> None:
    other = SqliteStore(path)
    with store.writing(), pytest.raises(StoreBusyError), other.writing():
        pass
    with other.writing():
        other.delete([])
    with pytest.raises(StoreError, match="outside of writing"):
        store.delete([])
    other.close()


def test_a_failed_change_leaves_everything_as_it_was(store: SqliteStore) -> None:
    write(store, document("a", ["old"]))
    broken = document("b", ["x"])
    broken = Document(broken.record, [broken.chunks[0], broken.chunks[0]], broken.vectors)  # one number twice
    with pytest.raises(StoreError), store.writing():
        store.replace([document("a", ["new"]), broken])
    assert set(store.files()) == {"a"}
    assert found(store, "old") == [("a", 0)]


_WRITER = """
import sys
from pathlib import Path
from knowledge.sqlite_store import SqliteStore
from tests.knowledge.stores import document
store = SqliteStore(Path(sys.argv[1]))
with store.writing():
    print("ready", flush=True)
    for generation in range(1, 100000):
        store.replace([document(f"file{i}", [f"generation{generation}"] * 30, generation) for i in range(20)])
        print("written", flush=True)
"""


def test_a_killed_writer_leaves_a_complete_state(store: SqliteStore, path: Path, root: Path) -> None:
    write(store, *(document(f"file{i}", ["generation0"] * 30) for i in range(20)))
    generations = set()
    for moment in range(8):
        process = subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(path)], stdout=subprocess.PIPE, cwd=root, env=os.environ
        )
        assert process.stdout is not None
        for _ in range(moment % 3 + 1):
            assert process.stdout.readline() in (b"ready\n", b"written\n")
        time.sleep(0.007 * moment)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        opened = SqliteStore(path)
        for reader in (opened, store):
            texts = {chunk.text for i in range(20) for chunk in reader.chunks(f"file{i}", 0, 99)}
            assert len(texts) == 1, "a transaction was seen in part"
            (generation,) = {int(text.removeprefix("generation")) for text in texts}
            assert len(reader.lexical(texts.pop(), 1000)) == 600
            hits = reader.dense(vectors(30, generation)[0], 20, "fingerprint")
            assert [hit.score for hit in hits] == pytest.approx([1] * 20, abs=1e-5)
        with opened.writing():  # the lock went with its holder
            opened.delete([])
        opened.close()
        generations.add(generation)
    with sqlite3.connect(path) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        db.execute("INSERT INTO word(word) VALUES ('integrity-check')")
    db.close()
    assert len(generations) > 1


def test_readers_see_whole_states_while_a_writer_works(store: SqliteStore) -> None:
    def state(generation: int) -> list[Document]:
        return [document(f"file{i}", [f"generation{generation}"] * 5, generation) for i in range(4)]

    write(store, *state(0))
    stop, wrong = threading.Event(), list[str]()

    def read() -> None:
        query = vectors(1, 5000)[0]
        while not stop.is_set():
            seen = {hit.chunk.text for hit in store.dense(query, 20, "fingerprint")}
            if len(seen) != 1:
                wrong.append(f"dense saw {seen}")

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    with store.writing():
        for generation in range(1, 60):
            store.replace(state(generation))
    stop.set()
    for reader in readers:
        reader.join()
    assert wrong == []


def test_files_that_are_no_store(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no database, but long enough to be read as one" * 30)
    with pytest.raises(StoreError, match="not a database"):
        SqliteStore(tmp_path / "text").stats()
    with sqlite3.connect(tmp_path / "foreign") as db:
        db.execute("CREATE TABLE precious (x)")
    db.close()
    with pytest.raises(StoreError, match="no store of this version"):
        SqliteStore(tmp_path / "foreign").stats()
    with sqlite3.connect(tmp_path / "foreign") as db:
        assert db.execute("SELECT name FROM sqlite_schema").fetchall() == [("precious",)]
    db.close()
    with pytest.raises(StoreError):
        SqliteStore(tmp_path).stats()


def test_closing_leaves_connections_to_whoever_uses_them(store: SqliteStore) -> None:
    write(store, document("a", ["goose"]))
    with store._connection() as db:
        store.close()
        assert db.execute("SELECT count(*) FROM chunk").fetchone() == (1,)
    with pytest.raises(sqlite3.ProgrammingError):
        db.execute("SELECT 1")


def test_closed(store: SqliteStore) -> None:
    store.close()
    store.close()
    with pytest.raises(StoreError, match="closed"):
        store.files()
