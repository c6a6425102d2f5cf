"""Runs a plan: every point once a round, so that a slow moment of the host meets all points and not one.

Each sample is kept as soon as it is there; what a document already holds is not measured again. Knows targets, native
loops and the host; not what is made of the samples.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from tqdm import tqdm

from bench.characterize.document import Document, Point, Sample
from bench.characterize.host import memory_bandwidth
from bench.characterize.native import NativeLoops
from bench.characterize.plan import DEPTH_ANSWER, FIRST_ANSWER, NAMES, OUTPUT_PROMPT, requests_of
from bench.characterize.target import Prompt, Target
from bench.report import progress
from engine.host_load import OtherWork

#: A point that failed so often is given up, whatever its errors: each costs time that others could use.
MOST_FAILURES: Final = 2

#: Errors that come again with the same request, such as a prompt too long, and not those of a busy server.
_REPEATS: Final = re.compile(r"HTTP (400|401|403|404|405|413|415|422)\b|InvalidRequest: |PromptTooLong: ")


@dataclass(slots=True)
class Sweep:
    """A plan on its way. `salt` makes this process's prompts unlike those an earlier one left in the target's cache."""

    document: Document
    target: Target
    native: NativeLoops | None
    salt: str
    keep: Callable[[], None]

    def run(self) -> None:
        """Measure what is missing, keeping every sample; marks the document finished at the end."""
        plan = self.document.plan
        todo = list(self._todo())
        no_time: list[Point] = []
        with progress(round(sum(point.cost for _, point in todo)), "characterising", "s") as bar:
            bar.bar_format = "{desc}{percentage:3.0f}% |{bar}| {elapsed} so far, about {remaining} left"
            for round_, point in todo:
                if self._hopeless(point):
                    continue
                if self._spent() + point.cost > plan.budget:
                    no_time.append(point)
                    continue
                bar.set_description(f"round {round_ + 1}: {point.size} {NAMES[point.kind]}")
                self.document.samples.append(self._sample(round_, point))
                self.keep()
                _advance(bar, point.cost)
        plan.left_out += self._without_time(no_time)
        self.document.finished = True
        self.keep()

    def _todo(self) -> Iterator[tuple[int, Point]]:
        """What is not measured yet, round by round; every other round goes backwards."""
        plan = self.document.plan
        done = {(sample.round, sample.point) for sample in self.document.samples}
        for round_ in range(max(plan.rounds.values())):
            for point in plan.points if round_ % 2 == 0 else plan.points[::-1]:
                if round_ < plan.rounds[point.kind] and (round_, point.key) not in done:
                    yield round_, point

    def _spent(self) -> float:
        """Seconds that everything took so far."""
        return self.document.setup_seconds + sum(sample.seconds for sample in self.document.samples)

    def _without_time(self, points: list[Point]) -> Iterator[str]:
        """Each point with the number of its measurements that the budget had no time for."""
        rounds = self.document.plan.rounds
        for point, missed in Counter(points).items():
            what = f"{missed} of {rounds[point.kind]} rounds of {point.size} {NAMES[point.kind]}"
            yield f"{what}: the time of {self.document.plan.budget / 60:g} min was used"

    def _hopeless(self, point: Point) -> bool:
        """Whether to give it up: it failed in a way that must repeat, or too often. What it gave before is kept."""
        errors = [sample.error for sample in self.document.samples if sample.point == point.key and sample.error]
        return len(errors) >= MOST_FAILURES or any(_REPEATS.match(error) for error in errors)

    def _sample(self, round_: int, point: Point) -> Sample:
        others = OtherWork()
        begin = time.perf_counter()
        loads, rates = [], {}
        seed = f"{self.salt}/{point.key}/{round_}"
        if point.kind == "prompt":
            prompt = [Prompt(point.size, seed)]
            loads = [self.target.ask(prompt, 1, FIRST_ANSWER), self.target.ask(prompt, 1, DEPTH_ANSWER)]
        elif point.kind == "output":
            loads = [self.target.ask([Prompt(OUTPUT_PROMPT, seed)], 1, point.size)]
        elif point.kind == "load":
            plan = self.document.plan
            prompts = [Prompt(plan.prompt, f"{seed}/{index}") for index in range(requests_of(point.size))]
            loads = [self.target.ask(prompts, point.size, plan.answer)]
        elif point.kind == "bandwidth":
            rates = memory_bandwidth(point.size)
        elif self.native is not None:
            rates = self.native.measure(point)
        errors = [asked.error for load in loads for asked in load.asked if asked.error]
        return Sample(
            point=point.key,
            round=round_,
            seconds=time.perf_counter() - begin,
            other_work=round(others.share(), 3) if self.native is not None else None,
            loads=loads,
            rates=rates,
            error=errors[0] if errors else None,
        )


def _advance(bar: tqdm[None], seconds: float) -> None:
    """Move the bar on by the expected cost, so that the time left follows how far expectations were off."""
    bar.update(min(seconds, (bar.total or 0) - bar.n))
