"""After any mix of finishes, cancels and errors every sequence and every KV cell is accounted for.

Random workloads on a tiny model; what the engine believes is compared with what llama.cpp's memory says.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from cache_model import watch
from engine_cases import GREEDY, MakeEngine, settle, text_of

from engine import Engine, EngineError, Generation, GenerationFailed, Layout, Request, SamplingParams
from llama_native import Batch, Model

sys.path.append(str(Path(__file__).parent.parent / "llama_native"))
import tiny

CONTEXT = 256


@pytest.fixture(scope="module", params=["llama", "mamba"])
def tiny_model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    """An attention model, whose memory can be cut anywhere, and a recurrent one, whose memory cannot."""
    path = tmp_path_factory.mktemp("tiny") / f"{request.param}.gguf"
    with Model(getattr(tiny, request.param)(path)) as loaded:
        yield loaded


def check_books(engine: Engine) -> None:
    """The idle engine's picture of its memory is the memory's own."""
    kv, memory = engine._kv, engine._native.memory
    assert not engine._samplers
    for sequence in kv.sequences:
        assert not sequence.busy
        assert sequence.expected == sequence.length
        assert memory.pos_max(sequence.id) + 1 == sequence.length
        assert kv.cells.owned(sequence.id).size == sequence.length
    if not kv.unified:
        assert kv.cells.used == sum(sequence.length for sequence in kv.sequences)
    stats = engine.stats()
    assert (stats.running, stats.waiting, stats.oldest_wait) == (0, 0, 0.0)


def random_request(chance: random.Random, vocabulary: int, shared: list[np.ndarray]) -> Request:
    """A prompt that often begins like an earlier one; now and then one that must fail."""
    length = chance.choice([1, 2, 10, 50, 120, CONTEXT - 1, CONTEXT, CONTEXT + 50])
    prompt = np.array([chance.randrange(3, vocabulary) for _ in range(length)], dtype=np.int32)
    if shared and chance.random() < 0.6:
        prefix = chance.choice(shared)
        cut = chance.randrange(1, prefix.size + 1)
        prompt = np.concatenate([prefix[:cut], prompt])[: CONTEXT - 1]
    shared.append(prompt)
    grammar = chance.choice([None, None, None, 'root ::= "a" "b" "c"', "root ::= [0-9]"])
    return Request(
        prompt,
        chance.choice([1, 3, 20, 1000]),
        SamplingParams(
            temperature=chance.choice([0.0, 1.0]),
            seed=chance.randrange(100),
            grammar=grammar,
            logprobs=chance.choice([None, 3]),
        ),
        ignore_eos=chance.random() < 0.3,
        timeout=chance.choice([None, None, None, 0.001, 0.05]),
        cache_prompt=chance.random() < 0.9,
    )


@pytest.mark.parametrize("seed", range(6))
def test_random_workloads(tiny_model: Model, make_engine: MakeEngine, layout: Layout, seed: int) -> None:
    chance = random.Random(seed)
    unified_cells = {"kv_cells": 2 * CONTEXT} if layout is Layout.UNIFIED and seed % 2 else {}
    engine = make_engine(
        tiny_model,
        kv_layout=layout,
        parallel=chance.choice([1, 3, 4]),
        context=CONTEXT,
        step_ms=chance.choice([1, 20]),
        max_queue=20,
        **unified_cells,
    )
    cache = watch(engine)
    shared: list[np.ndarray] = []
    open_ones: list[Generation] = []
    accepted = failed = 0
    for _ in range(60):
        match chance.choice(["submit", "submit", "submit", "cancel", "read", "drain"]):
            case "submit":
                try:
                    open_ones.append(engine.submit(random_request(chance, tiny_model.vocab.n_tokens, shared)))
                    accepted += 1
                except EngineError:
                    pass  # refused before it was accepted
            case "cancel" if open_ones:
                open_ones.pop(chance.randrange(len(open_ones))).cancel()
            case "read" if open_ones:
                generation = chance.choice(open_ones)
                try:
                    generation.next(timeout=0.02)
                except EngineError:
                    failed += 1
                if generation.over:
                    open_ones.remove(generation)
            case "drain" if open_ones:
                generation = open_ones.pop()
                try:
                    text_of(generation)
                    assert generation.finish_reason in ("stop", "length")
                except EngineError:
                    failed += 1
    for generation in open_ones:
        try:
            text_of(generation)
        except EngineError:
            failed += 1
    settle(engine)
    check_books(engine)
    assert engine.alive
    assert cache.compared > engine.stats().counters.steps > 0
    counters = engine.stats().counters
    assert counters.finished + counters.cancelled + counters.failed == accepted
    assert counters.failed >= failed


def reason(generation: Generation) -> str:
    """Why it failed."""
    with pytest.raises(GenerationFailed) as failed:
        text_of(generation)
    return str(failed.value)


@pytest.mark.parametrize("when", ["prefill", "decode"])
def test_a_step_that_is_broken_off(tiny_model: Model, make_engine: MakeEngine, layout: Layout, when: str) -> None:
    """It ends whoever had a part in it; what is cached or waits is not touched, and the engine goes on."""
    engine = make_engine(tiny_model, kv_layout=layout, parallel=3, context=4096)
    cached = np.full(100, 9, dtype=np.int32)
    text_of(engine.submit(Request(cached, 1, GREEDY)))
    if when == "prefill":
        engine._native.abort()
    prompts = [np.full(50, token, dtype=np.int32) for token in (5, 6)]
    group = engine.submit_all([Request(prompt, 4000, GREEDY, ignore_eos=True) for prompt in prompts])
    if when == "decode":
        while not all(generation.completion_tokens for generation in group.generations):
            assert group.next(timeout=60) is not None
        engine._native.abort()
    for _ in prompts:
        with pytest.raises(GenerationFailed, match="abort"):
            while group.next() is not None:
                pass
    settle(engine)
    check_books(engine)
    assert engine.stats().counters.failed == 2
    assert [sequence.length for sequence in engine._kv.sequences] == [100, 0, 0]
    again = engine.submit(Request(np.append(cached, [10]), 4, GREEDY, ignore_eos=True))
    text_of(again)
    assert (again.cached_tokens, again.completion_tokens) == (100, 4)


def test_a_step_that_finds_no_cells(tiny_model: Model, make_engine: MakeEngine) -> None:
    """Cells are taken behind the engine's back, so that llama.cpp has fewer than the engine reckons with."""
    if tiny_model.is_recurrent:
        pytest.skip("a recurrent model keeps no cells")
    engine = make_engine(tiny_model, kv_layout=Layout.UNIFIED, parallel=2, context=CONTEXT, kv_cells=CONTEXT)
    batch = Batch(200)
    batch.extend(np.full(200, 5, dtype=np.int32), 0, 1)
    engine._native.decode(batch)
    for prompt, answer in ((100, 10), (40, 150)):  # it fails in prefill, and in decode
        request = Request(np.full(prompt, 6, dtype=np.int32), answer, GREEDY, ignore_eos=True)
        assert "KV cache" in reason(engine.submit(request))
    engine._native.memory.remove(1)
    settle(engine)
    check_books(engine)
    assert engine._kv.cells.used == 0
    well = engine.submit(Request(np.full(100, 6, dtype=np.int32), 150, GREEDY, ignore_eos=True))
    text_of(well)
    assert well.completion_tokens == 150


def test_an_answer_that_nothing_can_continue(tiny_model: Model, make_engine: MakeEngine, layout: Layout) -> None:
    """It fails alone: who shares its steps goes on."""
    engine = make_engine(tiny_model, kv_layout=layout, parallel=2, context=CONTEXT)
    nothing = SamplingParams(logit_bias=tuple((token, -np.inf) for token in range(tiny_model.vocab.n_tokens)))
    prompt = np.full(50, 5, dtype=np.int32)
    other = engine.submit(Request(prompt, 100, GREEDY, ignore_eos=True))
    assert "no token can be sampled" in reason(engine.submit(Request(prompt + 1, 100, nothing)))
    text_of(other)
    assert other.completion_tokens == 100
    settle(engine)
    check_books(engine)


def test_too_few_cells_make_requests_wait_and_evict(tiny_model: Model, make_engine: MakeEngine) -> None:
    """With room for one long request at a time, eight come through one after the other, whole."""
    if tiny_model.is_recurrent:
        pytest.skip("a recurrent model keeps no cells")
    engine = make_engine(tiny_model, kv_layout=Layout.UNIFIED, parallel=4, context=CONTEXT, kv_cells=CONTEXT)
    prompts = [np.full(150, 10 + i, dtype=np.int32) for i in range(8)]
    greedy = SamplingParams(temperature=0.0)
    generations = [engine.submit(Request(prompt, 60, greedy, ignore_eos=True)) for prompt in prompts]
    for generation in generations:
        text_of(generation)
        assert generation.completion_tokens == 60
    settle(engine)
    check_books(engine)
    stats = engine.stats()
    assert stats.counters.failed == 0
    assert stats.evictions >= 7
    assert stats.kv_cells_used <= CONTEXT
