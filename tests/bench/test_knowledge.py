"""The benchmarks of knowledge: what they judge by, on examples worked out by hand; no figure is judged."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bench import corpus, grounding, retrieval
from bench.corpus import KnownItem
from bench.knowledge_postgres import enlarge
from knowledge.store import Chunk, Hit


def hit(file: str, index: int, score: float) -> Hit:
    return Hit(file, Chunk(index, 0, 1, 1, f"text {index} of {file}."), score)


@pytest.mark.parametrize("name", ["retrieval", "grounding", "knowledge_postgres"])
def test_help(root: Path, name: str) -> None:
    done = subprocess.run([sys.executable, "-m", f"bench.{name}", "--help"], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0 and f"usage: python -m bench.{name}" in done.stdout


def test_ndcg_of_one_right_document() -> None:
    files = {f"{i}": 1.0 - i / 100 for i in range(20)}
    assert retrieval.ndcg(files, "0") == 1
    assert retrieval.ndcg(files, "1") == pytest.approx(1 / np.log2(3))
    assert retrieval.ndcg(files, "9") == pytest.approx(1 / np.log2(11))
    assert retrieval.ndcg(files, "10") == retrieval.ndcg(files, "absent") == 0


def test_fusions() -> None:
    dense, lexical = [hit("a", 0, 0.9), hit("b", 0, 0.8), hit("b", 1, 0.2)], [hit("b", 0, 12.0), hit("c", 0, 6.0)]
    fused = retrieval.rrf(dense, lexical, 60)
    assert fused["b"] == pytest.approx(0.5 / 62 + 0.5 / 61) and fused["a"] == pytest.approx(0.5 / 61)
    assert list(retrieval.files_of(dense).items()) == [("a", 0.9), ("b", 0.8)]
    weighted = retrieval.convex(dense, lexical, 0.5)
    assert weighted == pytest.approx({"a": 0.45, "b": 0.9, "c": 0.1 + 0.25})
    assert retrieval.convex(dense, [], 0.5)["a"] == 0.45 and retrieval.rrf([], []) == {}


def test_bootstrap_interval() -> None:
    assert retrieval.interval(np.full(50, 0.25)) == (0.25, 0.25)
    low, high = retrieval.interval(np.array([0.0, 1.0] * 200))
    assert 0.44 < low < 0.5 < high < 0.56


def test_manual_pages_lose_their_question() -> None:
    source = (
        '.\\" a comment\n.TH CAT 1\n.SH NAME\ncat \\- join files \\fBtidily\\fP\n.SH DESCRIPTION\n.PP\n'
        ".B cat\nis made to Join files\ntidily, \\-n numbers lines.\n"
    )
    assert corpus._plain_man(".SH NAME\ncat \\- x") == "NAME\n\ncat - x"
    text = corpus._without(corpus._plain_man(source.partition(".SH DESCRIPTION")[2]), "join files tidily")
    assert "tidily" not in text and "-n numbers lines." in text and "cat" in text


def test_questions_that_two_documents_have_are_left_out() -> None:
    items = [KnownItem("man/a", "", "x y"), KnownItem("man/b", "", "X Y"), KnownItem("faq/c", "", "z?")]
    assert corpus.questions_of(items) == [("z?", "faq/c")]
    assert [item.kind for item in items] == ["man", "man", "faq"]


def test_made_vectors_lie_near_real_ones() -> None:
    rng = np.random.default_rng(0)
    real = rng.standard_normal((200, 32)).astype(np.float32)
    real /= np.linalg.norm(real, axis=1, keepdims=True)
    made, origin = enlarge(real, 500)
    assert np.allclose(np.linalg.norm(made, axis=1), 1, atol=1e-5) and len(origin) == 500
    assert (made * real[origin]).sum(axis=1).mean() > (made @ real.T).mean() + 0.3


def test_every_fact_is_in_its_document_and_not_in_its_question() -> None:
    documents, asked = grounding.questions("all")
    texts = {document["file"]: document["text"] for document in documents}
    assert len(asked) >= 50 and len({question.text for question in asked}) == len(asked)
    for question in asked:
        assert question.answered_by(texts[question.file]), question
        assert not question.answered_by(question.text), question
    halves = [{question.file for question in grounding.questions(half)[1]} for half in "ab"]
    assert halves[0] and halves[1] and not halves[0] & halves[1]
    assert json.loads(grounding.FACTS.read_text()) == documents


def test_answers_count_as_whole_words() -> None:
    question = grounding.Question("?", ("34", "Ode"), "f")
    assert question.answered_by("It takes 34.") and question.answered_by("nurse ODE, ")
    assert not question.answered_by("1934") and not question.answered_by("model 340")


def test_wordings_hold_passages_and_question() -> None:
    grounds = grounding.grounds_of("which text?", [hit("b", 0, 2.0), hit("a", 3, 1.0)], "file")
    assert grounds.context == "text 3 of a.\n\ntext 0 of b."
    assert grounding.grounds_of("?", [hit("b", 0, 2.0), hit("a", 3, 1.0)], "best first").context.startswith("text 0")
    assert grounding.grounds_of("?", [hit("b", 0, 2.0), hit("a", 3, 1.0)], "best last").context.endswith("text 0 of b.")
    for name, wording in (*grounding.WORDINGS.items(), ("default", grounding.default_wording())):
        text = "\n".join(message.text("m") for message in wording(grounds, "which text?"))
        assert "which text?" in text and "text 0 of b." in text and "{" not in text, name
