"""What the engine's own instrumentation costs: its recording functions, timed where a running engine calls them.

Every function that the engine records with is wrapped, a real engine answers chats, and what each thread spent in them
is set against the time the engine was busy. Nothing is imitated: which functions run, and how often, is the engine's
own doing. Sums of a few machine instructions between those calls (`+= 1`) are not seen.
"""

from __future__ import annotations

import importlib
import statistics
import threading
from array import array
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from bench.rates import random_tokens
from engine import Counters, Engine, EngineSettings, Request, SamplingParams, Timings, clock
from engine.timings import Course
from llama_native import Model

#: Tokens of a `chat` prompt.
PROMPT: Final = 45

_ENGINE: Final = importlib.import_module("engine.engine")

#: Where the recording functions are. `begin_step` is called by the engine's thread alone.
RECORDING: Final = (
    (Counters, ("begin_step", "add_step", "end_step")),
    (Course, ("token", "sampled", "end")),
    (Timings, ("lap",)),
    (_ENGINE, ("clock",)),
)


@dataclass
class Watched:
    """Seconds of each call, by function and thread."""

    calls: dict[tuple[str, int], array[float]] = field(default_factory=lambda: defaultdict(lambda: array("d")))

    @property
    def engine_thread(self) -> int:
        """Identity of the engine's thread. Raises ValueError when no engine ran."""
        (found,) = {thread for name, thread in self.calls if name == "begin_step"}
        return found

    def seconds(self, *, engine: bool) -> float:
        """Time that the engine's thread, or all others together, spent recording.

        Of each function the median call counts for all: in a few of them the thread lost the processor or the GIL.
        """
        return sum(
            len(each) * statistics.median(each)
            for (_, thread), each in self.calls.items()
            if (thread == self.engine_thread) is engine
        )


@contextmanager
def watching() -> Iterator[Watched]:
    """Time every recording function of all engines in this process, one reading of the clock included."""
    watched = Watched()
    before = [(owner, name, getattr(owner, name)) for owner, names in RECORDING for name in names]
    try:
        for owner, name, function in before:
            setattr(owner, name, _timed(name, function, watched))
        yield watched
    finally:
        for owner, name, function in before:
            setattr(owner, name, function)


def _timed(name: str, function: Callable[..., Any], watched: Watched) -> Callable[..., Any]:
    def call(*arguments: Any) -> Any:
        begin = clock()
        result = function(*arguments)
        seconds = clock() - begin
        watched.calls[name, threading.get_ident()].append(seconds)
        return result

    return call


@dataclass(frozen=True, slots=True)
class EngineCost:
    """Seconds of recording in the engine's thread and in those that take tokens, and how long the engine was busy."""

    recording: float
    answering: float
    busy: float
    steps: int
    tokens: int

    @property
    def share(self) -> float:
        """Share of the engine's time that recording takes: of its output rate, as it decodes one step after another."""
        return self.recording / self.busy


def engine_cost(model: Model, threads: int, clients: int, max_tokens: int) -> EngineCost:
    """Let `clients` chats of `max_tokens` tokens each run at once. Raises what `Engine` raises."""
    with watching() as watched:
        engine = Engine(model, EngineSettings(threads=threads, parallel=clients, context=1024, calibrate=False))
        engine.start()
        try:

            def chat(number: int) -> None:
                prompt = random_tokens(model, PROMPT, number)
                request = Request(prompt, max_tokens, SamplingParams(temperature=0), ignore_eos=True)
                with engine.submit(request) as generation:
                    for _ in generation:
                        pass

            with ThreadPoolExecutor(clients, thread_name_prefix="client") as pool:
                list(pool.map(chat, range(clients)))
            counters = engine.stats().counters
        finally:
            engine.close()
    return EngineCost(
        watched.seconds(engine=True),
        watched.seconds(engine=False),
        counters.busy_seconds,
        counters.steps,
        counters.generated_tokens,
    )
