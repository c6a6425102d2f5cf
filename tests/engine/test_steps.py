"""What a step is made of: every stream's token, and pieces of the prompts that wait."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from engine_cases import GREEDY

from engine import Generation, Request
from engine.kv import KVCache
from engine.pace import Pace
from engine.scheduler import Run, Scheduler
from llama_native import Context, ContextParams, Model

sys.path.append(str(Path(__file__).parent.parent / "llama_native"))
import tiny

MakeScheduler = Callable[..., Scheduler]

GRAIN, CHUNK = 64, 128


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    with Model(tiny.llama(tmp_path_factory.mktemp("tiny") / "llama.gguf")) as loaded:
        yield loaded


@pytest.fixture
def scheduler(small: Model) -> Iterator[MakeScheduler]:
    """Makes schedulers of 8 sequences with prompts of so many tokens running; None for a stream that decodes."""
    contexts = []

    def make(*prompts: int | None, unified: bool = False) -> Scheduler:
        context = Context(small, ContextParams(n_ctx=8 * 512, n_seq_max=8, kv_unified=unified))
        contexts.append(context)
        kv = KVCache(context, 512, unified=unified, cuttable=True)
        pace = Pace(1.0, CHUNK, prefill_token=0.005, grain=GRAIN)
        result = Scheduler(kv, pace, CHUNK + 8, queue_timeout=60)
        for size in prompts:
            tokens = np.random.default_rng(len(result.running)).integers(5, 90, size or 2, dtype=np.int32)
            result.waiting.append(Generation(Request(tokens, 10, GREEDY), small.vocab, lambda *_: None))
            for generation, sequence in result.admissible():
                run = Run(generation, sequence, None, 10)
                if size is None:
                    kv.computed(sequence, tokens)
                    run.token = 7
                result.running.append(run)
        return result

    yield make
    for context in contexts:
        context.close()


def pieces(scheduler: Scheduler) -> dict[int, int]:
    """Prompt tokens of the next step by sequence."""
    return {run.sequence.id: count for run, count in scheduler.plan().prefill}


def test_every_stream_gets_its_token_beside_a_prompt(scheduler: MakeScheduler) -> None:
    step = scheduler(None, 400, None).plan()
    assert [run.sequence.id for run in step.decode] == [0, 2]
    assert step.prefill_tokens == CHUNK + 1


@pytest.mark.parametrize("unified", [False, True])
def test_a_prompt_alone_is_cut_into_whole_grains(scheduler: MakeScheduler, unified: bool) -> None:
    assert pieces(scheduler(400, unified=unified)) == {0: CHUNK}


def test_no_waiting_prompt_leaves_a_gap_between_streams(scheduler: MakeScheduler) -> None:
    """llama.cpp computes neighbouring sequences together; one row of each, then what is left of them."""
    assert pieces(scheduler(None, 300, 400, None, 400, None)) == {1: CHUNK + 1, 2: 1, 4: 1}


def test_with_shared_cells_there_are_no_gaps(scheduler: MakeScheduler) -> None:
    assert pieces(scheduler(None, 300, 400, None, unified=True)) == {1: CHUNK}


def test_a_short_prompt_overtakes_a_long_one(scheduler: MakeScheduler) -> None:
    assert pieces(scheduler(None, 500, 45)) == {1: GRAIN + 1, 2: 45}


def test_a_long_prompt_gives_way_only_to_what_is_due_before_it(scheduler: MakeScheduler) -> None:
    made = scheduler(None, 500, 300)
    long, short = made.running[1].generation, made.running[2].generation
    assert pieces(made)[2] == CHUNK + 1
    long.course.submitted = short.submitted - 200 * 0.005 - 0.1
    assert pieces(made)[1] == CHUNK + 1


def test_a_step_is_never_larger_than_a_batch(scheduler: MakeScheduler) -> None:
    step = scheduler(*[400] * 8).plan()
    assert len(step.decode) + step.prefill_tokens == CHUNK + 8
