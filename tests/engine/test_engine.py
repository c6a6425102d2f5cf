"""Requests through a real engine on the demo model."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from engine_cases import GREEDY, PASSAGE, MakeEngine, answer, chat, settle, text_of

from engine import (
    DeadlineExceeded,
    EngineStopped,
    EngineStuck,
    InvalidRequest,
    Layout,
    PromptTooLong,
    QueueFull,
    QueueTimeout,
    Request,
    SamplingParams,
)
from llama_native import ClosedError, Context, ContextParams, FlashAttention, Model, Sampler, generate, samplers


def test_the_greedy_answer_is_the_native_loops(model: Model, make_engine: MakeEngine) -> None:
    prompt = chat(model, "Who was Albert Einstein?")
    engine = make_engine(model)
    attention = FlashAttention.ON if engine.plan.flash_attention else FlashAttention.OFF
    params = ContextParams(n_ctx=1024, n_threads=1, flash_attention=attention)
    with Context(model, params) as context, Sampler([samplers.greedy()]) as sampler:
        native = "".join(item.text for item in generate(context, prompt, sampler, 24))
    assert answer(engine, prompt, 24) == native
    assert "physicist" in native


def test_counts_and_timings(model: Model, make_engine: MakeEngine) -> None:
    engine = make_engine(model)
    prompt = chat(model, "Name three rivers.")
    generation = engine.submit(Request(prompt, 10, GREEDY))
    pieces = list(generation)
    generation.timings.finish()
    assert pieces[-1].finish_reason == generation.finish_reason == "length"
    assert generation.prompt_tokens == prompt.size
    assert generation.cached_tokens == 0
    assert generation.completion_tokens == sum(len(piece.tokens) for piece in pieces) == 10
    timings = generation.timings
    assert len(generation.course.token_seconds) == 10
    phases = timings.phases
    assert set(phases) == {"submit", "queue", "prefill", "decode", "sampling", "handoff", "detokenize"}
    assert sum(phases.values()) == pytest.approx(timings.total_seconds, rel=0.03)
    in_engine = phases["prefill"] + phases["decode"] + phases["sampling"]
    assert sum(generation.course.token_seconds) == pytest.approx(in_engine, rel=0.01)


def test_a_second_question_computes_only_what_is_new(model: Model, make_engine: MakeEngine, layout: Layout) -> None:
    engine = make_engine(model, kv_layout=layout)
    context = PASSAGE * 8
    first = chat(model, "What is the weather?", context)
    second = chat(model, "Where is the harbour?", context)
    shared = int((first[: second.size] != second[: first.size]).argmax())
    answer(engine, first, 4)
    generation = engine.submit(Request(second, 4, GREEDY))
    text_of(generation)
    assert generation.cached_tokens == shared
    assert engine.stats().counters.prefill_tokens == first.size + second.size - shared


def test_simultaneous_cold_requests_prefill_their_context_once(
    model: Model, make_engine: MakeEngine, layout: Layout
) -> None:
    # where a slow host's step ended just before the end of the context, the others would not wait for the rest of it
    engine = make_engine(model, kv_layout=layout, step_ms=60_000)
    context = PASSAGE * 10
    prompts = [chat(model, f"Question {i}: what do you see?", context) for i in range(4)]
    shared = min(int((prompts[0][: p.size] != p[: prompts[0].size]).argmax()) for p in prompts[1:])
    generations = [engine.submit(Request(prompt, 4, GREEDY)) for prompt in prompts]
    for generation in generations:
        text_of(generation)
    computed = engine.stats().counters.prefill_tokens
    assert computed == sum(prompt.size for prompt in prompts) - sum(g.cached_tokens for g in generations)
    assert computed <= shared + sum(prompt.size - shared for prompt in prompts)


def test_cache_prompt_false_computes_everything(model: Model, make_engine: MakeEngine) -> None:
    engine = make_engine(model)
    prompt = chat(model, "Hello?")
    answer(engine, prompt, 2)
    generation = engine.submit(Request(prompt, 2, GREEDY, cache_prompt=False))
    text_of(generation)
    assert generation.cached_tokens == 0


def test_stop_string_across_tokens(model: Model, make_engine: MakeEngine) -> None:
    engine = make_engine(model)
    prompt = chat(model, "Who was Albert Einstein?")
    whole = answer(engine, prompt, 24)
    stop = whole[20:29]
    generation = engine.submit(Request(prompt, 24, GREEDY, stop=("never said", stop)))
    assert text_of(generation) == whole[: whole.index(stop)]
    assert generation.finish_reason == "stop"
    settle(engine)


def test_end_of_generation_token(model: Model, make_engine: MakeEngine) -> None:
    engine = make_engine(model)
    forced = SamplingParams(temperature=0.0, grammar='root ::= "Paris."')
    generation = engine.submit(Request(chat(model, "Capital of France?"), 50, forced))
    assert text_of(generation) == "Paris."
    assert generation.finish_reason == "stop"
    ignoring = SamplingParams(temperature=0.0, logit_bias=tuple((t, 1000.0) for t in model.vocab.eog_tokens))
    generation = engine.submit(Request(chat(model, "Hi"), 5, ignoring, ignore_eos=True))
    assert text_of(generation) == ""
    assert (generation.finish_reason, generation.completion_tokens) == ("length", 5)


def test_the_contexts_end_ends_the_answer(model: Model, make_engine: MakeEngine) -> None:
    engine = make_engine(model, context=256)
    prompt = np.resize(chat(model, "Tell me everything."), 240).astype(np.int32)
    generation = engine.submit(Request(prompt, 1000, GREEDY, ignore_eos=True))
    text_of(generation)
    assert generation.finish_reason == "length"
    assert generation.completion_tokens == 16


def test_seeded_sampling_is_reproducible(model: Model, make_engine: MakeEngine) -> None:
    engine = make_engine(model)
    prompt = chat(model, "Tell me a story.")
    hot = {"temperature": 1.5, "top_k": 0, "top_p": 1.0, "min_p": 0.0}
    texts = {
        seed: [
            answer(engine, prompt, 12, sampling=SamplingParams(seed=seed, **hot), cache_prompt=False)  # type: ignore[arg-type]
            for _ in range(2)
        ]
        for seed in (1, 2)
    }
    assert texts[1][0] == texts[1][1]
    assert texts[2][0] == texts[2][1]
    assert texts[1][0] != texts[2][0]


def test_logprobs_are_the_models_distribution(model: Model, make_engine: MakeEngine) -> None:
    engine = make_engine(model)
    prompt = chat(model, "Who was Albert Einstein?")
    generation = engine.submit(Request(prompt, 3, SamplingParams(temperature=0.0, logprobs=5)))
    entries = [entry for piece in generation for entry in piece.logprobs or ()]
    assert len(entries) == 3
    for entry in entries:
        assert len(entry.top) == 5
        assert entry.top[0] == (entry.token, pytest.approx(entry.logprob))
        assert [logprob for _, logprob in entry.top] == sorted((lp for _, lp in entry.top), reverse=True)
        assert sum(np.exp(logprob) for _, logprob in entry.top) <= 1.0 + 1e-4


def test_forbidden_and_forced_tokens(model: Model, make_engine: MakeEngine) -> None:
    engine = make_engine(model)
    prompt = chat(model, "Who was Albert Einstein?")
    (usual, *_) = [token for piece in engine.submit(Request(prompt, 1, GREEDY)) for token in piece.tokens]
    forbid = SamplingParams(temperature=0.0, logit_bias=((usual, -float("inf")),))
    (other, *_) = [token for piece in engine.submit(Request(prompt, 1, forbid)) for token in piece.tokens]
    assert other != usual
    force = SamplingParams(temperature=0.0, logit_bias=((1234, 1000.0),))
    assert [token for piece in engine.submit(Request(prompt, 3, force)) for token in piece.tokens] == [1234] * 3


def test_what_is_refused_before_any_work(model: Model, make_engine: MakeEngine) -> None:
    engine = make_engine(model, context=256)
    with pytest.raises(PromptTooLong) as too_long:
        engine.submit(Request(np.zeros(256, dtype=np.int32), 1))
    assert (too_long.value.prompt_tokens, too_long.value.limit) == (256, 255)
    for token in (-1, model.vocab.n_tokens):
        with pytest.raises(InvalidRequest, match="vocabulary"):
            engine.submit(Request(np.array([token], dtype=np.int32), 1))
    with pytest.raises(InvalidRequest, match=r"(?i)grammar|root"):
        engine.submit(Request(chat(model, "x"), 1, SamplingParams(grammar="this is no grammar")))
    with pytest.raises(InvalidRequest, match="vocabulary"):
        engine.submit(Request(chat(model, "x"), 1, SamplingParams(logit_bias=((10**6, 1.0),))))
    assert engine.stats().counters.steps == 0


def test_a_full_queue_refuses_at_once(model: Model, make_engine: MakeEngine) -> None:
    engine = make_engine(model, parallel=1, max_queue=1)
    prompt = chat(model, "Count to one thousand.")
    running = [engine.submit(Request(prompt, 200, GREEDY, ignore_eos=True)) for _ in range(2)]
    assert running[0].next(timeout=60) is not None
    assert not engine.has_room(1)
    with pytest.raises(QueueFull) as full:
        engine.submit(Request(prompt, 10, GREEDY))
    assert full.value.retry_after >= 1
    assert engine.stats().counters.rejected == 1
    for generation in running:
        generation.cancel()
    settle(engine)
    assert engine.has_room(2)
    assert not engine.has_room(3)
    assert answer(engine, prompt, 2)


def test_waiting_too_long(model: Model, make_engine: MakeEngine) -> None:
    engine = make_engine(model, parallel=1, queue_timeout=0.2)
    prompt = chat(model, "Count to one thousand.")
    first = engine.submit(Request(prompt, 800, GREEDY, ignore_eos=True))
    with pytest.raises(QueueTimeout) as late:
        answer(engine, prompt)
    assert late.value.retry_after >= 1
    first.cancel()
    settle(engine)


def test_a_requests_own_deadline(model: Model, make_engine: MakeEngine) -> None:
    engine = make_engine(model, parallel=1)
    prompt = chat(model, "Count to one thousand.")
    with pytest.raises(DeadlineExceeded):  # while it runs
        answer(engine, prompt, 800, timeout=0.3, ignore_eos=True)
    with engine.submit(Request(prompt, 800, GREEDY, ignore_eos=True)), pytest.raises(DeadlineExceeded):  # in the queue
        answer(engine, prompt, 800, timeout=0.3, ignore_eos=True)
    settle(engine)


@pytest.mark.parametrize("after", ["submit", "first token", "queue"])
def test_cancel_frees_the_sequence(model: Model, make_engine: MakeEngine, after: str) -> None:
    engine = make_engine(model, parallel=1)
    prompt = chat(model, "Count to one thousand.", PASSAGE * 20)
    generation = engine.submit(Request(prompt, 800, GREEDY, ignore_eos=True))
    if after == "first token":
        assert generation.next(timeout=60) is not None
    if after == "queue":
        waiting = engine.submit(Request(prompt, 800, GREEDY))
        waiting.cancel()
        assert waiting.next(timeout=60) is None
        assert not generation.over
    generation.cancel()
    assert generation.next() is None
    settle(engine)
    assert engine.stats().counters.cancelled == (2 if after == "queue" else 1)
    again = engine.submit(Request(prompt, 2, GREEDY))
    text_of(again)
    if after == "first token":
        assert again.cached_tokens == prompt.size - 1


def test_cancel_wakes_a_waiting_consumer(model: Model, make_engine: MakeEngine) -> None:
    engine = make_engine(model, parallel=1)
    blocking = engine.submit(Request(chat(model, "Count."), 800, GREEDY, ignore_eos=True))
    waiting = engine.submit(Request(chat(model, "Wait."), 8, GREEDY))
    threading.Timer(0.2, waiting.cancel).start()
    assert text_of(waiting) == ""
    blocking.cancel()


def test_close_ends_everybody(model: Model, make_engine: MakeEngine) -> None:
    engine = make_engine(model, parallel=1)
    generations = [engine.submit(Request(chat(model, "Count."), 800, GREEDY, ignore_eos=True)) for _ in range(3)]
    assert generations[0].next(timeout=60) is not None
    engine.close()
    for generation in generations:
        with pytest.raises(EngineStopped):
            text_of(generation)
    with pytest.raises(EngineStopped):
        engine.submit(Request(chat(model, "x"), 1))
    assert not engine.alive


def test_a_dead_engine_thread_leaves_nobody_waiting(model: Model, make_engine: MakeEngine) -> None:
    """The context is closed under the engine's feet: everybody hears of it, and why is kept."""
    engine = make_engine(model, parallel=1)
    generations = [engine.submit(Request(chat(model, "Count."), 800, GREEDY, ignore_eos=True)) for _ in range(2)]
    assert generations[0].next(timeout=60) is not None
    engine._native.close()
    for generation in generations:
        with pytest.raises(EngineStopped, match="engine failed"):
            text_of(generation)
    assert isinstance(engine.failure, ClosedError)
    assert not engine.alive
    with pytest.raises(EngineStopped):
        engine.submit(Request(chat(model, "x"), 1))


def test_an_engine_that_is_given_up_while_it_runs(
    model: Model, make_engine: MakeEngine, caplog: pytest.LogCaptureFixture
) -> None:
    """Something else was stuck: the thread, which is well, adds neither a failure of its own nor a traceback."""
    engine = make_engine(model, parallel=1)
    generations = [engine.submit(Request(chat(model, "Count."), 800, GREEDY, ignore_eos=True)) for _ in range(2)]
    assert generations[0].next(timeout=60) is not None
    stuck = EngineStuck("the embedding model has made no step")
    engine.give_up(stuck)
    for generation in generations:
        with pytest.raises(EngineStopped, match="embedding model"):
            text_of(generation)
    engine.close()
    assert engine.failure is stuck
    assert "the engine thread died" not in caplog.text
