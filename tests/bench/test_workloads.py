"""The workloads' promises, checked with the demo model's own tokenizer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bench import workloads
from bench.vocabulary import OPENERS
from llama_native import Model, ModelParams, Vocab


@pytest.fixture(scope="module")
def vocab(chat_model_path: Path) -> Iterator[Vocab]:
    with Model(chat_model_path, ModelParams(vocab_only=True)) as model:
        yield model.vocab


def first_messages(name: str, requests: int, seed: str = "0") -> list[str]:
    return [conversation.turns[0] for conversation in workloads.build(name, requests, seed)]


def shared(vocab: Vocab, one: str, other: str) -> int:
    """How many leading tokens two texts have in common."""
    count = 0
    for mine, theirs in zip(vocab.tokenize(one).tolist(), vocab.tokenize(other).tolist(), strict=False):
        if mine != theirs:
            break
        count += 1
    return count


@pytest.mark.parametrize("name", workloads.NAMES)
def test_same_seed_same_texts_other_seed_others(name: str) -> None:
    assert workloads.build(name, 12, "a") == workloads.build(name, 12, "a")
    assert not set(first_messages(name, 12, "a")) & set(first_messages(name, 12, "b"))


@pytest.mark.parametrize("name", workloads.NAMES)
def test_no_two_prompts_are_equal(name: str) -> None:
    messages = first_messages(name, 64)
    assert len(set(messages)) == len(messages)


def test_word_counts() -> None:
    assert all(len(message.split()) == workloads.UNIQUE_WORDS for message in first_messages("unique", 16))
    for message in first_messages("rag", 16):
        context, question = message.split("\n\n")
        assert len(context.split()) == workloads.CONTEXT_WORDS
        assert 10 <= len(question.split()) <= 25
    assert all(8 <= len(message.split()) <= 20 for message in first_messages("chat", 16))
    (conversation,) = workloads.build("multi-turn", workloads.TURNS)
    lengths = [len(turn.split()) for turn in conversation.turns]
    assert lengths == [workloads.FIRST_TURN_WORDS, *[workloads.NEXT_TURN_WORDS] * (workloads.TURNS - 1)]


def test_openers_begin_with_different_tokens(vocab: Vocab) -> None:
    assert len({int(vocab.tokenize(word)[0]) for word in OPENERS}) == len(OPENERS)


def test_unique_prompts_share_no_first_token_and_have_about_350_tokens(vocab: Vocab) -> None:
    messages = first_messages("unique", 64)
    assert len({int(vocab.tokenize(message)[0]) for message in messages}) == 64
    assert all(300 <= len(vocab.tokenize(message)) <= 380 for message in messages)


def test_more_unique_prompts_than_openers_differ_in_their_second_word() -> None:
    openings = [tuple(message.split()[:2]) for message in first_messages("unique", 3 * len(OPENERS))]
    assert len(set(openings)) == len(openings)


def test_rag_prompts_share_their_context_and_nothing_of_the_question(vocab: Vocab) -> None:
    messages = first_messages("rag", 16)
    context = len(vocab.tokenize(messages[0].split("\n\n")[0]))
    for other in messages[1:]:
        assert shared(vocab, messages[0], other) >= context
        assert shared(vocab, messages[0], other) < len(vocab.tokenize(other))


def test_conversations_share_no_first_token(vocab: Vocab) -> None:
    messages = first_messages("multi-turn", 8 * workloads.TURNS)
    assert len(messages) == 8
    assert len({int(vocab.tokenize(message)[0]) for message in messages}) == 8


@pytest.mark.parametrize(("name", "requests"), [("nonsense", 1), ("chat", 0), ("rag", -1)])
def test_bad_arguments(name: str, requests: int) -> None:
    with pytest.raises(ValueError, match=r"unknown workload|at least 1"):
        workloads.build(name, requests)
