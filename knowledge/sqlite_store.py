"""The embedded store: one SQLite file with chunks, vectors and a full-text index; vectors are searched with numpy.

The file is in WAL mode: any number of readers, in any process, go on while one indexer writes, and a crash at any
moment leaves the last committed state. The vectors are also held in memory once; every write raises a counter in the
file, by which each process notices the changes of others and loads only what is new.
Sources: https://www.sqlite.org/wal.html, https://www.sqlite.org/fts5.html.
"""

from __future__ import annotations

import fcntl
import json
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from knowledge.store import (
    Chunk,
    Document,
    FileRecord,
    Hit,
    Recipe,
    StoreBusyError,
    StoreClosedError,
    StoreError,
    StoreMismatchError,
    StoreStats,
)
from knowledge.vectors import Vectors
from knowledge.words import words
from llama_native.arrays import Floats

#: Stored as the file's user_version; a file of another version is not touched.
_FORMAT = 2
#: Ranking takes some microseconds a chunk. Words that are in many chunks weigh next to nothing beside rarer ones, so
#: they are left out of the search when the rarer ones are in so many chunks already.
MAX_RANKED = 5_000
_APPLICATION_ID = 0x4C55434B  # "LUCK" in ASCII
_SCHEMA = """
-- One row. Triggers keep the totals, which are asked for often: counting takes as long as there are chunks.
CREATE TABLE state (
    change INTEGER NOT NULL, recipe TEXT,
    n_files INTEGER NOT NULL, n_skipped INTEGER NOT NULL, n_chunks INTEGER NOT NULL, n_tokens INTEGER NOT NULL);
INSERT INTO state VALUES (0, NULL, 0, 0, 0, 0);
-- A file gets a new id whenever its chunks change, so that ids tell what is new. Vectors: float32, little-endian.
CREATE TABLE file (
    id INTEGER PRIMARY KEY AUTOINCREMENT, file TEXT NOT NULL UNIQUE, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL,
    digest TEXT NOT NULL, skipped TEXT NOT NULL, n_chunks INTEGER NOT NULL, vectors BLOB NOT NULL);
CREATE TABLE chunk (
    id INTEGER PRIMARY KEY, file_id INTEGER NOT NULL, number INTEGER NOT NULL, start INTEGER NOT NULL,
    stop INTEGER NOT NULL, n_tokens INTEGER NOT NULL, text TEXT NOT NULL, UNIQUE (file_id, number));
CREATE VIRTUAL TABLE word USING fts5(text, content='chunk', content_rowid='id', tokenize='porter unicode61');
CREATE TRIGGER chunk_added AFTER INSERT ON chunk BEGIN
    INSERT INTO word(rowid, text) VALUES (new.id, new.text);
    UPDATE state SET n_chunks = n_chunks + 1, n_tokens = n_tokens + new.n_tokens;
END;
CREATE TRIGGER chunk_removed AFTER DELETE ON chunk BEGIN
    INSERT INTO word(word, rowid, text) VALUES ('delete', old.id, old.text);
    UPDATE state SET n_chunks = n_chunks - 1, n_tokens = n_tokens - old.n_tokens;
END;
CREATE TRIGGER file_added AFTER INSERT ON file BEGIN
    UPDATE state SET n_files = n_files + 1, n_skipped = n_skipped + (new.skipped <> '');
END;
CREATE TRIGGER file_removed AFTER DELETE ON file BEGIN
    UPDATE state SET n_files = n_files - 1, n_skipped = n_skipped - (old.skipped <> '');
END;
"""
_CHUNK = "c.number, c.start, c.stop, c.n_tokens, c.text"


class SqliteStore:
    """A `Store` in the SQLite file `path`, which is created with its folder, if there is none, when it is first used.

    Until that has succeeded every use tries it again: a disk that is full now will not stay so.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._closed = False
        self._opened = False
        self._opening = threading.Lock()
        self._writing = False
        self._idle: list[sqlite3.Connection] = []
        self._pool_lock = threading.Lock()
        self._vectors_lock = threading.Lock()
        self._vectors: Vectors | None = None
        self._recipe: Recipe | None = None
        self._change = -1

    @property
    def location(self) -> str:
        """The file's path."""
        return str(self._path)

    def close(self) -> None:
        """Closes the file; a connection that a thread still uses is closed when that thread is done with it."""
        with self._pool_lock:
            self._closed = True
            connections, self._idle = self._idle, []
        for connection in connections:
            connection.close()

    # Writing

    @contextmanager
    def writing(self) -> Iterator[None]:
        """See `Store.writing`. The lock is on a file beside the store; the system gives it up with the process."""
        self._open()
        with _explained(self._path):
            lock = self._path.with_name(self._path.name + ".lock").open("wb")
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise StoreBusyError(f"{self._path}: another indexer is writing this store") from None
            self._writing = True
            try:
                yield
            finally:
                self._writing = False

    def reset(self, recipe: Recipe) -> None:
        """See `Store.reset`."""
        with self._changing() as db:
            db.execute("DELETE FROM chunk")
            db.execute("DELETE FROM file")
            db.execute("UPDATE state SET recipe = ?", (json.dumps(asdict(recipe)),))

    def replace(self, documents: Sequence[Document]) -> None:
        """See `Store.replace`."""
        with self._changing() as db:
            _forget(db, [document.record.file for document in documents])
            for document in documents:
                _insert(db, document)

    def touch(self, records: Sequence[FileRecord]) -> None:
        """See `Store.touch`."""
        with self._changing() as db:
            db.executemany(
                "UPDATE file SET size = ?, mtime_ns = ? WHERE file = ?", [(r.size, r.mtime_ns, r.file) for r in records]
            )

    def delete(self, files: Sequence[str]) -> None:
        """See `Store.delete`."""
        with self._changing() as db:
            _forget(db, files)

    # Reading

    def recipe(self) -> Recipe | None:
        """See `Store.recipe`."""
        with self._reading() as db:
            return _recipe(db)

    def files(self) -> Mapping[str, FileRecord]:
        """See `Store.files`."""
        with self._reading() as db:
            rows = db.execute("SELECT file, size, mtime_ns, digest, skipped, n_chunks FROM file")
            return {row[0]: FileRecord(*row) for row in rows}

    def dense(self, vector: Floats, limit: int, fingerprint: str) -> list[Hit]:
        """See `Store.dense`. Exact: every vector is compared."""
        with self._connection() as db:
            with self._current(db, fingerprint) as vectors:
                matches = vectors.search(vector, limit) if vectors else []
            hits = []
            for match in matches:
                row = db.execute(
                    f"SELECT f.file, {_CHUNK} FROM chunk c JOIN file f ON f.id = c.file_id "
                    "WHERE c.file_id = ? AND c.number = ?",
                    (match.file_id, match.index),
                ).fetchone()
                hits.append(Hit(row[0], Chunk(*row[1:]), match.score))
            return hits

    def compare(self, vector: Floats, hits: Sequence[Hit], fingerprint: str) -> list[Hit]:
        """See `Store.compare`."""
        with self._connection() as db, self._current(db, fingerprint) as vectors:
            names = {hit.file for hit in hits}
            rows = [db.execute("SELECT id, file FROM file WHERE file = ?", (name,)).fetchone() for name in names]
            ids = {name: file_id for file_id, name in filter(None, rows)}
            wanted = {(ids[hit.file], hit.chunk.index) for hit in hits if hit.file in ids}
            matches = vectors.compare(vector, wanted) if vectors else []
        scores = {(match.file_id, match.index): match.score for match in matches}
        keys = [(ids.get(hit.file, -1), hit.chunk.index) for hit in hits]
        return [replace(hit, score=scores[key]) for hit, key in zip(hits, keys, strict=True) if key in scores]

    def lexical(self, query: str, limit: int) -> list[Hit]:
        """See `Store.lexical`."""
        with self._reading() as db:
            terms = _rarest(db, words(query))
            if not terms:
                return []
            rows = db.execute(
                f"SELECT w.score, f.file, {_CHUNK} FROM "
                "(SELECT rowid, -rank AS score FROM word WHERE word MATCH ? ORDER BY rank LIMIT ?) w "
                "JOIN chunk c ON c.id = w.rowid JOIN file f ON f.id = c.file_id ORDER BY w.score DESC, c.id",
                (" OR ".join(terms), limit),
            ).fetchall()
        return [Hit(row[1], Chunk(*row[2:]), row[0]) for row in rows]

    def chunks(self, file: str, first: int, last: int) -> list[Chunk]:
        """See `Store.chunks`."""
        with self._reading() as db:
            rows = db.execute(
                f"SELECT {_CHUNK} FROM chunk c JOIN file f ON f.id = c.file_id "
                "WHERE f.file = ? AND c.number BETWEEN ? AND ? ORDER BY c.number",
                (file, first, last),
            ).fetchall()
        return [Chunk(*row) for row in rows]

    def stats(self) -> StoreStats:
        """See `Store.stats`."""
        with self._reading() as db:
            n_files, n_skipped, n_chunks, n_tokens = db.execute(
                "SELECT n_files, n_skipped, n_chunks, n_tokens FROM state"
            ).fetchone()
            pages, page_size = (db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "page_size"))
            return StoreStats(n_files, n_skipped, n_chunks, n_tokens, pages * page_size, _recipe(db))

    # Internals

    def _open(self) -> None:
        """Makes the file if there is none and loads the vectors, once. Raises `StoreError`."""
        with self._opening, _explained(self._path):
            if not self._opened:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._create()
                with self._lent() as db, self._vectors_lock:
                    db.execute("BEGIN")
                    self._refresh(db)
                self._opened = True

    def _create(self) -> None:
        with self._lent() as db:
            if db.execute("PRAGMA journal_mode = WAL").fetchone()[0] != "wal":
                raise StoreError(f"{self._path}: this file system cannot hold a database that is shared (no WAL)")
            db.execute("BEGIN IMMEDIATE")
            application, version = (db.execute(f"PRAGMA {n}").fetchone()[0] for n in ("application_id", "user_version"))
            if (application, version) == (_APPLICATION_ID, _FORMAT):
                return
            if application or version or db.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
                raise StoreError(f"{self._path} is no store of this version: remove it or set KNOWLEDGE_URL")
            for statement in _statements(_SCHEMA):
                db.execute(statement)
            db.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
            db.execute(f"PRAGMA user_version = {_FORMAT}")
            db.execute("COMMIT")

    def _refresh(self, db: sqlite3.Connection) -> None:
        """Brings the vectors in memory to the state of the snapshot that `db` reads."""
        (change,) = db.execute("SELECT change FROM state").fetchone()
        if change == self._change:
            return
        recipe = _recipe(db)
        if recipe is not None and (self._vectors is None or self._recipe != recipe):
            self._vectors = Vectors(recipe.dimensions)
        self._recipe = recipe
        if self._vectors is not None:
            present = dict(db.execute("SELECT id, n_chunks FROM file WHERE n_chunks > 0"))
            if gone := self._vectors.file_ids - present.keys():
                self._vectors.remove(gone)
            new = sorted(present.keys() - self._vectors.file_ids)
            if self._change < 0:
                self._vectors.reserve(sum(present.values()))
            for file_id in new:
                (blob,) = db.execute("SELECT vectors FROM file WHERE id = ?", (file_id,)).fetchone()
                self._vectors.add(file_id, np.frombuffer(blob, "<f4").reshape(-1, self._vectors.dimensions))
        self._change = change

    @contextmanager
    def _current(self, db: sqlite3.Connection, fingerprint: str) -> Iterator[Vectors | None]:
        """Lends the vectors as they are in the snapshot that it opens on `db`; None in a store never written."""
        # The snapshot is opened under the lock, so that no thread sees an older state than the vectors are of.
        with self._vectors_lock:
            db.execute("BEGIN")
            self._refresh(db)
            if self._recipe is not None and self._recipe.fingerprint != fingerprint:
                raise StoreMismatchError(
                    f"{self._path} was indexed with another embedding model ({self._recipe.model}): index again"
                )
            yield self._vectors

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        """Lends a connection to the opened store."""
        self._open()
        with self._lent() as db:
            yield db

    @contextmanager
    def _lent(self) -> Iterator[sqlite3.Connection]:
        """Lends a connection; a transaction that is still open at the end is rolled back."""
        with _explained(self._path):
            with self._pool_lock:
                if self._closed:
                    raise StoreClosedError(f"{self._path}: the store is closed")
                db = self._idle.pop() if self._idle else None
            if db is None:
                db = sqlite3.connect(self._path, timeout=60, isolation_level=None, check_same_thread=False)
                db.execute(
                    "PRAGMA synchronous = NORMAL"
                )  # in WAL mode: durable but for the last moments, never damaged
            try:
                yield db
            finally:
                self._give_back(db)

    def _give_back(self, db: sqlite3.Connection) -> None:
        if db.in_transaction:
            db.execute("ROLLBACK")
        with self._pool_lock:
            if self._closed:
                db.close()
            else:
                self._idle.append(db)

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._connection() as db:
            db.execute("BEGIN")
            yield db

    @contextmanager
    def _changing(self) -> Iterator[sqlite3.Connection]:
        if not self._writing:
            raise StoreError(f"{self._path}: changed outside of writing()")
        with self._connection() as db:
            db.execute("BEGIN IMMEDIATE")
            yield db
            db.execute("UPDATE state SET change = change + 1")
            db.execute("COMMIT")


def _rarest(db: sqlite3.Connection, terms: Sequence[str]) -> list[str]:
    """Returns the terms to search for, quoted: the rarest, as long as they occur in few chunks enough to rank."""
    counted = []
    for term in terms:
        quoted = f'"{term}"'
        (count,) = db.execute("SELECT count(*) FROM word WHERE word MATCH ?", (quoted,)).fetchone()
        if count:
            counted.append((count, quoted))
    chosen, total = list[str](), 0
    for count, quoted in sorted(counted):
        if chosen and total + count > MAX_RANKED:
            break
        chosen.append(quoted)
        total += count
    return chosen


def _forget(db: sqlite3.Connection, files: Sequence[str]) -> None:
    names = [(file,) for file in files]
    db.executemany("DELETE FROM chunk WHERE file_id = (SELECT id FROM file WHERE file = ?)", names)
    db.executemany("DELETE FROM file WHERE file = ?", names)


def _insert(db: sqlite3.Connection, document: Document) -> None:
    record, chunks = document.record, document.chunks
    blob = np.ascontiguousarray(document.vectors, "<f4").tobytes()
    cursor = db.execute(
        "INSERT INTO file (file, size, mtime_ns, digest, skipped, n_chunks, vectors) VALUES (?, ?, ?, ?, ?, ?, ?)",
        (record.file, record.size, record.mtime_ns, record.digest, record.skipped, len(chunks), blob),
    )
    db.executemany(
        "INSERT INTO chunk (file_id, number, start, stop, n_tokens, text) VALUES (?, ?, ?, ?, ?, ?)",
        [(cursor.lastrowid, c.index, c.start, c.end, c.n_tokens, c.text) for c in chunks],
    )


def _recipe(db: sqlite3.Connection) -> Recipe | None:
    (text,) = db.execute("SELECT recipe FROM state").fetchone()
    return None if text is None else Recipe(**json.loads(text))


def _statements(script: str) -> Iterator[str]:
    """Yields the statements of a script one by one: `executescript` would commit the transaction it is in."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """Turns errors of SQLite and the file system into `StoreError` with the file's name."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise StoreError(f"{path}: {error}") from error
