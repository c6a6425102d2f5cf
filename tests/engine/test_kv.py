"""Where prompts are placed, and room for them in the unified layout."""

from __future__ import annotations

import time

import numpy as np
import pytest
from engine_cases import GREEDY, MakeEngine, settle, text_of

from engine import Engine, Layout, Request
from engine.kv import WORTH_COPYING
from llama_native import Model


def tokens(*runs: tuple[int, int]) -> np.ndarray:
    """So many times each token."""
    return np.concatenate([np.full(count, token, dtype=np.int32) for token, count in runs])


def run(engine: Engine, prompt: np.ndarray, max_tokens: int = 1, cache_prompt: bool = True) -> int:
    """Answer a prompt; how many of its tokens were cached."""
    generation = engine.submit(Request(prompt, max_tokens, GREEDY, ignore_eos=True, cache_prompt=cache_prompt))
    text_of(generation)
    settle(engine)
    return generation.cached_tokens


def test_the_same_prompt_goes_on_in_place(small: Model, make_engine: MakeEngine, layout: Layout) -> None:
    engine = make_engine(small, kv_layout=layout, parallel=3)
    assert run(engine, tokens((5, 100))) == 0
    assert run(engine, tokens((5, 100))) == 99
    assert engine.stats().sequences_cached == 1


def test_a_short_common_prefix_is_not_copied(small: Model, make_engine: MakeEngine) -> None:
    engine = make_engine(small, kv_layout=Layout.STREAMS, parallel=2)
    run(engine, tokens((5, 10), (6, 50)))
    run(engine, tokens((5, 10), (7, 50)))
    assert engine.stats().sequences_cached == 2


def test_a_conversation_survives_a_newcomer(small: Model, make_engine: MakeEngine, layout: Layout) -> None:
    engine = make_engine(small, kv_layout=layout, parallel=2, context=512)
    first = tokens((5, 60), (6, 40))
    run(engine, first)
    assert run(engine, tokens((5, 60), (7, 20))) == 60
    assert engine.stats().evictions == 0
    assert run(engine, first) == first.size - 1


def test_a_newcomer_takes_the_oldest_conversations_place(small: Model, make_engine: MakeEngine, layout: Layout) -> None:
    engine = make_engine(small, kv_layout=layout, parallel=2, context=512)
    oldest, first = tokens((9, 30)), tokens((5, 60), (6, 40))
    run(engine, oldest)
    run(engine, first)
    assert run(engine, tokens((5, 60), (7, 20))) == 60
    assert (engine.stats().evictions, engine.stats().evicted_tokens) == (1, oldest.size)
    assert run(engine, first) == first.size - 1


def test_the_oldest_conversation_is_not_lost_for_less(small: Model, make_engine: MakeEngine, layout: Layout) -> None:
    engine = make_engine(small, kv_layout=layout, parallel=2, context=512)
    oldest = tokens((9, 60))
    run(engine, oldest)
    for question in (6, 7, 8):
        assert run(engine, tokens((5, 60), (question, 40))) == (0 if question == 6 else 60)
    assert (engine.stats().evictions, engine.stats().evicted_tokens) == (2, 80)
    assert run(engine, oldest) == oldest.size - 1


def test_a_few_tokens_are_not_worth_a_copy(small: Model, make_engine: MakeEngine, layout: Layout) -> None:
    engine = make_engine(small, kv_layout=layout, parallel=2)
    run(engine, tokens((5, 60), (6, WORTH_COPYING - 1)))
    assert run(engine, tokens((5, 60), (7, 20))) == 60
    stats = engine.stats()
    assert (stats.sequences_cached, stats.evictions, stats.evicted_tokens) == (1, 1, WORTH_COPYING - 1)


def test_a_prompt_computed_anew_takes_the_oldest_place_too(
    small: Model, make_engine: MakeEngine, layout: Layout
) -> None:
    engine = make_engine(small, kv_layout=layout, parallel=2, context=512)
    oldest, first = tokens((9, 60)), tokens((5, 60), (6, 40))
    run(engine, oldest)
    run(engine, first)
    assert run(engine, tokens((5, 60), (7, 20)), cache_prompt=False) == 0
    assert (engine.stats().evictions, engine.stats().evicted_tokens) == (1, oldest.size)
    assert run(engine, first) == first.size - 1


def test_what_a_prompt_computes_again_is_not_lost(small: Model, make_engine: MakeEngine, layout: Layout) -> None:
    engine = make_engine(small, kv_layout=layout, parallel=1)
    run(engine, tokens((5, 60)), max_tokens=6)
    assert engine.stats().evictions == 0
    run(engine, tokens((5, 60)))  # its answer's first five tokens are in the cache
    assert (engine.stats().evictions, engine.stats().evicted_tokens) == (1, 5)
    run(engine, tokens((5, 80)))
    run(engine, tokens((5, 80)), cache_prompt=False)
    assert engine.stats().evictions == 1


def test_least_recently_used_goes_first(small: Model, make_engine: MakeEngine) -> None:
    engine = make_engine(small, kv_layout=Layout.STREAMS, parallel=2)
    run(engine, tokens((5, 60)))
    run(engine, tokens((6, 60)))
    run(engine, tokens((5, 60)))
    run(engine, tokens((7, 60)))
    assert run(engine, tokens((5, 60))) == 59
    assert run(engine, tokens((6, 60))) == 0


def test_room_shared_with_an_evicted_sequence_counts(small: Model, make_engine: MakeEngine) -> None:
    """Cells shared by two idle sequences come free only when both have let go."""
    engine = make_engine(small, kv_layout=Layout.UNIFIED, parallel=2, context=512, kv_cells=512, queue_timeout=20)
    run(engine, tokens((5, 250), (6, 5)))
    run(engine, tokens((5, 250), (7, 5)))
    assert run(engine, tokens((5, 50), (8, 10)), max_tokens=1000) == 50


def test_waiting_for_room_costs_no_cache(
    small: Model, make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request that has to wait for a running one does not empty the prefix cache meanwhile."""
    engine = make_engine(small, kv_layout=Layout.UNIFIED, parallel=3, context=512, kv_cells=600)
    run(engine, tokens((9, 80)))
    step = engine._step
    monkeypatch.setattr(engine, "_step", lambda planned: (time.sleep(0.003), step(planned)))  # lest it be over too soon
    blocking = engine.submit(Request(tokens((5, 100)), 350, GREEDY, ignore_eos=True))
    assert blocking.next(timeout=60) is not None
    waiting = engine.submit(Request(tokens((6, 400)), 100, GREEDY, ignore_eos=True))
    steps = engine.stats().counters.steps
    for _ in range(3000):
        assert waiting.next(timeout=0.002) is None
        if engine.stats().counters.steps >= steps + 3:
            break
    assert engine.stats().counters.steps >= steps + 3
    assert (engine.stats().waiting, engine.stats().evictions) == (1, 0)
    monkeypatch.undo()
    blocking.cancel()
    text_of(waiting)
    assert waiting.completion_tokens == 100
