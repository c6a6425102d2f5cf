"""Documents in the server: answers from them, citations, and the routes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import Visit
from documents import QUESTION, indexed, stays_text, variables, write_documents
from playwright.sync_api import Browser
from server_process import ROOT, ServerProcess, eventually

from knowledge.store import Chunk, Hit
from server import config, grounding

#: Each of them would run something, or hide something, if the page took it for more than text.
MARKUP = (
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(2)>",
    '<a href="javascript:alert(3)">more</a>',
    "</blockquote></li></ol></details></div><svg onload=alert(4)>",
    "\u202enem fo eman eht\u202c \u2066hidden",
)
MARKUP_FILE = "notes/<img src=x onerror=alert(5)> \u202egpj.md"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = write_documents(tmp_path_factory.mktemp("knowledge"))
    (made / "data" / MARKUP_FILE).write_text("".join(f"The Harrow bell says: {markup}.\n\n" for markup in MARKUP))
    return made


@pytest.fixture(scope="module")
def grounded(folder: Path) -> Iterator[ServerProcess]:
    """A server that has read the sample documents and one that wants to be more than text."""
    with ServerProcess(folder / "log", **variables(folder)) as process:
        process.wait_ready()
        eventually(lambda: indexed(process), "the documents are indexed")
        yield process


def test_citations(grounded: ServerProcess) -> None:
    answer = grounded.chat(QUESTION, max_tokens=4)
    assert answer.status == 200
    citations = answer.json["citations"]
    assert citations[0]["file"] in ("thom-rhubarb.txt", "the-life-of-thom-rhubarb.txt")
    for citation in citations:
        assert set(citation) == {"file", "chunk", "score", "text"}
        whole = (ROOT / "data" / citation["file"]).read_text()
        assert citation["text"] in whole and citation["text"]
    scores = [citation["score"] for citation in citations]
    assert scores == sorted(scores, reverse=True)
    phases = answer.json["timings"]["phases"]
    assert phases["embed"] > 0 and phases["search"] > 0


def test_a_stream_carries_the_citations_in_its_last_chunk(grounded: ServerProcess) -> None:
    whole = grounded.chat(QUESTION, max_tokens=4).json
    events = grounded.chat(QUESTION, max_tokens=4, stream=True).events
    assert [event["citations"] for event in events[:-1] if "citations" in event] == [whole["citations"]]
    assert events[-2]["citations"] == whole["citations"]
    with_usage = grounded.chat(QUESTION, max_tokens=4, stream=True, stream_options={"include_usage": True}).events
    assert with_usage[-2]["citations"] == whole["citations"] and with_usage[-2]["choices"] == []


def test_off_for_a_request(grounded: ServerProcess) -> None:
    with_documents, without = (
        grounded.chat(QUESTION, max_tokens=4),
        grounded.chat(QUESTION, max_tokens=4, knowledge=False),
    )
    assert "citations" not in without.json and "search" not in without.json["timings"]["phases"]
    assert without.json["usage"]["prompt_tokens"] < with_documents.json["usage"]["prompt_tokens"]


def test_options_of_a_request(grounded: ServerProcess) -> None:
    (one,) = grounded.chat(QUESTION, max_tokens=4, knowledge={"top_k": 1}).json["citations"]
    best = grounded.chat(QUESTION, max_tokens=4, knowledge=True).json["citations"][0]
    assert best["file"] == one["file"] and one["text"] in best["text"]  # neighbours are joined
    none = grounded.chat(QUESTION, max_tokens=4, knowledge={"threshold": 1.0, "mode": "dense"}).json
    plain = grounded.chat(QUESTION, max_tokens=4, knowledge=False).json
    assert none["citations"] == []
    assert none["choices"] == plain["choices"] and none["usage"] == plain["usage"]
    for mode in ("dense", "lexical", "hybrid"):
        assert grounded.chat(QUESTION, max_tokens=4, knowledge={"mode": mode}).json["citations"]


@pytest.mark.parametrize(
    ("knowledge", "param"),
    [
        ({"top_k": 0}, "knowledge.top_k"),
        ({"mode": "psychic"}, "knowledge.mode"),
        ({"threshold": 7}, "knowledge.threshold"),
        ({"tok_k": 3}, "knowledge"),
        ("yes", "knowledge"),
    ],
)
def test_options_that_cannot_be(grounded: ServerProcess, knowledge: object, param: str) -> None:
    answer = grounded.chat(QUESTION, max_tokens=4, knowledge=knowledge)
    assert answer.status == 400 and answer.error["param"] == param


def test_the_last_user_message_is_searched_for(grounded: ServerProcess) -> None:
    turns = [
        {"role": "user", "content": QUESTION},
        {"role": "assistant", "content": "An inventor."},
        {"role": "user", "content": "What does a ticket for the museum on Candle Lane cost?"},
    ]
    answer = grounded.chat(turns, max_tokens=4)
    assert answer.json["citations"][0]["file"] == "candle-lane-museum.txt"
    nobody = grounded.chat([{"role": "system", "content": "Speak."}], max_tokens=4)
    assert nobody.status == 200 and "citations" not in nobody.json
    asked = grounded.chat([{"role": "system", "content": "Speak."}], max_tokens=4, knowledge=True)
    assert asked.status == 400 and asked.error["param"] == "knowledge"


def test_questions_about_the_same_passages_share_their_prefix(grounded: ServerProcess) -> None:
    options: dict[str, Any] = {"max_tokens": 4, "cache_prompt": True, "knowledge": {"top_k": 2, "mode": "dense"}}
    first = grounded.chat("What is the screw-printer?", **options).json
    for question in ("How heavy is the screw-printer?", "Was the screw-printer fast?", "Describe the screw-printer."):
        second = grounded.chat(question, **options).json
        if {c["text"] for c in second["citations"]} == {c["text"] for c in first["citations"]}:
            details = second["usage"]["prompt_tokens_details"]
            assert details["cached_tokens"] > 0.7 * second["usage"]["prompt_tokens"]
            return
    pytest.fail("no question found the same passages as the first")


def test_text_of_documents_stays_text(grounded: ServerProcess) -> None:
    question = "What is the sign of the Pelham gate?"
    answer = grounded.chat(question, max_tokens=1).json
    citations = answer["citations"]
    assert citations[0]["file"] == "notes/gate.md"
    hits = [Hit(one["file"], Chunk(one["chunk"], 0, 0, 0, one["text"]), one["score"]) for one in citations]
    passages = grounding.grounds(question, hits)
    text = config.read({}).knowledge_prompt.replace("{query}", question)
    text = text.replace("{context}", passages.context).replace("{sentence}", passages.sentence)
    messages = [{"role": "user", "content": text}]
    before, after = grounded.post("/apply-template", {"messages": messages}).json["prompt"].split(text)
    stays_text(grounded, before, text, after, answer["usage"]["prompt_tokens"])


def test_markup_of_documents_is_text_on_the_page(browser: Browser, grounded: ServerProcess) -> None:
    question = "What does the Harrow bell say?"
    context = browser.new_context()
    visit = Visit(context, grounded)
    visit.set(max_tokens="4", passages="4")
    turn = visit.answer(question)
    turn.locator(".passages summary").click()
    shown = zip(
        *(turn.locator(f".passages {part}").all_text_contents() for part in ("cite", "blockquote", ".score")),
        strict=True,
    )
    citations = grounded.chat(question, max_tokens=4, knowledge={"top_k": 4}).json["citations"]
    assert list(shown) == [(one["file"], one["text"], f"{one['score']:.3f}") for one in citations]
    assert citations[0]["file"] == MARKUP_FILE
    said = "".join(citation["text"] for citation in citations)
    assert all(markup in said for markup in MARKUP)
    assert turn.locator(":is(script, img, a, iframe, [onload], [onerror])").count() == 0
    rows = turn.locator(".chart tr").evaluate_all("rows => rows.map(r => [r.cells[0].textContent, +r.dataset.seconds])")
    phases = dict(rows)
    assert phases["embed"] > 0 and phases["search"] > 0
    assert visit.wrong == [], "no dialog, no request elsewhere, nothing that the policy had to stop"
    # The policy is in force, and its complaints are seen: the same text, read as markup, makes one.
    visit.page.evaluate("text => { try { document.body.innerHTML = text } catch { } }", said)
    assert len(visit.wrong) == 1 and "Trusted" in visit.wrong[0]
    context.close()


def test_search(grounded: ServerProcess) -> None:
    for mode in ("dense", "lexical", "hybrid"):
        answer = grounded.post(
            "/v1/knowledge/search", {"query": "When is the museum on Candle Lane open?", "top_k": 3, "mode": mode}
        )
        body = answer.json
        assert answer.status == 200 and body["object"] == "list" and 1 <= len(body["data"]) <= 3
        assert body["data"][0]["file"] == "candle-lane-museum.txt", mode
        assert set(body["data"][0]) == {"file", "chunk", "score", "text"}
        assert body["timings"]["phases"]["search"] > 0 and body["timings"]["total_seconds"] > 0
    strict = {"query": QUESTION, "threshold": 1.0, "mode": "dense"}
    assert grounded.post("/v1/knowledge/search", strict).json["data"] == []


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "query"),
        ({"query": ""}, "query"),
        ({"query": 5}, "query"),
        ({"query": "x" * 32_769}, "query"),
        ({"query": "x", "top_k": 0}, "top_k"),
        ({"query": "x", "mode": "both"}, "mode"),
        ({"query": "x", "threshold": "high"}, "threshold"),
    ],
)
def test_searches_that_cannot_be(grounded: ServerProcess, body: object, param: str) -> None:
    answer = grounded.post("/v1/knowledge/search", body)
    assert answer.status == 400 and answer.error["param"] == param


def test_any_query_can_be_searched(grounded: ServerProcess) -> None:
    for query in ("\0", " ", "'\"*()-:", "🦢" * 3000, "goose " * 5000):
        for mode in ("dense", "lexical", "hybrid"):
            assert grounded.post("/v1/knowledge/search", {"query": query, "mode": mode}).status == 200, query[:10]


def test_what_is_known_of_the_documents(grounded: ServerProcess, folder: Path) -> None:
    body = grounded.get("/v1/knowledge").json
    assert body["files"] == 6 and body["skipped_files"] == 0
    assert body["chunks"] >= 7 and body["dimensions"] == 384 and body["model"]
    assert body["indexing"] == {"state": "idle", "progress": None, "error": None}
    assert str(folder / "store.sqlite") in body["store"]


def test_searches_are_measured(grounded: ServerProcess) -> None:
    before = grounded.metric("embedding_duration_count")
    grounded.chat(QUESTION, max_tokens=1)
    grounded.post("/v1/knowledge/search", {"query": QUESTION})
    grounded.chat(QUESTION, max_tokens=1, knowledge=False)
    eventually(lambda: grounded.metric("embedding_duration_count") == before + 2, "two searches are counted")


def test_a_running_server_follows_the_folder(grounded: ServerProcess, folder: Path) -> None:
    def finds() -> bool:
        body = {"query": "Who keeps the bees of Marl?", "mode": "dense", "threshold": 0.5}
        hits = grounded.post("/v1/knowledge/search", body).json["data"]
        return bool(hits) and hits[0]["file"] == "bees.txt"

    assert not finds()
    (folder / "data" / "bees.txt").write_text("The bees of Marl are kept by Ottoline Crabbe in hives of blue clay.")
    eventually(finds, "a new file is found")
    (folder / "data" / "bees.txt").unlink()
    eventually(lambda: not finds(), "a deleted file is gone")


def test_metrics_tell_its_size_and_time_its_look_ups(grounded: ServerProcess) -> None:
    size = grounded.get("/v1/knowledge").json
    assert size["files"] > 0 and size["chunks"] > 0
    eventually(lambda: grounded.metric("lucid_knowledge_files") == size["files"], "the scrape before saw all files")
    eventually(lambda: grounded.metric("lucid_knowledge_chunks") == size["chunks"], "and their chunks")
    eventually(lambda: grounded.metric("lucid_knowledge_age_seconds") == 0, "the folder is followed")
    before = grounded.metric("embedding_duration_count")
    assert grounded.chat(QUESTION, max_tokens=4).status == 200
    assert grounded.post("/v1/knowledge/search", {"query": QUESTION}).status == 200
    assert grounded.chat(QUESTION, max_tokens=4, knowledge=False).status == 200
    eventually(lambda: grounded.metric("embedding_duration_count") == before + 2, "both look-ups are observed")
    assert grounded.metric("lucid_phase_seconds_count", phase="search") > 0
