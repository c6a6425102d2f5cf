"""The knowledge base as the server uses it: searching, indexing in the background, following changes."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from knowledge import readers
from knowledge.embedder import Embedder
from knowledge.knowledge import Knowledge
from knowledge.settings import KnowledgeSettings, SettingsError, from_environment
from knowledge.store import Store, StoreBusyError, StoreError
from llama_native import FileType, build_info, quantize


@pytest.fixture
def settings(tmp_path: Path) -> KnowledgeSettings:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "rhubarb.txt").write_text("Thom Rhubarb built a printer that made wooden screws.")
    return KnowledgeSettings(tmp_path / "data", url=str(tmp_path / "store.sqlite"))


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def test_search(settings: KnowledgeSettings, embedder: Embedder) -> None:
    with Knowledge(settings, embedder) as knowledge:
        assert knowledge.search("Who was Thom Rhubarb?").hits == ()
        knowledge.index()
        result = knowledge.search("Who was Thom Rhubarb?")
        assert [hit.file for hit in result.hits] == ["rhubarb.txt"]
        assert set(result.timings) == {"embed", "search"}
        assert all(seconds > 0 for seconds in result.timings.values())
        assert knowledge.search("Thom Rhubarb", threshold=0.999).hits == ()
        assert knowledge.search("Rhubarb", mode="lexical").hits[0].file == "rhubarb.txt"
        stats = knowledge.stats()
        assert (stats.store.n_files, stats.store.n_chunks, stats.dimensions, stats.state) == (1, 1, 384, "idle")


def test_long_documents_give_whole_passages(settings: KnowledgeSettings, embedder: Embedder) -> None:
    text = " ".join(f"Wooden screw number {i} was printed by Thom Rhubarb on a rainy day." for i in range(60))
    (settings.data_path / "long.txt").write_text(text)
    (settings.data_path / "rhubarb.txt").unlink()
    with Knowledge(settings, embedder) as knowledge:
        knowledge.index()
        apart = knowledge.search("wooden screws", top_k=50, merge=False).hits
        (hit,) = knowledge.search("wooden screws", top_k=50).hits
        assert len(apart) > 3
        assert (hit.chunk.text, hit.score) == (text, max(each.score for each in apart))


def test_a_running_server_follows_changes(settings: KnowledgeSettings, embedder: Embedder) -> None:
    data = settings.data_path
    with Knowledge(settings, embedder) as knowledge:

        def files() -> set[str]:
            return set(knowledge.store.files())

        knowledge.start_watching()
        until(lambda: files() == {"rhubarb.txt"})
        (data / "sub").mkdir()
        (data / "sub" / "moon.txt").write_text("The lunar base has its own bakery.")
        until(lambda: files() == {"rhubarb.txt", "sub/moon.txt"})
        assert knowledge.search("bread in space", threshold=-1).hits[0].file == "sub/moon.txt"
        (data / "rhubarb.txt").write_text("Now it is about tea.")
        until(lambda: [hit.file for hit in knowledge.search("tea", mode="lexical").hits] == ["rhubarb.txt"])
        (data / "rhubarb.txt").rename(data / "tea.txt")
        shutil.rmtree(data / "sub")
        until(lambda: files() == {"tea.txt"})
        until(lambda: knowledge.stats().state == "idle")


def test_a_folder_that_goes_away_and_comes_back(
    settings: KnowledgeSettings, embedder: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("knowledge.knowledge._RETRY_SECONDS", 0.1)
    data = settings.data_path
    with Knowledge(settings, embedder) as knowledge:
        knowledge.start_watching()
        until(lambda: len(knowledge.store.files()) == 1)
        data.rename(data.with_name("away"))
        until(lambda: knowledge.stats().state == "failed")
        assert "No such file" in (knowledge.stats().error or "")
        assert len(knowledge.search("Thom Rhubarb").hits) == 1, "what was indexed is still there"
        data.mkdir()
        (data / "other.txt").write_text("Something else.")
        until(lambda: set(knowledge.store.files()) == {"other.txt"})
        until(lambda: knowledge.stats().state == "idle")
        assert knowledge.stats().error is None


def test_a_folder_that_is_a_link_to_another_one_now(
    settings: KnowledgeSettings, embedder: Embedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("knowledge.knowledge._RETRY_SECONDS", 0.1)
    (tmp_path / "second").mkdir()
    (tmp_path / "second" / "bees.txt").write_text("The bees of Marl live in hives of blue clay.")
    link, new = tmp_path / "link", tmp_path / "new"
    link.symlink_to(settings.data_path)
    with Knowledge(replace(settings, data_path=link), embedder) as knowledge:
        knowledge.start_watching()
        until(lambda: knowledge.age() == 0)
        assert set(knowledge.store.files()) == {"rhubarb.txt"}
        new.symlink_to("second")
        new.rename(link)  # as `ln -sfn` and git-sync do: nothing changes in the folder that is watched
        until(lambda: set(knowledge.store.files()) == {"bees.txt"})
        (tmp_path / "second" / "moon.txt").write_text("The lunar base has its own bakery.")
        until(lambda: set(knowledge.store.files()) == {"bees.txt", "moon.txt"})


def test_a_folder_deleted_and_made_again_at_once(
    settings: KnowledgeSettings, embedder: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new one may have the inode number of the old one; the watch is on the old one."""
    monkeypatch.setattr("knowledge.knowledge._RETRY_SECONDS", 0.1)
    folder = settings.data_path
    with Knowledge(settings, embedder) as knowledge:
        knowledge.start_watching()
        until(lambda: knowledge.age() == 0)
        shutil.rmtree(folder)
        folder.mkdir()
        until(lambda: not knowledge.store.files() and knowledge.age() == 0)
        time.sleep(0.5)  # whatever was to be seen of the change has been seen
        (folder / "bees.txt").write_text("The bees of Marl live in hives of blue clay.")
        until(lambda: set(knowledge.store.files()) == {"bees.txt"})


@contextmanager
def held(store: Store) -> Iterator[None]:
    """Hold the store's lock for writing, as soon as nobody else does."""
    with ExitStack() as stack:
        for _ in range(600):
            try:
                stack.enter_context(store.writing())
                break
            except StoreBusyError:
                time.sleep(0.1)
        else:
            pytest.fail("the store stayed busy")
        yield


def test_two_servers_share_one_store(
    settings: KnowledgeSettings, embedder: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("knowledge.knowledge._RETRY_SECONDS", 0.1)
    with Knowledge(settings, embedder) as one, Knowledge(settings, embedder) as two:
        one.start_watching()
        two.start_watching()
        for number in range(5):
            (settings.data_path / f"{number}.txt").write_text(f"Number {number}.")
            until(lambda: len(one.store.files()) == number + 2)  # noqa: B023
            assert two.search(f"number {number}", mode="lexical").hits[0].file == f"{number}.txt"
        with held(one.store):
            (settings.data_path / "last.txt").write_text("The last one.")
            until(lambda: two.stats().state == "waiting")
            assert (two.age() or 0) > 0
        until(lambda: "last.txt" in two.store.files())
        until(lambda: one.age() == two.age() == 0)


def test_the_age_while_the_folder_is_away(
    settings: KnowledgeSettings, embedder: Embedder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("knowledge.knowledge._RETRY_SECONDS", 0.1)
    with Knowledge(settings, embedder) as knowledge:
        assert knowledge.age() is None
        knowledge.start_watching()
        until(lambda: knowledge.age() == 0)
        away = settings.data_path.rename(settings.data_path.with_name("away"))
        until(lambda: (knowledge.age() or 0) > 0.5)
        away.rename(settings.data_path)
        until(lambda: knowledge.age() == 0)


def test_without_watching_it_indexes_once(settings: KnowledgeSettings, embedder: Embedder, tmp_path: Path) -> None:
    once = KnowledgeSettings(settings.data_path, url=settings.url, watch=False)
    with Knowledge(once, embedder) as knowledge:
        knowledge.start_watching()
        assert knowledge._thread is not None
        knowledge._thread.join(60)
        assert not knowledge._thread.is_alive()
        assert len(knowledge.store.files()) == 1
        assert (knowledge.age() or 0) > 0, "nobody looks whether it is still current"
    assert tmp_path.exists()


def test_closing_stops_a_long_run(settings: KnowledgeSettings, embedder: Embedder) -> None:
    for number in range(300):
        (settings.data_path / f"{number}.txt").write_text(f"{number} " + "wooden screws and other things " * 60)
    knowledge = Knowledge(settings, embedder)
    knowledge.start_watching()
    until(lambda: (knowledge.stats().progress or 0) > 0)
    knowledge.close()
    knowledge.close()
    with Knowledge(settings, embedder) as again:
        assert 0 <= len(again.store.files()) < 301


def test_closing_breaks_off_a_parser(
    settings: KnowledgeSettings, embedder: Embedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = "tests.knowledge.odd_readers"
    monkeypatch.setitem(readers._PARSERS, ".slow", (reader, "read_slowly"))
    monkeypatch.setattr(readers, "_SANDBOXED", readers._SANDBOXED | {reader})
    begun = tmp_path / "begun"
    (settings.data_path / "a.slow").write_text(str(begun))
    knowledge = Knowledge(settings, embedder)
    knowledge.start_watching()
    until(begun.exists)
    indexer = knowledge._thread
    assert indexer is not None
    knowledge.close()
    indexer.join(30)
    assert not indexer.is_alive()


@pytest.mark.skipif(not build_info()["kernels"], reason="this processor lacks AVX2, FMA or F16C")
def test_the_embedding_model_uses_our_kernels_unless_told_otherwise(
    tmp_path: Path, embedding_model_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """llama.cpp's log names the buffers that weights are in."""
    path = tmp_path / "q4_1.gguf"
    quantize(embedding_model_path, path, FileType.Q4_1)
    packed = []
    for kernels in (True, False):
        caplog.clear()
        settings = KnowledgeSettings(tmp_path, path, str(tmp_path / "store.sqlite"), kernels=kernels)
        with caplog.at_level(logging.DEBUG, "llama_native"), Knowledge(settings):
            packed.append("LUCID_PACKED model buffer" in caplog.text)
    assert packed == [True, False]


def test_stores_and_settings(tmp_path: Path, embedder: Embedder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    one, two = (KnowledgeSettings(tmp_path / name / "docs").sqlite_path for name in "ab")
    assert one != two
    assert one.parent == two.parent == tmp_path / "lucid-llm" / "knowledge"
    assert KnowledgeSettings(url="sqlite:///var/x.sqlite").sqlite_path == Path("/var/x.sqlite")
    (tmp_path / "junk").write_text("junk" * 1000)
    with Knowledge(KnowledgeSettings(tmp_path, url=str(tmp_path / "junk")), embedder) as junk:
        for use in (junk.index, junk.stats, lambda: junk.search("x", mode="lexical")):
            with pytest.raises(StoreError, match="not a database"):
                use()


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("KNOWLEDGE_CHUNK_TOKENS", "ten", "a whole number"),
        ("KNOWLEDGE_CHUNK_TOKENS", "5", "at least 16"),
        ("KNOWLEDGE_CHUNK_OVERLAP", "150", "0 to 100"),
        ("KNOWLEDGE_MODE", "fuzzy", "dense, lexical, hybrid"),
        ("KNOWLEDGE_THRESHOLD", "2", "from -1 to 1"),
        ("KNOWLEDGE_TOP_K", "0", "at least 1"),
        ("MODEL_KERNELS", "0", "on, off"),
    ],
)
def test_settings_that_are_not_valid(name: str, value: str, allowed: str) -> None:
    with pytest.raises(SettingsError, match=f"{name}='?{value}'? is not valid; allowed: .*{allowed}"):
        from_environment({name: value})


@pytest.mark.parametrize(
    "url", ["mysql://me:secret@host/db", "postgressql://host/db", "http://host", "postgresql:/me:secret@host/db"]
)
def test_stores_of_a_kind_that_is_not_known(url: str) -> None:
    with pytest.raises(SettingsError, match=f"KNOWLEDGE_URL={url.partition(':')[0]}://... is not valid") as refused:
        from_environment({"KNOWLEDGE_URL": url})
    assert "secret" not in str(refused.value)


def test_settings_from_the_environment() -> None:
    assert from_environment({}) == from_environment({"KNOWLEDGE_QUERY_PREFIX": ""}) == KnowledgeSettings()
    assert from_environment({"KNOWLEDGE_MODE": "off"}) == KnowledgeSettings(), "off is the server's"
    given = {
        "DATA_PATH": "/d",
        "KNOWLEDGE_MODE": "Dense",
        "KNOWLEDGE_THRESHOLD": "0.5",
        "KNOWLEDGE_QUERY_PREFIX": "none",
        "MODEL_KERNELS": "Off",
    }
    expected = KnowledgeSettings(Path("/d"), mode="dense", threshold=0.5, query_prefix="", kernels=False)
    assert from_environment(given) == expected
