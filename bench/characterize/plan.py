"""What to measure, how often, and how long that will take: sweeps cut to a time budget before anything starts.

Knows the sweeps' sizes and a rough cost model (tokens at the target's first measured pace); not how they are run.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from bench.characterize.document import Plan, Point
from bench.characterize.target import Pace

#: Tokens of an answer that shows the decode rate at a prompt's depth, and of one that is asked for its first token.
DEPTH_ANSWER: Final = 24
FIRST_ANSWER: Final = 2

#: Prompt of the output sweep, and of native loops, in tokens.
OUTPUT_PROMPT: Final = 64
NATIVE_PREFILL: Final = 256
NATIVE_DEPTH: Final = 128
NATIVE_DECODE: Final = 24
BATCH_STEPS: Final = 12

#: Chunk sizes whose prefill is timed beside a batch of one.
CHUNKS: Final = (16, 64, 256)

#: Rounds of each kind, and the fewest that the budget may leave: of three values, one may be an accident.
ROUNDS: Final = {"prompt": 5, "output": 5, "load": 3, "threads": 4, "batch": 4, "bandwidth": 5}
QUICK_ROUNDS: Final = 2
FEWEST: Final = 3

#: Points that a sweep keeps at least.
FEWEST_POINTS: Final = 2

#: Share of the budget left after loading and calibration that is planned: slow moments of the host need the rest.
PLANNED: Final = 0.85

#: How kinds are called in tables and progress bars.
NAMES: Final = {
    "prompt": "prompt tokens",
    "output": "output tokens",
    "load": "clients",
    "threads": "threads",
    "batch": "sequences a step",
    "bandwidth": "threads reading memory",
}


@dataclass(frozen=True, slots=True)
class Sizes:
    """The values each sweep goes through; empty leaves a sweep out. `prompt` and `answer`: of a request under load."""

    prompt: tuple[int, ...] = (32, 64, 128, 256, 512, 1024, 2048)
    output: tuple[int, ...] = (16, 64, 256)
    load: tuple[int, ...] = (1, 2, 4, 8, 16)
    threads: tuple[int, ...] = ()
    batch: tuple[int, ...] = (1, 2, 4, 8, 16)
    bandwidth: tuple[int, ...] = ()
    load_prompt: int = 64
    load_answer: int = 24
    rounds: dict[str, int] = field(default_factory=lambda: dict(ROUNDS))


QUICK: Final = Sizes(
    prompt=(32, 256, 1024),
    output=(16, 64),
    load=(1, 4, 8),
    batch=(1, 4, 8),
    load_prompt=32,
    load_answer=16,
    rounds=dict.fromkeys(ROUNDS, QUICK_ROUNDS),
)


def requests_of(clients: int) -> int:
    """Requests of one sample under load: two a client, at least four."""
    return max(4, 2 * clients)


def make_plan(sizes: Sizes, pace: Pace, budget: float, context: int | None = None, spent: float = 0.0) -> Plan:
    """Cut `sizes` to what fits: first rounds, then the costliest points of a sweep with more than two.

    `context`: most tokens of a request, None where it is not known. `budget` for everything and what of it is `spent`
    already, in seconds.
    """
    left_out = []
    points = []
    for point in _points(sizes, pace):
        if context is not None and _tokens(point, sizes) > context:
            left_out.append(f"{point.size} {NAMES[point.kind]}: longer than the context of {context}")
        else:
            points.append(point)
    plan = Plan(
        points=points,
        rounds=dict(sizes.rounds),
        budget=budget,
        prompt=sizes.load_prompt,
        answer=sizes.load_answer,
        left_out=left_out,
    )
    while plan.seconds > PLANNED * (budget - spent):
        kinds = {point.kind for point in plan.points if plan.rounds[point.kind] > FEWEST}
        if kinds:
            plan.rounds[max(kinds, key=lambda kind: _cost(plan, kind))] -= 1
            continue
        spare = [
            point for point in plan.points if sum(other.kind == point.kind for other in plan.points) > FEWEST_POINTS
        ]
        if not spare:
            break
        costliest = max(spare, key=lambda point: point.cost)
        plan.points.remove(costliest)
        plan.left_out.append(f"{costliest.size} {NAMES[costliest.kind]}: about {costliest.cost:.0f} s a sample")
    return plan


def describe(plan: Plan) -> list[str]:
    """The plan as table rows: what, sizes, rounds, seconds."""
    rows = []
    for kind in dict.fromkeys(point.kind for point in plan.points):
        sizes = " ".join(str(point.size) for point in plan.points if point.kind == kind)
        rows.append(f"  {NAMES[kind]:24} {sizes:32} {plan.rounds[kind]:2} rounds  {_cost(plan, kind):6.0f} s")
    return rows


def _cost(plan: Plan, kind: str) -> float:
    return sum(point.cost for point in plan.points if point.kind == kind) * plan.rounds[kind]


def _tokens(point: Point, sizes: Sizes) -> int:
    """Most tokens of a request of this point, with room for a chat template."""
    if point.kind == "prompt":
        return point.size + DEPTH_ANSWER + 32
    if point.kind == "output":
        return OUTPUT_PROMPT + point.size + 32
    return sizes.load_prompt + sizes.load_answer + 32 if point.kind == "load" else 0


def _points(sizes: Sizes, pace: Pace) -> Iterable[Point]:
    """Every point with its cost: tokens at the first pace; attention makes long prompts dearer."""

    def prefill(tokens: int) -> float:
        return tokens / pace.prefill * (1 + tokens / 4096)

    def decode(tokens: float, depth: int = 0) -> float:
        return tokens / pace.decode * (1 + depth / 2048)

    for size in sizes.prompt:
        yield Point(kind="prompt", size=size, cost=0.1 + prefill(size) + decode(DEPTH_ANSWER, size))
    for size in sizes.output:
        yield Point(kind="output", size=size, cost=prefill(OUTPUT_PROMPT) + decode(size, size))
    for size in sizes.load:
        one = prefill(sizes.load_prompt) + decode(sizes.load_answer)
        # Batches decode faster than one sequence: a little on a CPU, far more on a GPU; this is the CPU's case.
        yield Point(kind="load", size=size, cost=requests_of(size) * one * (1 if size == 1 else 0.8))
    most = max(sizes.threads, default=1)
    for size in sizes.threads:
        cost = (prefill(NATIVE_PREFILL + NATIVE_DEPTH + 64) + decode(NATIVE_DECODE)) * most / size
        yield Point(kind="threads", size=size, cost=0.2 + cost)
    for size in sizes.batch:
        chunks = sum(CHUNKS) if size == 1 else 0
        cost = prefill(NATIVE_DEPTH + 64) + prefill(chunks) + decode(BATCH_STEPS * (1 + 0.7 * (size - 1)))
        yield Point(kind="batch", size=size, cost=0.2 + cost)
    for size in sizes.bandwidth:
        yield Point(kind="bandwidth", size=size, cost=1.0)
