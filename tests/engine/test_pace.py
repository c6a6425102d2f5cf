"""Chunk sizes follow the step-time target."""

from __future__ import annotations

import pytest

from engine.pace import QUIET, SMALLEST_CHUNK, Pace

DECODE, PREFILL = 0.040, 0.003


def learned(target: float) -> Pace:
    """A pace that has watched steps of a host with constant rates."""
    pace = Pace(target, largest_chunk=512)
    for _ in range(60):
        pace.observe(8, 0, DECODE)
        pace.observe(8, 32, DECODE + 32 * PREFILL)
    return pace


@pytest.mark.parametrize("target", [0.060, 0.100, 0.200, 0.500])
def test_a_step_of_the_chosen_chunk_takes_the_target_time(target: float) -> None:
    chunk = learned(target).chunk(8)
    seconds = DECODE + chunk * PREFILL
    assert seconds <= max(target, DECODE + SMALLEST_CHUNK * PREFILL) + 1e-9
    assert seconds >= target - 2 * PREFILL or chunk == SMALLEST_CHUNK


def test_a_prompt_always_gets_on() -> None:
    assert learned(0.010).chunk(8) == SMALLEST_CHUNK


def test_where_nobody_waits_steps_may_take_longer_but_not_for_ever() -> None:
    pace = learned(0.100)
    assert pace.chunk(0) == pytest.approx(QUIET * 0.100 / PREFILL, abs=1)
    assert learned(1.0).chunk(0) == 512


def test_a_host_of_unknown_speed_gets_a_small_chunk_first() -> None:
    pace = Pace(0.100, largest_chunk=512)
    assert pace.chunk(0) == pace.chunk(8) == 2 * SMALLEST_CHUNK


def test_an_unknown_batch_is_judged_by_the_nearest_known_one() -> None:
    pace = learned(0.100)
    assert pace.decode_seconds(8) == pytest.approx(DECODE)
    assert pace.decode_seconds(16) == pytest.approx(2 * DECODE)
    assert pace.decode_seconds(4) == pytest.approx(DECODE)


def test_it_follows_a_host_that_becomes_slower() -> None:
    pace = learned(0.200)
    before = pace.chunk(8)
    for _ in range(60):
        pace.observe(8, 32, DECODE + 32 * 3 * PREFILL)
    assert pace.chunk(8) < before / 2


def grained(target: float) -> Pace:
    """The same host, where 64 tokens are computed as fast as 40."""
    pace = Pace(target, largest_chunk=512, grain=64)
    for _ in range(60):
        pace.observe(8, 0, DECODE)
        pace.observe(8, 64, DECODE + 64 * PREFILL)
    return pace


@pytest.mark.parametrize(
    ("target", "chunk"), [(0.060, SMALLEST_CHUNK), (0.120, 26), (0.135, 64), (0.200, 64), (0.500, 153)]
)
def test_a_step_may_take_longer_rather_than_break_a_grain(target: float, chunk: int) -> None:
    assert grained(target).chunk(8) == pytest.approx(chunk, abs=1)


@pytest.mark.parametrize(
    ("remaining", "budget", "first", "piece"),
    [
        (350, 153, True, 128),
        (350, 153, False, 128),
        (350, 40, True, 40),
        (60, 40, True, 60),
        (70, 40, True, 40),
        (60, 40, False, 0),
        (350, 40, False, 0),
        (40, 153, False, 40),
        (40, 30, True, 40),
        (40, 0, False, 0),
    ],
)
def test_a_prompt_is_cut_between_grains(remaining: int, budget: int, first: bool, piece: int) -> None:
    assert grained(0.500).piece(remaining, budget, first=first) == piece


def test_a_prompt_alone_gets_a_whole_grain_where_four_targets_allow_it() -> None:
    assert Pace(0.300, largest_chunk=512, prefill_token=0.025, grain=64).chunk(0) == 64
    assert Pace(0.300, largest_chunk=512, prefill_token=0.050, grain=64).chunk(0) == pytest.approx(24, abs=1)
