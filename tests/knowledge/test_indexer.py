"""Indexing real folders: what is embedded again and what is not, failures, kills, searches meanwhile."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from knowledge import readers
from knowledge.chunking import Chunker
from knowledge.embedder import Embedder
from knowledge.indexer import Indexer, IndexReport, StoppedError
from knowledge.readers import Text
from knowledge.settings import KnowledgeSettings, SettingsError
from knowledge.sqlite_store import SqliteStore
from knowledge.store import Document, StoreBusyError, StoreMismatchError

SOME = "Thom Rhubarb printed wooden screws in his shed, and nobody knew where he got the wood from. "


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "data"
    made.mkdir()
    return made


@pytest.fixture
def settings(folder: Path, tmp_path: Path) -> KnowledgeSettings:
    return KnowledgeSettings(folder, url=str(tmp_path / "store.sqlite"))


@pytest.fixture
def store(settings: KnowledgeSettings) -> Iterator[SqliteStore]:
    made = SqliteStore(settings.sqlite_path)
    yield made
    made.close()


@pytest.fixture
def indexer(store: SqliteStore, embedder: Embedder, settings: KnowledgeSettings) -> Indexer:
    return Indexer(store, embedder, settings)


def put(path: Path, text: str, age: int = 100) -> None:
    """Writes a file that was last changed `age` seconds ago."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    os.utime(path, ns=(time.time_ns(), time.time_ns() - age * 10**9))


def counts(report: IndexReport) -> tuple[int, int, int, int]:
    return report.added, report.changed, report.deleted, report.unchanged


def test_only_what_changed_is_embedded(indexer: Indexer, store: SqliteStore, folder: Path) -> None:
    for name in "abc":
        put(folder / "sub" / f"{name}.txt", f"{name} {SOME}")
    report = indexer.run()
    assert (counts(report), report.n_chunks) == ((3, 0, 0, 0), 3)
    report = indexer.run()
    assert (counts(report), report.n_chunks) == ((0, 0, 0, 3), 0)

    put(folder / "sub" / "a.txt", f"other {SOME}", age=50)
    put(folder / "sub" / "b.txt", f"b {SOME}", age=50)  # the same content at another time
    (folder / "sub" / "c.txt").unlink()
    put(folder / "d.txt", "")
    report = indexer.run()
    assert (counts(report), report.n_chunks) == ((1, 1, 1, 1), 1)
    assert {name: record.n_chunks for name, record in store.files().items()} == {
        "sub/a.txt": 1,
        "sub/b.txt": 1,
        "d.txt": 0,
    }
    assert [hit.file for hit in store.lexical("other", 5)] == ["sub/a.txt"]
    assert counts(indexer.run()) == (0, 0, 0, 3)


def test_a_change_that_keeps_size_and_time_right_after_indexing_is_seen(indexer: Indexer, folder: Path) -> None:
    put(folder / "a.txt", "first", age=0)
    indexer.run()
    times = (folder / "a.txt").stat()
    (folder / "a.txt").write_text("other")
    os.utime(folder / "a.txt", ns=(times.st_atime_ns, times.st_mtime_ns))
    assert counts(indexer.run()) == (0, 1, 0, 0)


def test_long_files_are_whole(
    store: SqliteStore, embedder: Embedder, settings: KnowledgeSettings, folder: Path
) -> None:
    indexer = Indexer(store, embedder, replace(settings, document_weight=0.0))
    text = "".join(f"Sentence {i}: {SOME}" + "\n" * (i % 3) for i in range(60))
    put(folder / "long.txt", text)
    report = indexer.run()
    chunks = store.chunks("long.txt", 0, 1000)
    assert len(chunks) == report.n_chunks == store.files()["long.txt"].n_chunks > 5
    end = 0
    for number, chunk in enumerate(chunks):
        assert chunk.index == number
        assert chunk.text == text[chunk.start : chunk.end]
        assert chunk.start <= end, "a gap between chunks"
        assert chunk.n_tokens == len(embedder.vocab.tokenize(chunk.text)) <= 200
        end = chunk.end
    assert end == len(text)
    assert any(second.start < first.end for first, second in pairwise(chunks)), "no overlap"
    vector = embedder.embed([embedder.tokenize(chunks[3].text)])[0]
    best = store.dense(vector, 1, embedder.fingerprint)[0]
    assert (best.file, best.chunk) == ("long.txt", chunks[3])
    assert best.score == pytest.approx(1, abs=1e-3)


def test_skipped_files_are_named_once_read_and_shown_again(
    indexer: Indexer, store: SqliteStore, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put(folder / "good.txt", SOME)
    (folder / "junk.bin").write_bytes(bytes(range(256)) * 100)
    (folder / "out.txt").symlink_to("/etc/passwd")
    report = indexer.run()
    assert dict(report.skipped) == {"junk.bin": "it is binary", "out.txt": "the link leads out of the folder"}
    assert "skipped junk.bin: it is binary" in caplog.text
    assert store.stats().n_skipped == 1
    assert dict(indexer.run().skipped) == dict(report.skipped)
    assert len(caplog.records) == 2, "it was said again"
    (folder / "out.txt").unlink()
    indexer.run()
    (folder / "out.txt").symlink_to("/etc/passwd")
    indexer.run()
    assert len(caplog.records) == 3


def test_what_a_parser_gave_up_on_is_not_tried_at_every_run(
    indexer: Indexer, folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = "tests.knowledge.odd_readers"
    monkeypatch.setitem(readers._PARSERS, ".odd", (module, "read_with_what_is_missing"))
    monkeypatch.setattr(readers, "_SANDBOXED", readers._SANDBOXED | {module})
    trace = tmp_path / "trace"
    put(folder / "a.odd", f"{trace}\nfirst", age=100)
    for age in (100, 100, 50, 0, 0):  # known by its time, then by its content
        put(folder / "a.odd", f"{trace}\nfirst", age)
        ((name, reason),) = indexer.run().skipped
        assert (name, trace.read_text()) == ("a.odd", "x")
        assert "needs the package nothing_like_it" in reason
    assert len(caplog.records) == 1
    put(folder / "a.odd", f"{trace}\nsecond", age=20)
    indexer.run()
    assert trace.read_text() == "xx"


def test_files_over_the_limit(
    store: SqliteStore, embedder: Embedder, settings: KnowledgeSettings, folder: Path
) -> None:
    put(folder / "huge.txt", SOME * 100)
    limited = Indexer(store, embedder, replace(settings, file_bytes=1000))
    for expected in ((1, 0, 0, 0), (0, 0, 0, 1)):
        report = limited.run()
        assert counts(report) == expected
        ((name, reason),) = report.skipped
        assert name == "huge.txt"
        assert "the limit is 1000 (KNOWLEDGE_FILE_BYTES)" in reason
    report = Indexer(store, embedder, settings).run()
    assert (report.skipped, report.changed) == ([], 1), "a raised limit is noticed"
    assert store.files()["huge.txt"].n_chunks > 1
    assert Indexer(store, embedder, replace(settings, file_bytes=1000)).run().unchanged == 1, "it is there already"


@pytest.fixture
def as_nobody() -> Iterator[Path]:
    """A folder that a user without rights may write; the test runs as that user, since root can read everything."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o777)
        user = os.geteuid()
        if user == 0:
            os.seteuid(65534)
        yield Path(name)
        os.seteuid(user)


def test_what_became_unreadable_stays_as_it_was_known(as_nobody: Path, embedder: Embedder) -> None:
    folder = as_nobody / "data"
    put(folder / "sub" / "a.txt", SOME)
    put(folder / "b.txt", SOME)
    store = SqliteStore(as_nobody / "store.sqlite")
    indexer = Indexer(store, embedder, KnowledgeSettings(folder))
    indexer.run()
    (folder / "sub").chmod(0)
    put(folder / "b.txt", "changed", age=10)
    (folder / "b.txt").chmod(0)
    report = indexer.run()
    assert dict(report.skipped) == {
        "sub/": "the folder cannot be listed: Permission denied",
        "b.txt": "it cannot be read: Permission denied",
    }
    assert set(store.files()) == {"sub/a.txt", "b.txt"}
    (folder / "sub").chmod(0o444)  # can be listed, and nothing in it can be looked at
    (folder / "link.txt").symlink_to("sub/a.txt")
    report = indexer.run()
    assert dict(report.skipped)["sub/a.txt"] == "it cannot be looked at: Permission denied"
    assert dict(report.skipped)["link.txt"] == "it cannot be looked at: Permission denied"
    assert set(store.files()) == {"sub/a.txt", "b.txt"}
    (folder / "link.txt").unlink()
    (folder / "sub").chmod(0o700)
    (folder / "b.txt").chmod(0o600)
    assert counts(indexer.run()) == (0, 1, 0, 1)
    store.close()


def test_a_missing_folder_does_not_empty_the_store(indexer: Indexer, store: SqliteStore, folder: Path) -> None:
    put(folder / "a.txt", SOME)
    indexer.run()
    folder.rename(folder.with_name("away"))
    with pytest.raises(FileNotFoundError):
        indexer.run()
    assert set(store.files()) == {"a.txt"}


def test_another_model_or_chunking_indexes_anew(
    store: SqliteStore, embedder: Embedder, settings: KnowledgeSettings, folder: Path
) -> None:
    put(folder / "a.txt", SOME * 8)
    settings = replace(settings, document_weight=0.0)
    assert not Indexer(store, embedder, settings).run().rebuilt
    smaller = Indexer(store, embedder, replace(settings, chunk_tokens=64, chunk_overlap=0)).run()
    assert (smaller.rebuilt, smaller.added) == (True, 1)
    assert max(chunk.n_tokens for chunk in store.chunks("a.txt", 0, 99)) <= 64
    with Embedder(embedder.path, document_prefix="passage: ") as prefixed:
        report = Indexer(store, prefixed, replace(settings, chunk_tokens=64, chunk_overlap=0)).run()
        assert (report.rebuilt, report.added) == (True, 1)
        recipe = store.recipe()
        assert recipe is not None
        assert recipe.document_prefix == "passage: "
        best = store.dense(
            prefixed.embed([prefixed.tokenize("passage: " + store.chunks("a.txt", 0, 0)[0].text)])[0],
            1,
            recipe.fingerprint,
        )
        assert best[0].score == pytest.approx(1, abs=1e-3)


def test_a_rebuild_for_another_model_that_is_cut_short(
    store: SqliteStore, embedder: Embedder, settings: KnowledgeSettings, folder: Path, tmp_path: Path
) -> None:
    class Dying(SqliteStore):
        def replace(self, documents: Sequence[Document]) -> None:
            if self.files():
                raise KeyboardInterrupt
            super().replace(documents)

    for number in range(600):  # more than a group
        put(folder / f"{number}.txt", "" if number else SOME)
    Indexer(store, embedder, settings).run()
    other_path = tmp_path / "other.gguf"
    shutil.copyfile(embedder.path, other_path)
    with other_path.open("r+b") as file:  # a bit of a weight
        file.seek(-1000, os.SEEK_END)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))
    dying = Dying(settings.sqlite_path)
    with Embedder(other_path) as other:
        with pytest.raises(KeyboardInterrupt):
            Indexer(dying, other, settings).run()
        dying.close()
        vector = other.embed_query("Who printed wooden screws?")
        assert [hit.file for hit in store.dense(vector, 5, other.fingerprint)] == ["0.txt"], "what is done is found"
        with pytest.raises(StoreMismatchError):
            store.dense(vector, 5, embedder.fingerprint)
        left = 600 - len(store.files())
        report = Indexer(store, other, settings).run()
        assert (report.rebuilt, counts(report)) == (False, (left, 0, 0, 600 - left))
        assert 0 < left < 600


def test_chunks_that_do_not_fit_the_model(store: SqliteStore, embedder: Embedder, settings: KnowledgeSettings) -> None:
    with pytest.raises(SettingsError, match="KNOWLEDGE_CHUNK_TOKENS=600 is not valid; allowed: up to 504"):
        Indexer(store, embedder, replace(settings, chunk_tokens=600))


def test_ten_thousand_small_files(indexer: Indexer, store: SqliteStore, folder: Path) -> None:
    """The walk and the records of as many files; a hundred of them have content to embed."""
    for number in range(10_000):
        put(folder / f"{number % 50}" / f"{number}.txt", f"{number}" if number % 100 == 0 else "")
    report = indexer.run()
    assert (counts(report), report.n_chunks) == ((10_000, 0, 0, 0), 100)
    assert [hit.file for hit in store.lexical("7700", 2)] == ["0/7700.txt"]
    again = indexer.run()
    assert (counts(again), again.n_chunks) == ((0, 0, 0, 10_000), 0)
    assert again.seconds < report.seconds


def test_one_indexer_at_a_time_and_stopping(
    store: SqliteStore, embedder: Embedder, settings: KnowledgeSettings, folder: Path
) -> None:
    put(folder / "a.txt", SOME)
    with store.writing(), pytest.raises(StoreBusyError):
        Indexer(store, embedder, settings).run()
    stop = threading.Event()
    stop.set()
    with pytest.raises(StoppedError):
        Indexer(store, embedder, settings, stop).run()
    assert counts(Indexer(store, embedder, settings).run()) == (1, 0, 0, 0)


def test_cutting_a_long_text_can_be_broken_off(embedder: Embedder) -> None:
    calls = 0

    def check() -> None:
        nonlocal calls
        calls += 1
        if calls == 10:
            raise StoppedError

    with pytest.raises(StoppedError):
        Chunker(embedder.vocab, 64, 0, embedder.max_tokens, check=check).split(Text(SOME * 1000))
    assert calls == 10


def test_searches_go_on_while_a_folder_is_indexed(
    indexer: Indexer, store: SqliteStore, embedder: Embedder, folder: Path
) -> None:
    put(folder / "first.txt", "The capital of the Moon is Cheddar.")
    indexer.run()
    for number in range(60):
        put(folder / f"{number}.txt", f"{number} " + SOME * 8)
    thread = threading.Thread(target=indexer.run)
    thread.start()
    searches = 0
    while thread.is_alive():
        vector = embedder.embed_query("What is the capital of the Moon?")
        assert store.dense(vector, 1, embedder.fingerprint)[0].file == "first.txt"
        assert store.lexical("capital moon", 1)[0].file == "first.txt"
        searches += 1
    thread.join()
    assert searches > 3
    assert len(store.files()) == 61


def test_a_killed_indexer_leaves_a_store_that_the_next_one_completes(
    embedder: Embedder, settings: KnowledgeSettings, folder: Path, root: Path
) -> None:
    for number in range(300):
        put(folder / f"{number}.txt", f"{number} {SOME}")
    command = [sys.executable, "-m", "knowledge", "index", "--data", str(folder), "--store", settings.url, "--quiet"]
    environment = dict(os.environ) | {"EMBEDDING_MODEL": str(embedder.path)}
    seen = []
    for moment in range(3):
        process = subprocess.Popen(command, cwd=root, env=environment, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and process.poll() is None:  # each time a bit further
            store = SqliteStore(settings.sqlite_path)
            n_files = len(store.files())
            store.close()
            if n_files > (seen[-1] if seen else 0) or (moment == 0 and n_files):
                break
            time.sleep(0.05)
        time.sleep(0.1 * moment)
        process.send_signal(signal.SIGKILL)
        process.wait()
        store = SqliteStore(settings.sqlite_path)
        files = store.files()
        for name, record in files.items():
            chunks = store.chunks(name, 0, 999)
            assert len(chunks) == record.n_chunks > 0
            assert chunks[-1].end == (folder / name).stat().st_size
        assert store.stats().n_chunks == sum(record.n_chunks for record in files.values())
        seen.append(len(files))
        store.close()
    assert seen == sorted(seen)
    assert seen[0] > 0
    store = SqliteStore(settings.sqlite_path)
    report = Indexer(store, embedder, settings).run()
    assert (report.added, report.unchanged) == (300 - seen[-1], seen[-1])
    vector = embedder.embed([embedder.tokenize(store.chunks("7.txt", 0, 0)[0].text)])[0]
    assert store.dense(vector, 1, embedder.fingerprint)[0].file == "7.txt"
    assert np.isfinite(vector).all()
    store.close()
