"""The engine: one thread that owns the llama context and turns submitted requests into tokens.

    submit -> waiting -> admitted to a sequence -> prefill in chunks -> one token a step -> finished

A step is: take in new requests and cancellations, admit, plan, one call into llama.cpp (decode and sample for all
sequences), hand the tokens out. Other threads reach the engine through `submit`, `Generation.cancel` and `stats` only.
Knows token ids; knows nothing of text, JSON or HTTP.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from engine.batching import fill
from engine.calibration import apply, calibrate
from engine.constraint import Constraints, MaskTable
from engine.errors import EngineError, EngineStopped, GenerationFailed, QueueFull
from engine.generation import LENGTH, STOP, End, Generation, GenerationGroup, Inbox, TokenLogprobs
from engine.kv import KVCache
from engine.logprobs import prompt_logprobs, token_logprobs
from engine.pace import Pace
from engine.plan import grain, make_context, make_plan, warm_up
from engine.request import Request
from engine.sampling import make_sampler
from engine.scheduler import Run, Scheduler, Step
from engine.settings import EngineSettings
from engine.stats import Counters, EngineStats
from engine.timings import clock
from llama_native import Batch, DecodeError, Model, Outbox, Sampler, TokenQueue, release_compute_threads

log = logging.getLogger(__name__)

#: How long `close` lets the step under way finish before it breaks it off, and then waits for that.
GRACE_SECONDS: Final = 0.5
ABORT_SECONDS: Final = 1.0


class Engine:
    """Runs requests on one model. Create it, `start` it, `submit` from any thread, `close` it.

    Creation resolves the settings, by measurement where they leave something open (see `engine.calibration`), which
    takes seconds the first time; `should_stop` is asked now and then whether to give up, with `EngineStopped`. Raises
    `InvalidRequest` for settings that cannot be right for the model, and
    `llama_native.ContextError` if the context cannot be made.
    """

    def __init__(
        self,
        model: Model,
        settings: EngineSettings | None = None,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        settings = settings or EngineSettings()
        plan = make_plan(model, settings)
        self.model = model
        self.calibration = calibrate(model, settings, plan, should_stop) if settings.calibrate else None
        if self.calibration is not None:
            plan = apply(plan, self.calibration.chosen)
        self.plan = plan
        self._native = make_context(model, plan)
        cuttable = not (model.is_recurrent or model.is_hybrid)
        self._kv = KVCache(self._native, plan.context, unified=plan.unified, cuttable=cuttable)
        prefill_token = self.calibration.chosen.prefill_token if self.calibration else 0.0
        self._pace = Pace(plan.step_seconds, plan.largest_chunk, prefill_token, grain(model, plan))
        #: How long the first steps took: a measure of how slow this model is here.
        self.warm_up_seconds = warm_up(self._native, plan.context)
        release_compute_threads()  # those of this thread; the engine's own computes from now on
        self._scheduler = Scheduler(self._kv, self._pace, self._native.n_batch, plan.queue_timeout)
        self._batch = Batch(self._native.n_batch)
        self._outbox = Outbox()  # what a step gives, sent at its end
        self._masks = MaskTable(self._native.n_seq_max, model.vocab.n_tokens)
        #: Compiles the grammars of requests.
        self.constraints = Constraints(model.vocab)
        self._counters = Counters()
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._submitted: deque[tuple[Generation, Sampler | None]] = deque()
        self._samplers: dict[Generation, Sampler | None] = {}
        self._left: deque[tuple[Generation, bool]] = deque()
        self._closing = False
        self._turns = 0
        self._idle = True
        #: What ended the engine thread, if it was not `close`.
        self.failure: BaseException | None = None
        self._thread = threading.Thread(target=self._main, name="engine", daemon=True)

    def start(self) -> None:
        """Start the engine thread."""
        self._thread.start()

    def close(self) -> None:
        """Stop: whatever runs or waits ends with `EngineStopped`, the context is freed. May be called twice.

        A step that cannot be broken off is left alone; it keeps the context until it ends.
        """
        with self._lock:
            self._closing = True
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join(GRACE_SECONDS)
            if self._thread.is_alive():
                self._native.abort()
                self._thread.join(ABORT_SECONDS)
            if self._thread.is_alive():
                self._end_all()
        self._native.close()

    def give_up(self, failure: EngineError) -> None:
        """End whatever runs or waits, and take no more, although the engine thread does not come round. Any thread."""
        log.critical("the engine is given up: %s", failure)
        self.failure = self.failure or failure
        self._native.abort()
        self._end_all()

    @property
    def turn(self) -> int | None:
        """Which turn of its loop the engine thread is in; None while there is nothing to do.

        If it stays the same, the thread is stuck, or in a long step.
        """
        return self._turns if self._submitted or not self._idle else None

    @property
    def alive(self) -> bool:
        """The engine thread runs and takes requests."""
        return self._thread.is_alive() and not self._closing

    @property
    def context_size(self) -> int:
        """Most tokens of one request, prompt and answer together."""
        return self._kv.context

    def submit(self, request: Request) -> Generation:
        """Queue a request; returns at once.

        Raises `PromptTooLong`, `InvalidRequest`, `QueueFull`, or `EngineStopped`, before any work is done.
        """
        (generation,) = self.submit_all((request,)).generations
        return generation

    def submit_all(self, requests: Sequence[Request]) -> GenerationGroup:
        """Queue requests that belong together, all of them or none; returns at once. Raises as `submit` does.

        Equal prompts among them are prefilled once, as far as their requests allow the cache.
        """
        inbox: Inbox = TokenQueue()
        submitted: list[tuple[Generation, Sampler | None]] = []
        try:
            for place, request in enumerate(requests):
                request.check(self._kv.context, self.model.vocab.n_tokens)
                sampler = make_sampler(request.sampling, self.model)
                submitted.append((Generation(request, self.model.vocab, self._leave_early, inbox, place), sampler))
            with self._lock:
                if not self.alive:
                    raise EngineStopped("the engine is not running") from self.failure
                self._check_room(len(submitted))
                self._submitted.extend(submitted)
        except EngineError:
            for _, sampler in submitted:
                if sampler is not None:
                    sampler.close()
            raise
        self._wake.set()
        return GenerationGroup([generation for generation, _ in submitted], inbox)

    def check_room(self, count: int) -> None:
        """Raise `QueueFull` if `count` requests would be refused now, so that no work goes into making them."""
        with self._lock:
            self._check_room(count)

    def has_room(self, count: int) -> bool:
        """Whether `count` requests would find a place in the queue now."""
        idle = len(self._kv.sequences) - len(self._scheduler.running)
        return len(self._waiting()) + count <= self.plan.max_queue + idle

    def _check_room(self, count: int) -> None:
        if not self.has_room(count):
            self._counters.rejected += count
            waiting = self._waiting()
            places = len(waiting) + count - self.plan.max_queue
            raise QueueFull(len(waiting), self._scheduler.seconds_until_free(places, waiting))

    def _waiting(self) -> list[Generation]:
        return [generation for generation, _ in list(self._submitted)] + list(self._scheduler.waiting)

    @property
    def most_at_once(self) -> int:
        """Most requests that `submit_all` can ever take, which is when nothing else runs or waits."""
        return self.plan.max_queue + len(self._kv.sequences)

    def stats(self) -> EngineStats:
        """A snapshot for metrics; any thread."""
        waiting = self._waiting()
        return EngineStats(
            running=len(self._scheduler.running),
            waiting=len(waiting),
            oldest_wait=max((clock() - generation.submitted for generation in waiting), default=0.0),
            sequences=len(self._kv.sequences),
            sequences_cached=sum(1 for s in self._kv.sequences if not s.busy and s.length),
            kv_cells=self._kv.cells.total,
            kv_cells_used=self._kv.cells.used,
            kv_cells_busy=min(self._kv.cells.used, sum(s.length for s in self._kv.sequences if s.busy)),
            evictions=self._kv.evictions,
            evicted_tokens=self._kv.evicted_tokens,
            counters=self._counters,
        )

    def _leave_early(self, generation: Generation, complete: bool) -> None:
        """The consumer wants no more: its stop string was found (`complete`), or it cancelled."""
        self._left.append((generation, complete))
        self._wake.set()

    # The engine thread

    def _main(self) -> None:
        try:
            while not self._closing:
                self._idle = False
                self._turns += 1
                self._take_in()
                self._expire()
                self._admit()
                if self._scheduler.running:
                    self._counters.begin_step()
                    self._step(self._scheduler.plan())
                    self._outbox.send()
                    self._counters.end_step()
                else:
                    self._idle = True
                    release_compute_threads()  # for others that compute meanwhile
                    self._wake.wait(self._scheduler.next_expiry())
                self._wake.clear()
        except BaseException as error:
            if self.failure is None:  # else it was given up, and stumbles over what `_end_all` took from it
                self.failure = error
                log.exception("the engine thread died")
        finally:
            self._counters.end_step()
            try:
                self._outbox.send()
            finally:
                self._end_all()

    def _take_in(self) -> None:
        """Move what other threads left into the scheduler's hands."""
        left = len(self._left)  # before the requests, so that whoever is counted here is among those
        while self._submitted:
            generation, sampler = self._submitted.popleft()
            self._samplers[generation] = sampler
            self._scheduler.waiting.append(generation)
        for _ in range(left):
            generation, complete = self._left.popleft()
            if self._drop(generation, None):
                self._counters.finished += complete
                self._counters.cancelled += not complete

    def _expire(self) -> None:
        for generation, error in list(self._scheduler.expired()):
            self._drop(generation, error)
            self._counters.failed += 1

    def _admit(self) -> None:
        now = clock()
        for generation, sequence in self._scheduler.admissible():
            request = generation.request
            room = self._kv.context - generation.prompt_tokens
            most = min(request.max_tokens, room)
            constraint = None if request.constraint is None else request.constraint.start()
            generation.course.admitted = now
            self._scheduler.running.append(Run(generation, sequence, self._samplers[generation], most, constraint))
            self._counters.cached_tokens += generation.cached_tokens

    def _step(self, step: Step) -> None:
        begin = clock()
        runs, rows, scored = fill(self._batch, step)
        filled = clock()
        samplers = [run.sampler for run in runs]
        masks = self._masks.compute([(run.constraint, run.sequence.id) for run in runs])
        masked = clock()
        try:
            result = self._native.step(self._batch, rows, samplers, masks)
        except DecodeError as error:
            self._fail(step, error)
            return
        done = clock()
        for run, row, count in scored:
            run.generation.put(prompt_logprobs(self._native, run, row, count), self._outbox)
        for run in step.decode:
            self._kv.computed_one(run.sequence, run.token)
        for run, count in step.prefill:
            start = run.sequence.length
            self._kv.computed(run.sequence, run.generation.request.prompt[start : start + count])
        sampling_seconds = masked - filled + result.sampling_seconds
        share = sampling_seconds / len(runs) if runs else 0.0
        for place, (run, row, token) in enumerate(zip(runs, rows, result.tokens, strict=True)):
            if token < 0:
                too_complex = None if run.constraint is None else run.constraint.failure
                self._break_off(
                    run, too_complex or GenerationFailed(f"no token can be sampled: {result.failures[place]}")
                )
            else:
                self._hand_out(run, row, token, done, share)
        counters = self._counters
        counters.add_step(len(step.decode), step.prefill_tokens, done - begin, result.decode_seconds, sampling_seconds)
        if not scored:  # their rows of logits take time that other prompts do not
            self._pace.observe(len(step.decode), step.prefill_tokens, done - begin)

    def _hand_out(self, run: Run, row: int, token: int, now: float, sampling_seconds: float) -> None:
        """Give a run its new token, and end it where that was the last."""
        generation, course, constraint = run.generation, run.generation.course, run.constraint
        if run.max_tokens == 0:
            course.sampled(sampling_seconds)
            self._finish(run, LENGTH, now)
            return
        if token in self.model.vocab.eog_tokens and (constraint is not None or not generation.request.ignore_eos):
            course.sampled(sampling_seconds)
            k = generation.request.sampling.logprobs
            self._finish(run, STOP, now, None if k is None else token_logprobs(self._native, row, token, k))
            return
        course.token(now, sampling_seconds)
        run.token = token
        run.made += 1
        self._counters.generated_tokens += 1
        k = generation.request.sampling.logprobs
        if k is None:
            generation.put(token, self._outbox)
        else:
            generation.put(token_logprobs(self._native, row, token, k), self._outbox)
        if constraint is not None:
            constraint.accept(token)
            if constraint.complete:
                self._finish(run, STOP, now)
                return
        if run.made >= run.max_tokens:
            self._finish(run, LENGTH, now)

    def _finish(self, run: Run, finish_reason: str, now: float, token: TokenLogprobs | None = None) -> None:
        self._kv.release(run.sequence)
        self._retire(run)
        self._counters.finished += 1
        run.generation.course.end(now)
        run.generation.put(End(finish_reason, token=token), self._outbox)

    def _retire(self, run: Run) -> None:
        """Take a run off the books; its sequence has been dealt with."""
        self._scheduler.running.remove(run)
        self._forget(run.generation)

    def _forget(self, generation: Generation) -> None:
        sampler = self._samplers.pop(generation, None)
        if sampler is not None:
            sampler.close()

    def _drop(self, generation: Generation, error: EngineError | None) -> bool:
        """End a waiting or running request early; what it computed stays as cache. False if it was over already."""
        if generation not in self._samplers:
            return False
        if generation in self._scheduler.waiting:
            self._scheduler.waiting.remove(generation)
            self._forget(generation)
        else:
            run = next(run for run in self._scheduler.running if run.generation is generation)
            self._kv.release(run.sequence)
            self._retire(run)
        generation.course.end(clock())
        generation.put(End(error=error))
        return True

    def _fail(self, step: Step, error: DecodeError) -> None:
        """llama.cpp refused or broke off a step: end those in it, keep the rest."""
        if self._closing:
            return
        log.error("a step of %d + %d tokens failed: %s", len(step.decode), step.prefill_tokens, error)
        for run in step.decode + [run for run, _ in step.prefill]:
            self._break_off(run, GenerationFailed(f"llama.cpp failed: {error}"))

    def _break_off(self, run: Run, error: EngineError) -> None:
        """End a run whose sequence may hold anything now."""
        self._kv.discard(run.sequence)
        self._retire(run)
        self._counters.failed += 1
        run.generation.course.end(clock())
        run.generation.put(End(error=error), self._outbox)

    def _end_all(self) -> None:
        """Nobody may be left waiting for a token that never comes. Any thread."""
        with self._lock:
            self._closing = True
            for generation, sampler in list(self._submitted):  # the engine thread may be taking them
                self._samplers[generation] = sampler
        reason = f"the engine failed: {self.failure}" if self.failure else "the engine was stopped"
        for generation in list(self._samplers):
            error = EngineStopped(reason)
            error.__cause__ = self.failure
            generation.course.end(clock())
            with contextlib.suppress(MemoryError):  # the others are to hear of it
                generation.put(End(error=error))
            self._forget(generation)
