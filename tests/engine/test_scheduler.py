"""Who is computed in a step, and when a sequence comes free, as those hear who are turned away."""

from __future__ import annotations

import numpy as np
import pytest
from engine_cases import GREEDY, MakeEngine, text_of

from engine import Generation, Layout, Request
from engine.pace import Pace
from engine.scheduler import Run, Scheduler
from llama_native import Model

#: Seconds of a decode step and of a prompt token.
DECODE, PREFILL = 0.05, 0.01
CONTEXT = 256


def generation(model: Model, prompt: int, answer: int) -> Generation:
    request = Request(np.full(prompt, 5, dtype=np.int32), answer)
    return Generation(request, model.vocab, lambda *_: None)


@pytest.mark.parametrize(
    ("running", "waiting", "places", "seconds"),
    [
        # (prompt tokens, answer tokens left or None while it is prefilled), (prompt tokens, answer tokens)
        ([(10, 100), (10, 100)], [], 1, 5.0),
        ([(10, 40), (10, 100)], [], 1, 2.0),  # the first to end makes room
        ([(10, 40), (10, 100)], [], 2, 5.0),
        ([(10, 40), (10, 100)], [(50, 20)], 2, 2.0 + 0.5 + 1.0),  # who waits takes the first place
        ([(10, 40), (10, 100)], [(50, 2**31 - 1)], 2, 5.0),
        ([(10, 40), (10, 40)], [(56, 2**31 - 1), (56, 2**31 - 1)], 3, 2.0 + 0.56 + 200 * DECODE),  # the context ends it
        ([(200, None), (10, 40)], [], 1, 2.0 + 2.0),  # a prompt delays everybody
        ([], [(50, 40), (50, 60)], 3, 0.5 + 2.0),  # submitted, but not yet admitted
        ([(10, 1), (10, 1)], [], 1, 1.0),
    ],
)
def test_seconds_until_free(
    small: Model,
    make_engine: MakeEngine,
    running: list[tuple[int, int | None]],
    waiting: list[tuple[int, int]],
    places: int,
    seconds: float,
) -> None:
    kv = make_engine(small, parallel=2, context=CONTEXT)._kv
    pace = Pace(0.3, 512, PREFILL)
    for rows in (1, 2):
        pace.observe(rows, 0, DECODE)
    scheduler = Scheduler(kv, pace, 512, 60.0)
    for sequence, (prompt, left) in zip(kv.sequences, running, strict=False):
        run = Run(generation(small, prompt, 1), sequence, None, 50 if left is None else left)
        run.token = -1 if left is None else 7
        scheduler.running.append(run)
    found = scheduler.seconds_until_free(places, [generation(small, *sizes) for sizes in waiting])
    assert found == pytest.approx(seconds)


def test_no_stream_waits_for_a_prompt(small: Model, make_engine: MakeEngine, layout: Layout) -> None:
    """While a long prompt is prefilled, piece by piece, every step has the running stream's next token too."""
    engine = make_engine(small, kv_layout=layout, parallel=2, context=4096, step_ms=1)
    stream = engine.submit(Request(np.full(8, 5, dtype=np.int32), 4000, GREEDY, ignore_eos=True))
    assert stream.next(timeout=60) is not None
    counters = engine.stats().counters
    pieces, alone = sum(counters.prefill_rows.counts[1:]), counters.decode_rows.counts[0]
    text_of(engine.submit(Request(np.full(600, 6, dtype=np.int32), 1, GREEDY, ignore_eos=True)))
    assert engine.stats().running == 1, "the stream ended before the prompt"
    assert sum(counters.prefill_rows.counts[1:]) - pieces > 2
    assert counters.decode_rows.counts[0] == alone
    stream.cancel()


def test_pace_can_be_asked_while_it_learns() -> None:
    """HTTP threads ask for an estimate when they turn a request away; the engine thread may get in between anywhere."""
    pace = Pace(0.3, 512)
    pace.observe(1, 0, DECODE)

    class Asked(int):
        """A number of rows; while it is compared with a known one, the engine learns of another."""

        def __rsub__(self, known: int) -> int:
            pace.observe(known + 1, 0, DECODE)
            return known - int(self)

    assert pace.decode_seconds(Asked(100)) == pytest.approx(100 * DECODE)
