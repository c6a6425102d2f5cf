"""Constrained answers: they follow their grammar, end with it, and disturb nobody."""

from __future__ import annotations

import json
import re

import pytest
from engine_cases import GREEDY, MakeEngine, answer, chat, settle, text_of

from engine import ConstraintFailed, Constraints, InvalidRequest, Request, SamplingParams
from llama_native import Model, ModelParams

WORD = r"start: /[a-z]{3,8}/"
OBJECT = json.dumps(
    {
        "grammars": [
            {
                "json_schema": {
                    "type": "object",
                    "properties": {
                        "name": {"type": "string", "maxLength": 20},
                        "born": {"type": "integer", "minimum": 0, "maximum": 9999},
                    },
                    "required": ["name", "born"],
                    "additionalProperties": False,
                    "x-guidance": {"whitespace_flexible": False},
                }
            }
        ]
    }
)


def test_answers_follow_the_grammar(model: Model, make_engine: MakeEngine) -> None:
    engine = make_engine(model)
    constraint = engine.constraints.compile(OBJECT)
    prompt = chat(model, "Who was Albert Einstein?")
    generations = [engine.submit(Request(prompt, 120, GREEDY, constraint=constraint))]
    for seed in range(7):
        sampling = SamplingParams(temperature=1.5, top_k=0, min_p=0.0, seed=seed, repeat_penalty=1.2)
        generations.append(engine.submit(Request(prompt, 120, sampling, constraint=constraint, ignore_eos=True)))
    texts = [text_of(generation) for generation in generations]
    for generation, text in zip(generations, texts, strict=True):
        assert generation.finish_reason == "stop"
        assert set(json.loads(text)) == {"name", "born"}
    assert len(set(texts)) > 4  # the model still chooses
    assert "Einstein" in texts[0]


def test_the_token_limit_cuts_it(model: Model, make_engine: MakeEngine) -> None:
    engine = make_engine(model)
    generation = engine.submit(Request(chat(model, "Hi"), 3, GREEDY, constraint=engine.constraints.compile(OBJECT)))
    assert text_of(generation).startswith("{")
    assert (generation.finish_reason, generation.completion_tokens) == ("length", 3)


def test_the_last_token_within_the_limit_is_a_stop(model: Model, make_engine: MakeEngine) -> None:
    engine = make_engine(model)
    constraint = engine.constraints.compile('start: "yes" | "no"')
    generation = engine.submit(Request(chat(model, "Is water wet?"), 1, GREEDY, constraint=constraint))
    assert text_of(generation) in ("yes", "no")
    assert (generation.finish_reason, generation.completion_tokens) == ("stop", 1)


def test_free_and_constrained_streams_side_by_side(model: Model, make_engine: MakeEngine) -> None:
    engine = make_engine(model)
    question = chat(model, "Name a river.")
    alone = answer(engine, question, 20, cache_prompt=False)
    constraint = engine.constraints.compile(WORD)
    free = [engine.submit(Request(question, 20, GREEDY, cache_prompt=False)) for _ in range(2)]
    bound = [engine.submit(Request(question, 20, GREEDY, constraint=constraint)) for _ in range(2)]
    for text in map(text_of, free):  # the end may differ: 4-bit weights round by what is computed together
        assert text.split()[:2] == alone.split()[:2]
        assert not re.fullmatch("[a-z]{3,8}", text)
    assert all(re.fullmatch("[a-z]{3,8}", text_of(generation)) for generation in bound)


def test_log_probabilities_are_the_models_own(model: Model, make_engine: MakeEngine) -> None:
    engine = make_engine(model)
    sampling = SamplingParams(temperature=0.0, logprobs=3)
    constraint = engine.constraints.compile(r"start: /Q{4}/")
    generation = engine.submit(Request(chat(model, "Hi"), 20, sampling, constraint=constraint))
    pieces = list(generation)
    entries = [entry for piece in pieces for entry in piece.logprobs or ()]
    assert "".join(piece.text for piece in pieces) == "QQQQ"
    assert len(entries) == generation.completion_tokens
    assert entries[0].logprob < entries[0].top[0][1]  # the model would have said something else
    assert entries[0].token not in [token for token, _ in entries[0].top]


@pytest.mark.parametrize("grammar", ["start: missing", "start: /(/", "", "\0", '{"grammars": []}', "{", "é{"])
def test_broken_grammars(vocab_constraints: Constraints, grammar: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        vocab_constraints.compile(grammar)
    assert caught.value.parameter == "constraint"
    assert "\n" not in str(caught.value)


def test_a_grammar_that_grows_too_complex_ends_its_own_request(model: Model, make_engine: MakeEngine) -> None:
    engine = make_engine(model)
    greedy_regex = r"start: /(\w{1,500}|\d{1,500}|.{1,300}x){1,500}/"
    constraint = engine.constraints.compile(greedy_regex)
    prompt = chat(model, "Write about the sea.")
    hot = SamplingParams(temperature=2.0, top_k=0, top_p=1.0, min_p=0.0, seed=1)
    neighbour = engine.submit(Request(prompt, 30, GREEDY))
    doomed = engine.submit(Request(prompt, 400, hot, constraint=constraint))
    with pytest.raises(ConstraintFailed, match="lexer"):
        text_of(doomed)
    assert text_of(neighbour)
    settle(engine)
    assert answer(engine, prompt, 5)


def test_special_tokens_are_told_from_text(vocab_constraints: Constraints) -> None:
    assert vocab_constraints.special("<|im_start|>") == 1
    assert vocab_constraints.special("the") is None


def test_visible_control_tokens(model: Model, make_engine: MakeEngine) -> None:
    engine = make_engine(model)
    token = engine.constraints.special("<|im_start|>")
    assert token is not None
    constraint = engine.constraints.compile(f'start: "a" <[{token}]> "b"')
    prompt = chat(model, "Hi")
    assert answer(engine, prompt, 9, constraint=constraint) == "ab"
    assert answer(engine, prompt, 9, constraint=constraint, visible=frozenset((token,))) == "a<|im_start|>b"


@pytest.fixture(scope="module")
def vocab_constraints(chat_model_path: object) -> Constraints:
    model = Model(str(chat_model_path), ModelParams(vocab_only=True))
    return Constraints(model.vocab)


def test_a_sentencepiece_vocabulary(gemma_model_path: object) -> None:
    """Its tokens write spaces their own way, and single bytes as <0x..>."""
    with Model(str(gemma_model_path), ModelParams(vocab_only=True)) as model:
        constraint = Constraints(model.vocab).compile(r'start: /[a-zé €]+/ "\n"')
        state = constraint.start()
        for token in model.vocab.tokenize("a café for € \n").tolist():
            assert not state.complete
            state.accept(token)
            assert state.failure is None
        assert state.complete
