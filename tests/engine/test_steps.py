"""What a step is made of: every stream's token, and pieces of the prompts that wait."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
from engine_cases import GREEDY

from engine import Generation, Request
from engine.kv import KVCache
from engine.pace import Pace
from engine.plan import SCORED_TOKENS
from engine.scheduler import Run, Scheduler
from llama_native import Context, ContextParams, Model

MakeScheduler = Callable[..., Scheduler]

GRAIN, CHUNK = 64, 128


@pytest.fixture
def scheduler(small: Model) -> Iterator[MakeScheduler]:
    """Makes schedulers of 8 sequences with prompts of so many tokens running; None for a stream that decodes.

    `token` is the seconds of a prompt token where a step may take one, `scored` the places of prompts that are scored.
    """
    contexts = []

    def make(
        *prompts: int | None, unified: bool = False, token: float = 0.005, scored: tuple[int, ...] = ()
    ) -> Scheduler:
        context = Context(small, ContextParams(n_ctx=8 * 512, n_seq_max=8, kv_unified=unified))
        contexts.append(context)
        kv = KVCache(context, 512, unified=unified, cuttable=True)
        pace = Pace(1.0, CHUNK, prefill_token=token, grain=GRAIN)
        result = Scheduler(kv, pace, CHUNK + 8, queue_timeout=60)
        for place, size in enumerate(prompts):
            tokens = np.random.default_rng(place).integers(5, 90, size or 2, dtype=np.int32)
            request = Request(tokens, 10, GREEDY, prompt_logprobs=1 if place in scored else None)
            result.waiting.append(Generation(request, small.vocab, lambda *_: None))
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


def test_without_streams_there_are_no_gaps(scheduler: MakeScheduler) -> None:
    """A row costs more than a token of a piece, so a prompt gets none that nobody needs."""
    assert pieces(scheduler(300, 400, 400)) == {0: CHUNK}


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
    made = scheduler(None, *[400] * 6, None)
    made._max_batch = CHUNK
    step = made.plan()
    assert len(step.decode) + step.prefill_tokens <= CHUNK


def test_the_time_that_one_prompt_takes_too_much_is_not_given_to_another(scheduler: MakeScheduler) -> None:
    """On a slow host the rest of the first prompt may be more than fits; the others still get on by a row each."""
    made = scheduler(None, 26, 101, 31, token=1 / 30)
    made._pace.observe(1, 0, 2 / 3)
    assert pieces(made) == {1: 26, 2: 1, 3: 1}


def test_a_scored_prompt_leaves_the_others_what_it_cannot_use(scheduler: MakeScheduler) -> None:
    made = scheduler(None, 300, 400, scored=(1,))
    found = pieces(made)
    assert found[1] == SCORED_TOKENS
    assert found[2] == GRAIN + 1


def test_scored_prompts_share_what_a_step_can_score_and_leave_no_gap(scheduler: MakeScheduler) -> None:
    assert pieces(scheduler(None, 300, 300, None, scored=(1, 2))) == {1: SCORED_TOKENS, 2: 1}
