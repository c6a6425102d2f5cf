"""What a characterisation measures: plans cut to a budget that holds, and what may join what was measured before."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs
from samples import FAST, asked, document, load

from bench.characterize.document import Load, Plan, Point
from bench.characterize.identity import PIECE_BYTES, PIECES, changes, content
from bench.characterize.page import what_is_missing
from bench.characterize.plan import FEWEST, FEWEST_POINTS, PLANNED, Sizes, make_plan
from bench.characterize.sweep import Sweep
from bench.characterize.target import Pace, Prompt


def test_a_plan_fits_its_budget() -> None:
    full = make_plan(Sizes(threads=(1, 2), bandwidth=(2,)), FAST, budget=10_000)
    assert full.rounds["prompt"] == 5 and not full.left_out
    cut = make_plan(Sizes(threads=(1, 2), bandwidth=(2,)), FAST, budget=70, spent=10)
    assert cut.seconds <= PLANNED * 60
    assert min(cut.rounds.values()) >= FEWEST
    assert {point.kind for point in cut.points} == {point.kind for point in full.points}
    slow = make_plan(Sizes(), Pace(prefill=20, decode=5), budget=480)
    assert slow.left_out and "about" in slow.left_out[0]
    assert all(
        sum(point.kind == kind for point in slow.points) >= FEWEST_POINTS for kind in ("prompt", "load", "output")
    )


def test_a_plan_stays_within_the_context() -> None:
    plan = make_plan(Sizes(prompt=(64, 2048), output=(16, 64)), FAST, 1000, context=512)
    assert [point.size for point in plan.points if point.kind == "prompt"] == [64]
    assert plan.left_out == ["2048 prompt tokens: longer than the context of 512"]


class Instant:
    """A target that answers at once: what its samples cost is what their document says."""

    pace = FAST

    def ask(self, prompts: Sequence[Prompt], clients: int, answer: int) -> Load:  # noqa: ARG002 (the protocol)
        return load(*(asked(0.1, tokens=answer) for _ in prompts))

    def describe(self) -> dict[str, Any]:
        return {}

    def identify(self) -> dict[str, str]:
        return {}

    def close(self) -> None: ...


@pytest.mark.parametrize(
    ("setup", "measured", "left_out"),
    [
        (0.0, ["output/8", "output/16", "output/16", "output/8"], []),
        (45.0, ["output/8", "output/8"], ["2 of 2 rounds of 16 output tokens: the time of 1 min was used"]),
        (
            59.5,
            [],
            [f"2 of 2 rounds of {size} output tokens: the time of 1 min was used" for size in (8, 16)],
        ),
    ],
)
def test_the_budget_holds_for_everything(setup: float, measured: list[str], left_out: list[str]) -> None:
    """Loading and calibrating count, and so does the first round; what there was no time for is named."""
    points = [Point(kind="output", size=8, cost=1.0), Point(kind="output", size=16, cost=20.0)]
    swept = document([])
    swept.plan = Plan(points=points, rounds={"output": 2}, budget=60.0, prompt=64, answer=8, left_out=[])
    swept.setup_seconds = setup
    Sweep(swept, Instant(), None, "salt", lambda: None).run()
    assert swept.finished
    assert [sample.point for sample in swept.samples] == measured
    assert swept.plan.left_out == left_out


class Failing(Instant):
    """A target that answers each of `errors` in turn, and then at once."""

    def __init__(self, *errors: str) -> None:
        self.errors = list(errors)

    def ask(self, prompts: Sequence[Prompt], clients: int, answer: int) -> Load:
        good = super().ask(prompts, clients, answer)
        return load(*(structs.replace(it, error=self.errors.pop(0) if self.errors else None) for it in good.asked))


@pytest.mark.parametrize(
    ("errors", "kept"),
    [
        (["HTTP 503: busy"], [False, True, True, True]),
        (["connection lost: reset", "HTTP 429: slower"], [False, False]),
        (["HTTP 400: the prompt is too long"], [False]),
        (["PromptTooLong: 9000 of 4096"], [False]),
    ],
)
def test_a_point_is_given_up_for_errors_that_repeat_or_for_two(errors: list[str], kept: list[bool]) -> None:
    swept = document([])
    points = [Point(kind="output", size=8, cost=1.0)]
    swept.plan = Plan(points=points, rounds={"output": 4}, budget=60.0, prompt=64, answer=8, left_out=[])
    Sweep(swept, Failing(*errors), None, "salt", lambda: None).run()
    assert [not sample.error for sample in swept.samples] == kept
    (line,) = what_is_missing(swept)
    assert line.startswith(f"8 output tokens failed in {kept.count(False)} of {len(kept)} rounds: ")


def test_a_model_file_is_known_by_its_content(tmp_path: Path) -> None:
    path, size = tmp_path / "m.gguf", 40 * PIECE_BYTES + 5
    digests = set()
    for change in (None, 0, size - 1, (size - PIECE_BYTES) * 8 // (PIECES - 1)):
        with path.open("wb") as file:
            file.truncate(size)
            if change is not None:
                file.seek(change)
                file.write(b"x")
        digests.add(content(path))
    path.write_bytes(b"")
    assert len(digests | {content(path)}) == 5
    before, now = {"engine": "1", "llama.cpp": "a"}, {"engine": "1", "llama.cpp": "b", "model file": "m"}
    assert list(changes(before, before)) == []
    assert list(changes(before, now)) == ["llama.cpp: was a, is b", "model file: was not known, is m"]
