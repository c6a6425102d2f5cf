"""The native loop against the real model."""

from __future__ import annotations

import numpy as np
import pytest

import llama_native as ln
from llama_native import samplers
from tests.llama_native.conftest import PROMPT, MakeContext


def test_the_answer_makes_sense(chat_model: ln.Model, make_context: MakeContext) -> None:
    context = make_context(chat_model)
    prompt = chat_model.vocab.tokenize(PROMPT, parse_special=True)
    tokens = list(ln.generate(context, prompt, None, 24))
    assert "physicist" in "".join(token.text for token in tokens)
    assert [token.finish_reason for token in tokens] == [None] * 23 + ["length"]
    assert tokens[0].decode_seconds > 2 * tokens[1].decode_seconds  # the prefill
    assert all(token.sampling_seconds > 0 for token in tokens)


def test_it_stops_at_end_of_generation(chat_model: ln.Model, make_context: MakeContext) -> None:
    context = make_context(chat_model)
    text = "<|im_start|>user\nSay just: yes<|im_end|>\n<|im_start|>assistant\nYes."
    prompt = chat_model.vocab.tokenize(text, parse_special=True)
    force_end = ln.Sampler([samplers.logit_bias(chat_model.vocab, {2: 1e5}), samplers.greedy()])
    tokens = list(ln.generate(context, prompt, force_end, 5))
    assert [(t.token, t.text, t.finish_reason) for t in tokens] == [(2, "", "stop")]
    context.memory.clear()
    tokens = list(ln.generate(context, prompt, force_end, 3, ignore_eog=True))
    assert [t.token for t in tokens] == [2, 2, 2]
    assert tokens[-1].finish_reason == "length"


def test_pieces_of_the_prompt_give_the_same_tokens(tiny_model: ln.Model, make_context: MakeContext) -> None:
    prompt = np.arange(3, 103)
    results = []
    for n_batch in (256, 100, 33, 7, 1):
        context = make_context(tiny_model, n_batch=n_batch)
        results.append([t.token for t in ln.generate(context, prompt, None, 8, ignore_eog=True)])
    assert all(result == results[0] for result in results)


def test_a_second_turn_continues_the_first(tiny_model: ln.Model, make_context: MakeContext) -> None:
    context = make_context(tiny_model)
    first = [t.token for t in ln.generate(context, [5, 6, 7], None, 4, ignore_eog=True)]
    assert context.memory.pos_max(0) == 5  # the last token is not in the memory yet
    second = [t.token for t in ln.generate(context, [first[-1], 9], None, 4, ignore_eog=True)]
    context.memory.clear()
    prompt = [5, 6, 7, *first, 9]
    assert [t.token for t in ln.generate(context, prompt, None, 4, ignore_eog=True)] == second


def test_a_full_context_ends_it(tiny_model: ln.Model, make_context: MakeContext) -> None:
    context = make_context(tiny_model, n_ctx=256)
    tokens = list(ln.generate(context, np.arange(3, 253), None, 100, ignore_eog=True))
    assert len(tokens) == 7
    assert tokens[-1].finish_reason == "length"
    with pytest.raises(ln.InvalidBatch, match="0 free positions"):
        list(ln.generate(context, [5], None, 1))


def test_bad_arguments(tiny_model: ln.Model, embedding_model: ln.Model, make_context: MakeContext) -> None:
    context = make_context(tiny_model, n_ctx=256)
    for prompt in ([], [5] * 257):
        with pytest.raises(ln.InvalidBatch, match="does not fit"):
            list(ln.generate(context, prompt))
    with pytest.raises(ValueError, match="max_tokens"):
        list(ln.generate(context, [5], max_tokens=0))
    with pytest.raises(ln.ContextError, match="does not predict"):
        list(ln.generate(make_context(embedding_model), [5]))
    nothing = ln.Sampler([samplers.logit_bias(tiny_model.vocab, dict.fromkeys(range(286), -np.inf)), samplers.greedy()])
    with pytest.raises(ln.SamplingError, match="no token is allowed"):
        list(ln.generate(context, [5], nothing))


def test_a_generator_that_is_dropped_leaves_a_usable_context(tiny_model: ln.Model, make_context: MakeContext) -> None:
    context = make_context(tiny_model)
    tokens = ln.generate(context, [5, 6], None, 50, ignore_eog=True)
    next(tokens)
    next(tokens)
    del tokens
    assert context.memory.pos_max(0) == 2
    list(ln.generate(context, [7], None, 2, ignore_eog=True))
