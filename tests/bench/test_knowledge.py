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
from bench.knowledge_postgres import CHUNKS_PER_FILE, enlarge, in_files
from knowledge.in_document import in_document
from knowledge.knowledge import Knowledge
from knowledge.settings import KnowledgeSettings
from knowledge.store import Chunk, Hit


def hit(file: str, index: int, score: float) -> Hit:
    return Hit(file, Chunk(index, 0, 1, 1, f"text {index} of {file}."), score)


@pytest.mark.parametrize("name", ["retrieval", "grounding", "knowledge_postgres"])
def test_help(root: Path, name: str) -> None:
    done = subprocess.run([sys.executable, "-m", f"bench.{name}", "--help"], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0 and f"usage: python -m bench.{name}" in done.stdout


def test_ndcg_of_one_right_document() -> None:
    files = [f"{i}" for i in range(20)]
    assert retrieval.ndcg(files, "0") == 1
    assert retrieval.ndcg(files, "1") == pytest.approx(1 / np.log2(3))
    assert retrieval.ndcg(files, "9") == pytest.approx(1 / np.log2(11))
    assert retrieval.ndcg(files, "10") == retrieval.ndcg(files, "absent") == 0


def test_the_default_row_is_the_search_that_ships(root: Path, tmp_path: Path) -> None:
    texts = {
        "man/printer.txt": "The screw-printer presses ink with a wooden screw.",
        "man/ink.txt": "Ink is boiled from soot, honey and lamp oil.",
        "faq/museum.txt": "The museum opens at nine and shows old machines.",
    }
    asked = ["How does the screw printer press ink?", "honey soot", "Completely unrelated: zebras of Mongolia?"]
    items = [KnownItem(file, text, q) for (file, text), q in zip(texts.items(), asked, strict=True)]
    retrieval.write_corpus(items, tmp_path / "texts")
    settings = KnowledgeSettings(
        tmp_path / "texts", root / "model/embed.gguf", url=str(tmp_path / "k.sqlite"), threads=1
    )
    with Knowledge(settings) as knowledge:
        knowledge.index()
        found = retrieval.evaluate(knowledge.store, knowledge.embedder, items)
        shipped = [
            retrieval.ndcg([hit.file for hit in knowledge.search(item.question, top_k=10, merge=False).hits], item.file)
            for item in items
        ]
    assert found.scores[retrieval.DEFAULT].tolist() == shipped
    assert shipped[0] == 1 and shipped[2] == 0  # what the threshold leaves out counts as not found
    assert found.scores[retrieval.DENSE][2] > 0 and len(found.answerable) == 3
    assert {name: group.sum() for name, group in found.groups.items()} == {"faq": 1, "man": 2, "cut off": 0}


def test_bars_of_retrieval() -> None:
    rng = np.random.default_rng(0)
    scores = {name: rng.random(50) / 10 for name in (*retrieval.SEARCHES, retrieval.WHOLE)}
    scores[retrieval.DEFAULT] += 0.3
    scores[retrieval.DENSE] += 0.2
    compared = {(d.first, d.second): d for d in retrieval.differences(scores)}
    chunks = compared[retrieval.DENSE, retrieval.WHOLE]
    assert chunks.met and 0.1 < chunks.low < chunks.mean < chunks.high < 0.3
    assert compared[retrieval.DEFAULT, retrieval.DENSE].verdict == "pass"
    assert compared[retrieval.DEFAULT, retrieval.PLAIN].verdict == "-"  # not the best of the three
    scores[retrieval.WHOLE] += 0.4
    scores[retrieval.PLAIN] += 0.5
    missed = [(d.first, d.second) for d in retrieval.differences(scores) if d.met is False]
    assert missed == [
        (retrieval.DEFAULT, retrieval.PLAIN),
        (retrieval.DENSE, retrieval.WHOLE),
        (retrieval.DEFAULT, retrieval.WHOLE),
    ]


def test_documents_that_were_chosen_on_are_left_out() -> None:
    kind = [KnownItem(f"man/{i}", "word " * (3000 + 20 * i), f"{i}?") for i in range(100)]
    chosen = corpus.draw(kind, 40, 0, 0, corpus.MAX_WORDS)
    others = corpus.draw(kind, 100, 0, 40, 30_000)
    assert len(chosen) == 40 and len(others) == 60
    assert not {item.file for item in chosen} & {item.file for item in others}
    assert max(len(item.text.split()) for item in chosen) <= corpus.MAX_WORDS
    assert max(len(item.text.split()) for item in others) > corpus.MAX_WORDS


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


def test_vectors_are_those_that_the_indexer_would_write() -> None:
    rng = np.random.default_rng(3)
    vectors = rng.standard_normal((250, 8)).astype(np.float32)
    documents = np.concatenate([rng.permutation([7] * 130 + [3] * 119), [5]])
    order, begins, moved = in_files(vectors, documents, 0.35)
    assert sorted(order.tolist()) == list(range(250))
    assert begins == [0, CHUNKS_PER_FILE, 119, 120, 120 + CHUNKS_PER_FILE]
    for begin, end in zip(begins, [*begins[1:], 250], strict=True):
        assert len(set(documents[order[begin:end]])) == 1
        np.testing.assert_array_equal(moved[begin:end], in_document(vectors[order[begin:end]], 0.35))
