"""Cancellation: none is lost, and a sequence is free at once."""

from __future__ import annotations

import time
from collections import deque

import numpy as np
import pytest
from engine_cases import GREEDY, MakeEngine, settle

from engine import Engine, Generation, Request
from llama_native import Model, Sampler


def long_request(prompt: int = 8) -> Request:
    """As many tokens as the context allows, after a prompt of so many."""
    return Request(np.full(prompt, 5, dtype=np.int32), 1000, GREEDY, ignore_eos=True)


class Interrupted(deque[tuple[Generation, Sampler | None]]):
    """New requests; right after the engine thread has found none, one is submitted and cancelled, as by another."""

    def __init__(self, engine: Engine) -> None:
        super().__init__()
        self._engine = engine
        self.met = False

    def __bool__(self) -> bool:
        anything = len(self) > 0
        if not anything and not self.met:
            self.met = True
            self._engine.submit(long_request()).cancel()
        return anything


def test_a_cancellation_between_two_looks_is_not_lost(small: Model, make_engine: MakeEngine) -> None:
    engine = make_engine(small, parallel=1)
    engine._submitted = submitted = Interrupted(engine)
    engine._wake.set()
    for _ in range(3000):
        if submitted.met and engine._idle:
            break
        time.sleep(0.01)
    settle(engine)
    counters = engine.stats().counters
    assert (counters.cancelled, counters.generated_tokens) == (1, 0)


@pytest.mark.parametrize("when", ["prefill", "decode"])
def test_a_sequence_is_free_after_the_step_under_way(model: Model, make_engine: MakeEngine, when: str) -> None:
    engine = make_engine(model, parallel=1)
    counters = engine.stats().counters
    generation = engine.submit(long_request(prompt=150 if when == "prefill" else 8))
    if when == "decode":
        assert generation.next(timeout=60) is not None
    while not engine.stats().running:
        time.sleep(0.001)
    generation.cancel()
    made = counters.steps
    settle(engine)
    assert counters.steps <= made + 1
    assert counters.cancelled == 1
