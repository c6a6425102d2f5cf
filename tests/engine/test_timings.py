"""The stopwatch: phases fill a request's time without gap or overlap, whatever runs beside what."""

import numpy as np
import pytest

from engine import Timings

LOOP = ("handoff", "detokenize", "write")


def timings_of(laps: list[tuple[str, float]], total: float) -> Timings:
    """A finished stopwatch that started at 0, with laps (phase, end)."""
    timings = Timings()
    timings.started = 0.0
    for name, end in laps:
        timings.lap(name, end)
    timings.finished = total
    return timings


def submit(timings: Timings, submitted: float, admitted: float | None, tokens: list[float], ended: float) -> None:
    course = timings.submit()
    course.submitted, course.admitted = submitted, admitted
    for time in tokens:
        course.token(time, 0.25)
    course.end(ended)


def whole(laps: list[tuple[str, float]], total: float) -> Timings:
    """Laps before submission at 2, an engine that made three tokens from 3 to 7, laps after it."""
    timings = timings_of([("parse", 1.0), ("tokenize", 1.5)], total)
    submit(timings, 2.0, 3.0, [5.0, 6.0, 7.0], 7.0)
    timings._ends[-1] = 2.0  # the lap that `submit` made by the real clock
    for name, end in laps:
        timings.lap(name, end)
    return timings


def test_work_beside_the_engine_is_not_on_the_path() -> None:
    timings = whole(
        [
            ("handoff", 5.5),
            ("detokenize", 5.75),
            ("write", 6.0),
            ("handoff", 7.5),
            ("detokenize", 8.0),
            ("write", 10.0),
        ],
        10.0,
    )
    phases = timings.phases
    assert phases == {
        "parse": 1.0,
        "tokenize": 0.5,
        "submit": 0.5,
        "queue": 1.0,
        "prefill": 1.75,
        "decode": 1.5,
        "sampling": 0.75,
        "handoff": 0.5,
        "detokenize": 0.5,
        "write": 2.0,
    }
    assert sum(phases.values()) == timings.total_seconds == 10.0
    assert timings.beside == {"detokenize": 0.25, "write": 0.25}


def test_tokens_that_went_past_python_are_laps_like_others() -> None:
    times = [[5.5, 5.75, 6.0], [6.5, 6.75, 7.5]]
    one_by_one = whole([(name, at) for row in times for name, at in zip(LOOP, row, strict=True)], 9.0)
    at_once = whole([], 9.0)
    at_once.relayed(np.array(times))
    assert list(at_once.laps()) == list(one_by_one.laps())
    assert (at_once.phases, at_once.beside) == (one_by_one.phases, one_by_one.beside)
    at_once.relayed(np.empty((0, 3)))
    assert list(at_once.laps()) == list(one_by_one.laps())


def test_a_slow_client_makes_writing_part_of_the_path() -> None:
    timings = whole([("handoff", 5.5), ("write", 20.0), ("detokenize", 21.0), ("write", 22.0)], 22.0)
    assert timings.phases["write"] == pytest.approx(13 + 1)
    assert timings.beside == {"write": 1.5}
    assert sum(timings.phases.values()) == pytest.approx(22)


def test_what_the_engine_computes_beyond_the_answer_is_not_on_the_path() -> None:
    timings = whole([("handoff", 6.25), ("detokenize", 6.5), ("write", 6.75)], 6.75)
    timings.courses[0].end_at_token(2)
    assert timings.courses[0].ended == 6.0
    assert sum(timings.phases.values()) == pytest.approx(6.75)
    assert timings.phases["handoff"] == pytest.approx(0.25)


def test_the_path_of_several_generations_is_that_of_the_last_to_end() -> None:
    timings = whole([("handoff", 12.0), ("write", 13.0)], 13.0)
    timings.courses.append(type(timings.courses[0])(2.0))
    timings.courses[1].admitted = 9.0
    timings.courses[1].token(11.0, 0.0)
    timings.courses[1].end(11.0)
    assert timings.phases["queue"] == 7.0
    assert sum(timings.phases.values()) == pytest.approx(13)


def test_a_request_that_was_never_admitted_was_in_the_queue() -> None:
    timings = timings_of([("parse", 1.0)], 9.0)
    submit(timings, 2.0, None, [], 8.0)
    timings._ends[-1] = 2.0
    timings.lap("handoff", 8.5)
    timings.lap("write", 9.0)
    assert timings.phases == {"parse": 1.0, "submit": 1.0, "queue": 6.0, "handoff": 0.5, "write": 0.5}


def test_work_measured_elsewhere_takes_the_first_part_of_a_lap() -> None:
    timings = Timings()
    timings.add("embed", 0.0)
    timings.add("search", 3600.0)  # cannot be longer than the time that has passed
    timings.finish()
    assert timings.phases["search"] <= timings.total_seconds


def test_a_phase_counts_when_it_fails() -> None:
    timings = Timings()
    with pytest.raises(ValueError), timings.phase("parse"):
        raise ValueError
    assert [name for name, _, _ in timings.laps()] == ["parse"]
