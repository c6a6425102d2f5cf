"""A store in PostgreSQL with pgvector, for many servers that answer from the same files.

Everything lies in the schema `lucid_knowledge` of one database. Vectors are searched with an HNSW index (Malkov and
Yashunin, arXiv:1603.09320) once there are enough of them, before that exactly; words with a GIN index over
PostgreSQL's English text search configuration and a ranking close to BM25. Connections come from a pool that replaces
broken ones, so a database that went away is used again when it is back. Knows SQL and the store's promises; files and
models are other modules' business.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import psycopg
import psycopg_pool
from pgvector import Vector
from pgvector.psycopg import register_vector
from psycopg import sql
from psycopg.types.json import Json

from knowledge import postgres_schema as schema
from knowledge.postgres_connections import PatientConnection, connection_settings, location, patience
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
from llama_native.arrays import Floats

#: From how many chunks on there is an HNSW index: below, the exact search takes a few milliseconds.
INDEX_FROM: Final = 5_000
#: pgvector indexes vectors of up to 2,000 dimensions as they are and of up to 4,000 in half precision.
_FULL_DIMENSIONS: Final = 2_000
_HALF_DIMENSIONS: Final = 4_000
#: Memory for building that index.
BUILD_MEMORY = "1GB"
#: Seconds that a search, or whatever else is read, may take in all before the database counts as away.
PATIENCE = 3.0
#: Most connections that searches use at once.
CONNECTIONS: Final = 8
#: Most different words of a query that are looked up, the rarest ones.
MAX_WORDS: Final = 64
#: Most characters of a query that are looked up by words.
MAX_QUERY: Final = 100_000
#: Words of a query propose chunks, the rarest first, until there are this many; all of its words rank them.
MAX_PROPOSED: Final = 5_000

log = logging.getLogger(__name__)
# A failed attempt to connect is told by the StoreError of whoever wanted the connection.
logging.getLogger("psycopg.pool").setLevel(logging.ERROR)

_Connection = psycopg.Connection[tuple[Any, ...]]


@dataclass(frozen=True, slots=True)
class Hnsw:
    """Sizes of the HNSW index, with pgvector's names. Defaults: chosen with `bench.knowledge_postgres`.

    :ivar m: links per node.
    :ivar ef_construction: candidates while building.
    :ivar ef_search: candidates while searching.
    """

    m: int = 24
    ef_construction: int = 128
    ef_search: int = 600


class PostgresStore:
    """A `Store` in the database at `url`. Nothing is connected before the first call. Thread-safe.

    Reading takes at most `PATIENCE` seconds, whatever the database does: it may be stopped, unreachable, or take
    connections and say nothing. Writing takes as long as it takes, as long as the database's machine is there.

    :param url: `postgresql://user:password@host:port/database`, with any other parameters of libpq.
    :param hnsw: sizes of the index; those of building count for whoever builds it.
    :raises StoreError: `url` cannot be used; the message does not show it, as there is a password in it.
    """

    def __init__(self, url: str, hnsw: Hnsw | None = None) -> None:
        self._location = location(url)
        self._url = url
        self._hnsw = hnsw or Hnsw()
        options = {"search_path": f"{schema.SCHEMA},public", "hnsw.ef_search": self._hnsw.ef_search}
        self._settings = connection_settings(PATIENCE, options)
        self._reader_settings = connection_settings(PATIENCE, options | {"statement_timeout": int(1000 * PATIENCE)})
        self._opening = threading.Lock()
        self._failed_at = -math.inf
        self._pool: psycopg_pool.ConnectionPool[PatientConnection] | None = None
        self._writing = threading.Lock()
        self._writer: _Connection | None = None
        self._closed = False

    @property
    def location(self) -> str:
        """The database and its host."""
        return self._location

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Holds an advisory lock of the database; at the end of a write, builds the HNSW index if it is due."""
        if not self._writing.acquire(blocking=False):
            raise StoreBusyError(f"{self._location}: this process is indexing already")
        try:
            with self._explained(), self._open() as connection:
                if not _one(connection.execute("SELECT pg_try_advisory_lock(%s)", [schema.LOCK]))[0]:
                    raise StoreBusyError(f"{self._location}: another process is indexing")
                self._writer = connection
                try:
                    yield
                    self._build_index(connection)
                finally:  # closing the connection would do, but some time after
                    with suppress(psycopg.Error):
                        connection.execute("SELECT pg_advisory_unlock(%s)", [schema.LOCK])
        finally:
            self._writer = None
            self._writing.release()

    def reset(self, recipe: Recipe) -> None:
        """Removes everything and starts anew for `recipe`."""
        with self._transaction() as connection:
            connection.execute("TRUNCATE file, chunk, word")
            connection.execute("DROP INDEX IF EXISTS chunk_vector")
            connection.execute("UPDATE meta SET recipe = %s, n_chunks = 0, n_tokens = 0", [Json(asdict(recipe))])

    def replace(self, documents: Sequence[Document]) -> None:
        """Puts these files in place of what was known of them, all in one transaction."""
        with self._transaction() as connection:
            _forget(connection, [document.record.file for document in documents])
            ids = []
            for document in documents:
                record = document.record
                values = [record.size, record.mtime_ns, record.digest, record.skipped, len(document.chunks)]
                row = connection.execute(
                    "INSERT INTO file (file, size, mtime_ns, digest, skipped, n_chunks) "
                    "VALUES (%s, %s, %s, %s, %s, %s) RETURNING id",
                    [record.file, *values],
                )
                ids.append(_one(row)[0])
            copy_in = (
                "COPY chunk (file_id, idx, start_char, end_char, n_tokens, text, vector) FROM STDIN (FORMAT BINARY)"
            )
            with connection.cursor().copy(copy_in) as copy:
                copy.set_types(["int8", "int4", "int4", "int4", "int4", "text", "vector"])
                for file_id, document in zip(ids, documents, strict=True):
                    for c, vector in zip(document.chunks, document.vectors, strict=True):
                        # PostgreSQL's text holds every character but this one.
                        text = c.text.replace("\0", "\ufffd")
                        copy.write_row((file_id, c.index, c.start, c.end, c.n_tokens, text, Vector(vector)))
            connection.execute(schema.ADD_WORDS, [ids])
            connection.execute(schema.ADD_TOTALS, [ids])

    def touch(self, records: Sequence[FileRecord]) -> None:
        """Notes new sizes and modification times of files whose content is the same, in one transaction."""
        with self._transaction() as connection:
            connection.cursor().executemany(
                "UPDATE file SET size = %s, mtime_ns = %s WHERE file = %s",
                [(record.size, record.mtime_ns, record.file) for record in records],
            )

    def delete(self, files: Sequence[str]) -> None:
        """Forgets these files, in one transaction. Those not known are ignored."""
        with self._transaction() as connection:
            _forget(connection, files)

    def recipe(self) -> Recipe | None:
        """Returns how the vectors were made; None for a store that was never written."""
        with self._reading() as connection:
            return _recipe(connection)

    def files(self) -> Mapping[str, FileRecord]:
        """Returns all files by their path."""
        with self._explained(), self._open() as connection:  # may be many: not within `PATIENCE`
            rows = connection.execute("SELECT file, size, mtime_ns, digest, skipped, n_chunks FROM file ORDER BY file")
            return {row[0]: FileRecord(*row) for row in rows}

    def dense(self, vector: Floats, limit: int, fingerprint: str) -> list[Hit]:
        """Returns the chunks nearest to `vector` (dimensions,) by their dot product with it, best first.

        With the index this is approximate: 97% of the best 10 at 100,000 chunks (`bench.knowledge_postgres`).
        """
        query = sql.SQL(schema.DENSE).format(sql.SQL(_vector_type(len(vector))))
        values = {"vector": Vector(vector), "fingerprint": fingerprint, "limit": limit}
        with self._reading() as connection:
            hits = _hits(connection.execute(query, values))
            recipe = None if hits else _recipe(connection)
        if recipe is not None and recipe.fingerprint != fingerprint:
            raise StoreMismatchError(f"{self._location} has the vectors of another embedding model, {recipe.model}")
        return hits

    def compare(self, vector: Floats, hits: Sequence[Hit], fingerprint: str) -> list[Hit]:
        """Returns those of `hits` that are still there, in their order, with their dot product with `vector`."""
        files, indices = [hit.file for hit in hits], [hit.chunk.index for hit in hits]
        values = {"vector": Vector(vector), "fingerprint": fingerprint, "files": files, "indices": indices}
        with self._reading() as connection:
            rows = connection.execute(schema.COMPARE, values).fetchall()
            recipe = None if rows else _recipe(connection)
        if recipe is not None and recipe.fingerprint != fingerprint:
            raise StoreMismatchError(f"{self._location} has the vectors of another embedding model, {recipe.model}")
        return [replace(hits[place - 1], score=score) for place, score in rows]

    def lexical(self, query: str, limit: int) -> list[Hit]:
        """Returns the chunks with words of `query`, best first (`postgres_schema.LEXICAL`)."""
        with self._reading() as connection:
            text = query[:MAX_QUERY].replace("\0", " ")
            rows = connection.execute(schema.QUERY_WORDS, [text, MAX_WORDS]).fetchall()
            if not rows:
                return []
            words: list[tuple[str, float]] = []
            proposing: list[str] = []
            proposed = 0
            for word, n, n_chunks, _ in rows:
                words.append((word, math.log(1 + (n_chunks - n + 0.5) / (n + 0.5))))
                if not proposing or proposed + n <= MAX_PROPOSED:
                    proposing.append(word)
                    proposed += n
            values = {
                "words": [word for word, _ in words],
                "idfs": [idf for _, idf in words],
                "proposing": proposing,
                "length": rows[0][3] / rows[0][2],
                "limit": limit,
            }
            return _hits(connection.execute(schema.LEXICAL, values))

    def chunks(self, file: str, first: int, last: int) -> list[Chunk]:
        """Returns the chunks of a file with indices `first` to `last`, those there are, in order."""
        with self._reading() as connection:
            return [Chunk(*row) for row in connection.execute(schema.CHUNKS, [file, first, last])]

    def stats(self) -> StoreStats:
        """Returns what the store holds; its size includes indexes."""
        with self._reading() as connection:
            n_files, n_skipped, n_chunks, n_tokens, n_bytes = _one(connection.execute(schema.STATS))
            return StoreStats(n_files, n_skipped, n_chunks, n_tokens, n_bytes, _recipe(connection))

    def close(self) -> None:
        """Closes all connections. May be called twice."""
        with self._opening:
            self._closed = True
            if self._pool is not None:
                self._pool.close()

    @contextmanager
    def _transaction(self) -> Iterator[_Connection]:
        if self._writer is None:
            raise StoreError("a store is written only inside writing()")
        with self._explained(), self._writer.transaction():
            yield self._writer

    @contextmanager
    def _reading(self) -> Iterator[_Connection]:
        with self._explained(), patience(PATIENCE) as left, self._opened().connection(timeout=left()) as connection:
            yield connection

    def _opened(self) -> psycopg_pool.ConnectionPool[PatientConnection]:
        """The pool; at the first call, makes the tables if they are missing."""
        begin = time.monotonic()
        if not self._opening.acquire(timeout=PATIENCE):
            raise StoreError(f"{self._location} cannot be reached within {PATIENCE:g} s")
        try:
            if self._closed:
                raise StoreClosedError(f"{self._location}: the store is closed")
            if self._pool is None:
                # Those who came while another tried to connect do not each try, and wait, in turn.
                if self._failed_at > begin:
                    raise StoreError(f"{self._location} cannot be reached")
                try:
                    self._create()
                except psycopg.Error:
                    self._failed_at = time.monotonic()
                    raise
                self._pool = psycopg_pool.ConnectionPool(
                    self._url,
                    connection_class=PatientConnection,
                    kwargs=self._reader_settings,
                    min_size=1,
                    max_size=CONNECTIONS,
                    configure=register_vector,
                    check=psycopg_pool.ConnectionPool.check_connection,
                    timeout=PATIENCE,
                    reconnect_timeout=PATIENCE,  # else attempts become rare, and the first ones afterwards fail
                    open=True,
                )
            return self._pool
        finally:
            self._opening.release()

    def _open(self) -> _Connection:
        """A connection of its own, without limits."""
        self._opened()
        connection = psycopg.connect(self._url, **self._settings)
        register_vector(connection)
        return connection

    def _create(self) -> None:
        with (
            patience(PATIENCE),
            PatientConnection.connect(self._url, **self._reader_settings) as connection,
            connection.transaction(),
        ):
            # Servers that start together would otherwise trip over each other's half-made tables.
            connection.execute("SELECT pg_advisory_xact_lock(%s)", [schema.LOCK + 1])
            if _one(connection.execute("SELECT to_regclass('lucid_knowledge.meta')"))[0] is None:
                for statement in schema.CREATE:
                    connection.execute(statement)
            version = _one(connection.execute("SELECT version FROM meta"))[0]
            if version != schema.VERSION:
                raise StoreError(
                    f"{self._location}: the tables have version {version}, this program knows {schema.VERSION}; "
                    f"DROP SCHEMA {schema.SCHEMA} CASCADE and index again"
                )

    def _build_index(self, connection: _Connection) -> None:
        """Builds the HNSW index when it is due: after a bulk load, not during it, which takes many times as long."""
        n_chunks, recipe = _one(connection.execute("SELECT n_chunks, recipe FROM meta"))
        if recipe is None or n_chunks < INDEX_FROM or recipe["dimensions"] > _HALF_DIMENSIONS:
            return
        if _one(connection.execute("SELECT to_regclass('chunk_vector') IS NOT NULL"))[0]:
            return
        kind = _vector_type(recipe["dimensions"])
        create = sql.SQL(schema.CREATE_HNSW).format(
            sql.SQL(kind), sql.SQL(kind.partition("(")[0]), self._hnsw.m, self._hnsw.ef_construction
        )
        try:
            _build(connection, create, {"maintenance_work_mem": BUILD_MEMORY})
        except (psycopg.errors.DiskFull, psycopg.errors.OutOfMemory) as error:
            # Workers take all of the memory at once, in /dev/shm, which is small in containers; one process does not.
            log.warning("the index of vectors is built by one process, as several cannot share memory: %s", error)
            _build(connection, create, {"maintenance_work_mem": BUILD_MEMORY, "max_parallel_maintenance_workers": "0"})
        connection.execute("ANALYZE chunk")

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turns errors of the database into `StoreError`."""
        try:
            yield
        except psycopg_pool.PoolTimeout as error:
            raise StoreError(f"{self._location} cannot be reached within {PATIENCE:g} s") from error
        except psycopg.OperationalError as error:
            raise StoreError(f"{self._location} cannot be reached: {error}") from error
        except psycopg.Error as error:
            raise StoreError(f"{self._location}: {error}") from error


def _vector_type(dimensions: int) -> Any:
    """The type in which vectors of this length are compared: the one that can be indexed, if there is one."""
    half = _FULL_DIMENSIONS < dimensions <= _HALF_DIMENSIONS
    return f"{'halfvec' if half else 'vector'}({dimensions})"


def _build(connection: _Connection, create: sql.Composed, settings: Mapping[str, str]) -> None:
    with connection.transaction():
        for name, value in settings.items():
            connection.execute("SELECT set_config(%s, %s, true)", [name, value])
        connection.execute(create)


def _forget(connection: _Connection, files: Sequence[str]) -> None:
    """Takes files and all that hangs on them out of every table."""
    rows = connection.execute("SELECT id FROM file WHERE file = ANY(%s)", [list(files)]).fetchall()
    ids = [row[0] for row in rows]
    if ids:
        connection.execute(schema.SUBTRACT_WORDS, [ids])
        connection.execute(schema.SUBTRACT_TOTALS, [ids])
        connection.execute("DELETE FROM file WHERE id = ANY(%s)", [ids])


def _recipe(connection: _Connection) -> Recipe | None:
    recipe = _one(connection.execute("SELECT recipe FROM meta"))[0]
    return None if recipe is None else Recipe(**recipe)


def _hits(cursor: psycopg.Cursor[tuple[Any, ...]]) -> list[Hit]:
    return [Hit(file, Chunk(*chunk), score) for file, *chunk, score in cursor]


def _one(cursor: psycopg.Cursor[tuple[Any, ...]]) -> tuple[Any, ...]:
    row = cursor.fetchone()
    assert row is not None  # the statement always gives a row
    return row
