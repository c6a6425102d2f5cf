"""The PostgreSQL store while the database is paused, locked or away, and with indexers that disagree."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from knowledge import indexer, knowledge, postgres
from knowledge.embedder import Embedder
from knowledge.indexer import Indexer
from knowledge.knowledge import Knowledge
from knowledge.postgres import PostgresStore
from knowledge.postgres_connections import connection_settings
from knowledge.settings import KnowledgeSettings
from knowledge.store import StoreError, StoreStats, StoreTakenError
from server.knowledge_metrics import KnowledgeMetrics
from tests.knowledge.stores import document, vectors, write


def until(condition: Callable[[], bool]) -> None:
    """Wait for what comes a moment later."""
    for _ in range(1200):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("it did not happen")


def outcomes(*calls: Callable[[], object]) -> list[object]:
    """What the calls, all at once, return or raise; "hangs" for those that do neither long after their limit."""
    found: list[object] = ["hangs"] * len(calls)

    def run(at: int) -> None:
        try:
            found[at] = calls[at]()
        except StoreError as error:
            found[at] = error

    threads = [threading.Thread(target=run, args=(at,), daemon=True) for at in range(len(calls))]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 30
    for thread in threads:
        thread.join(max(0, deadline - time.monotonic()))
    return list(found)


def enter_writing(store: PostgresStore) -> None:
    """What an indexer does first."""
    with store.writing():
        pass


@contextmanager
def paused(server: Any) -> Iterator[None]:
    """Stop every process of the database within the block: connections stay, and nothing answers."""
    postmaster = server.get_postmaster_info().process
    processes = [postmaster, *postmaster.children(recursive=True)]
    for process in processes:
        process.suspend()
    try:
        yield
    finally:
        for process in processes:
            process.resume()


def test_a_paused_database_is_away_until_it_goes_on(
    store: PostgresStore, server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "PATIENCE", 2.0)
    write(store, document("a.txt", ["kept"]))
    warm, cold = PostgresStore(server.get_uri()), PostgresStore(server.get_uri())
    assert warm.lexical("kept", 1)
    with paused(server):
        found = outcomes(
            lambda: warm.lexical("kept", 1),
            lambda: warm.dense(vectors(1)[0], 1, "fingerprint"),
            warm.stats,
            lambda: enter_writing(warm),
            lambda: cold.lexical("kept", 1),
            cold.stats,
        )
    for outcome in found:
        assert isinstance(outcome, StoreError) and "cannot be reached" in str(outcome)
    for back in (warm, cold, store):
        assert [hit.chunk.text for hit in back.lexical("kept", 1)] == ["kept"]
        back.close()


def test_a_paused_database_holds_no_scrape(store: PostgresStore, server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "PATIENCE", 4.0)
    write(store, document("a.txt", ["kept"]))
    asked: list[str] = []

    def ask() -> StoreStats:
        asked.append("asked")
        try:
            return store.stats()
        finally:
            asked.append("answered")

    metrics = KnowledgeMetrics(ask, lambda: 5.0, "x")

    def scrape() -> dict[str, float]:
        return {family.name: family.samples[0].value for family in metrics.collect()}

    until(lambda: scrape().get("lucid_knowledge_files") == 1)
    until(lambda: asked[-1] == "answered")
    with paused(server):
        until(lambda: scrape() != {} and asked[-1] == "asked")
        scrapes = [scrape() for _ in range(100)]
        assert asked[-1] == "asked", "the store still hangs after a hundred scrapes"
        assert all(one["lucid_knowledge_chunks"] == 1 and one["lucid_knowledge_age_seconds"] == 5 for one in scrapes)
        until(lambda: scrape() == {})
    until(lambda: scrape().get("lucid_knowledge_files") == 1)


def test_a_search_that_waits_in_the_database_is_given_up_on_both_sides(
    store: PostgresStore, server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "PATIENCE", 2.0)
    write(store, document("a.txt", ["kept"]))
    reader = PostgresStore(server.get_uri())
    assert reader.lexical("kept", 1)
    with psycopg.connect(server.get_uri()) as other, psycopg.connect(server.get_uri(), autocommit=True) as observer:
        other.execute("LOCK TABLE lucid_knowledge.chunk")
        (outcome,) = outcomes(lambda: reader.lexical("kept", 1))
        assert isinstance(outcome, StoreError) and "cannot be reached" in str(outcome)
        waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
        until(lambda: observer.execute(waiting).fetchone() == (0,))
    assert reader.lexical("kept", 1)
    reader.close()


def test_the_database_notices_a_client_whose_host_is_gone(server: Any) -> None:
    # On a Unix socket these settings have no effect; what they would be shows that they were given.
    query = "SELECT name, reset_val FROM pg_settings WHERE name LIKE 'tcp_%' AND source = 'client'"
    with psycopg.connect(server.get_uri(), **connection_settings(3, {})) as connection:
        given = {name: int(value) for name, value in connection.execute(query)}
    assert given["tcp_keepalives_idle"] + given["tcp_keepalives_interval"] * given["tcp_keepalives_count"] < 15
    assert given["tcp_user_timeout"] < 15_000


def test_indexing_goes_on_after_an_outage_and_loses_nothing(
    server: Any,
    embedder: Embedder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(knowledge, "_RETRY_SECONDS", 0.2)
    monkeypatch.setattr(indexer, "_GROUP_TOKENS", 100)  # a transaction for every few files
    expected = {f"{number:03}.txt" for number in range(150)}
    for name in expected:
        (tmp_path / name).write_text(f"This is the document {name}, and nobody else has the word w{name[:3]}x.")
    settings = KnowledgeSettings(tmp_path, url=server.get_uri())
    with Knowledge(settings, embedder) as followed:
        followed.start_watching()
        until(lambda: followed.stats().store.n_files > 0)
        server.stop()
        (tmp_path / "000.txt").unlink()
        (tmp_path / "001.txt").write_text("Quite another text about zebras.")
        (tmp_path / "late.txt").write_text("This came while the database was away.")
        until(lambda: "failed" in caplog.text)
        server.ensure_postgres_running()
        expected = expected - {"000.txt"} | {"late.txt"}
        until(lambda: followed.stats().state == "idle" and set(followed.store.files()) == expected)
        assert followed.stats().store.n_chunks == len(expected)
        for query, file in (
            ("zebras", "001.txt"),
            ("came while", "late.txt"),
            ("w149x", "149.txt"),
            ("w002x", "002.txt"),
        ):
            assert followed.search(query, mode="lexical", top_k=1).hits[0].file == file
        assert followed.search("w001x", mode="lexical").hits == ()


def test_indexers_that_disagree_do_not_undo_each_others_work(
    store: PostgresStore, embedder: Embedder, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_text("A text of some words. " * 30)

    def made(chunk_tokens: int) -> Indexer:
        return Indexer(store, embedder, KnowledgeSettings(tmp_path, chunk_tokens=chunk_tokens, chunk_overlap=0))

    first, second = made(100), made(50)
    first.run()
    assert second.run().rebuilt  # started later
    with pytest.raises(StoreTakenError, match=r"chunk_tokens 50, here 100.* same settings"):
        first.run()
    assert second.run().unchanged == 1
    third = made(100)  # the first one, started again
    assert third.run().rebuilt and first.run().unchanged == 1
    with pytest.raises(StoreTakenError):
        second.run()
