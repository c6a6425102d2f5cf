"""Decides what the next step computes: who is admitted, who decodes, whose prompt gets how many tokens of prefill.

Every running stream gets its token in every step; prompts share what is left of the step's time. Admission is first
come, first served, with one exception: a request whose prefix another one is computing right now waits for it and
lets others pass, as they take nothing from it.

Knows requests, sequences and counts; runs in the engine thread only; never touches llama.cpp except through `KVCache`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from heapq import heapify, heappop, heapreplace

from engine.constraint import ConstraintState
from engine.errors import DeadlineExceeded, EngineError, QueueTimeout
from engine.generation import Generation
from engine.kv import KVCache, Placement, Sequence
from engine.pace import Pace
from engine.plan import SCORED_TOKENS
from engine.request import Request
from engine.timings import clock
from llama_native import Sampler


@dataclass(slots=True, eq=False)
class Run:
    """A request while it occupies a sequence."""

    generation: Generation
    sequence: Sequence
    sampler: Sampler | None
    """None takes the most probable token, without a sampler chain."""
    max_tokens: int
    """Answer tokens that may be made, after the context's limit."""
    constraint: ConstraintState | None = None
    """What the next token may be; None allows all."""
    token: int = -1
    """The newest token: chosen, but not yet in the KV cache; -1 while the prompt is being prefilled."""
    made: int = 0
    """Answer tokens chosen so far."""

    @property
    def prefilling(self) -> bool:
        """The prompt is not wholly in the cache yet."""
        return self.token < 0

    @property
    def scores(self) -> bool:
        """Every token of the prompt gets logits."""
        return self.generation.request.prompt_logprobs is not None

    @property
    def needed(self) -> int:
        """KV cells it may still take: the rest of its prompt and every token that it may make."""
        return self.generation.prompt_tokens + self.max_tokens - self.sequence.length

    @property
    def remaining(self) -> int:
        """Prompt tokens still to be computed."""
        return self.generation.prompt_tokens - self.sequence.length


@dataclass(slots=True)
class Step:
    """What one call of `llama_decode` computes."""

    decode: list[Run] = field(default_factory=list)
    prefill: list[tuple[Run, int]] = field(default_factory=list)
    """(run, how many of its prompt tokens)"""

    @property
    def prefill_tokens(self) -> int:
        """Prompt tokens in this step."""
        return sum(count for _, count in self.prefill)


class Scheduler:
    """The waiting and the running requests of one engine."""

    def __init__(self, kv: KVCache, pace: Pace, max_batch: int, queue_timeout: float) -> None:
        """`max_batch` bounds the tokens of one step; `queue_timeout` is in seconds."""
        self.waiting: deque[Generation] = deque()
        self.running: list[Run] = []
        self._kv = kv
        self._pace = pace
        self._max_batch = max_batch
        self._queue_timeout = queue_timeout

    def admissible(self) -> Iterator[tuple[Generation, Sequence]]:
        """Move waiting requests into free sequences, as many as can start now; yield each with its sequence.

        The caller makes a `Run` of every pair and adds it to `running`.
        """
        for generation in list(self.waiting):
            request = generation.request
            placement = self._kv.place(request.prompt, request.may_reuse)
            if placement is None:
                return
            if placement.awaited:
                continue
            placement = self._with_room(placement, request)
            if placement is None:
                return  # those behind would only take the room that this one waits for
            self.waiting.remove(generation)
            generation.cached_tokens = self._kv.occupy(placement, request.prompt)
            yield generation, placement.target

    def plan(self) -> Step:
        """Fill the next step: every stream's token, then prompts, those due first, within the step's time.

        With a stream of cells for each sequence, llama.cpp computes one row of each of neighbouring sequences together
        and what more they have afterwards. So beside streams every prompt gets one token in each step, lest its
        sequence be a gap that splits them, and pieces of prompts come on top of that.
        """
        step = Step()
        step.decode = sorted((run for run in self.running if not run.prefilling), key=_sequence_id)
        prefilling = sorted((run for run in self.running if run.prefilling), key=self._due)
        if prefilling:
            row = 1 if step.decode and not self._kv.unified else 0
            room = self._max_batch - len(step.decode) - row * len(prefilling)
            budget = min(self._pace.chunk(len(step.decode)), room)
            scored = SCORED_TOKENS
            for place, run in enumerate(prefilling):
                piece = self._pace.piece(run.remaining - row, budget, first=place == 0)
                if run.scores:
                    piece = max(0, min(piece, scored - row))
                    scored -= min(row + piece, scored)
                budget = max(0, budget - piece)
                if row + piece > 0:
                    step.prefill.append((run, row + piece))
            step.prefill.sort(key=lambda item: item[0].sequence.id)
        return step

    def _due(self, run: Run) -> float:
        """When this prompt would be computed if it had been alone since it was submitted.

        So a short prompt overtakes a long one that came before it, and none waits for ever: all that come later than
        it is due are due later still.
        """
        generation = run.generation
        return generation.submitted + self._pace.prefill_seconds(generation.prompt_tokens - generation.cached_tokens)

    def expired(self) -> Iterator[tuple[Generation, EngineError]]:
        """Every request past its queue time or its own deadline, with the error to give it."""
        now = clock()
        retry = None
        for generation in self.waiting:
            waited = now - generation.submitted
            if waited > self._queue_timeout:
                retry = retry or self.seconds_until_free(len(self.waiting), self.waiting)
                yield generation, QueueTimeout(waited, retry)
            elif _overdue(generation, now):
                yield generation, DeadlineExceeded(generation.request.timeout or 0.0)
        for run in self.running:
            if _overdue(run.generation, now):
                yield run.generation, DeadlineExceeded(run.generation.request.timeout or 0.0)

    def next_expiry(self) -> float | None:
        """Seconds until the first waiting request runs out of time; None when none waits."""
        if not self.waiting:
            return None
        now = clock()
        return max(
            0.0, min(g.submitted + min(self._queue_timeout, g.request.timeout or 1e9) - now for g in self.waiting)
        )

    def seconds_until_free(self, places: int, waiting: Iterable[Generation]) -> float:
        """Estimated seconds until `places` sequences have come free, of which `waiting` take the first; at least 1.

        Every request is taken to make all the tokens that it may, and to find nothing in the cache. Any thread may ask.
        """
        running = list(self.running)  # the engine thread changes it meanwhile
        sizes = [(g.prompt_tokens, min(g.request.max_tokens, self._kv.context - g.prompt_tokens)) for g in waiting]
        sequences = len(self._kv.sequences)
        token = self._pace.decode_seconds(min(sequences, len(running) + len(sizes)))
        prompts = self._pace.prefill_seconds(sum(run.remaining for run in running if run.prefilling))
        free = [prompts + (run.max_tokens - run.made) * token for run in running]
        free += [0.0] * (sequences - len(running))
        heapify(free)
        when = 0.0
        for place in range(places):
            when = free[0]
            if place < len(sizes):
                prompt, answer = sizes[place]
                heapreplace(free, when + self._pace.prefill_seconds(prompt) + answer * token)
            elif len(free) > 1:
                heappop(free)
        return max(1.0, when)

    def _with_room(self, placement: Placement, request: Request) -> Placement | None:
        """Make sure that the request can run to its end without taking a cell from a running one.

        Evicts idle sequences for it. None if it has to wait.
        """
        total = min(request.prompt.size + request.max_tokens, self._kv.context)
        if self._kv.make_room(placement, total + self._reserved()):
            return placement
        if placement.source is not placement.target and not placement.source.busy:
            # the prefix cannot be kept twice: go on in place, at the price of the rest of that conversation
            in_place = Placement(placement.source, placement.source, placement.reuse)
            if self._kv.make_room(in_place, total + self._reserved()):
                return in_place
        return None

    def _reserved(self) -> int:
        """Cells that the running requests may still take."""
        return sum(run.needed for run in self.running)


def _sequence_id(run: Run) -> int:
    return run.sequence.id


def _overdue(generation: Generation, now: float) -> bool:
    timeout = generation.request.timeout
    return timeout is not None and now - generation.submitted > timeout
