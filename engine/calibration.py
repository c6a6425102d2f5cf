"""Finds the fastest configuration for this model on this host, once, and remembers it.

What is fastest differs from host to host: flash attention halves decode on one CPU and doubles prefill on the next.
So the engine measures what the settings leave open: flash attention on or off, the KV layout, the number of threads
for decode and for batches, and the chunk size. The answer is kept in the user's cache folder, per model file, library
build, processor and settings; delete the file to measure again.

Knows plans and seconds. `engine.probe` does the timing, `engine.calibration_cache` the remembering.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from engine import calibration_cache as cache
from engine.errors import EngineStopped
from engine.host_load import OtherWork
from engine.plan import Plan, make_context, needs_flash_attention, offloads
from engine.probe import CELLS, LEAD, PIECES, Probe
from engine.settings import EngineSettings, Layout, Switch
from engine.timings import clock
from llama_native import ContextError, LlamaError, Model, available_cpus, build_info, devices

log = logging.getLogger(__name__)

#: The request that the choice optimises: tokens of its prompt, and of its answer alone and in full company.
PROMPT_TOKENS: Final = 256
ANSWER_TOKENS: Final = 64

#: Flash attention is kept unless its absence is faster by more than this: it saves memory, takes every type of KV
#: cache, and gains with short contexts what it loses with long ones, so that a near tie has no other side to take.
ATTENTION_MARGIN: Final = 0.02

#: The unified layout is taken if it is faster by more than this: in streams, our kernels give answers that are the same
#: bits in any company.
LAYOUT_MARGIN: Final = 0.02

#: Other numbers of threads are taken if they are faster by more than this; less is noise.
THREADS_MARGIN: Final = 0.02

#: Chunk sizes tried, and the seconds this may take.
CHUNKS: Final = (64, 128, 256, 512)
CHUNK_BUDGET: Final = 1.5

#: A smaller chunk is taken if it prefills at this share of the best speed: it keeps steps short at no cost.
CHUNK_TOLERANCE: Final = 0.95

#: Size of the chunks that compare prefill. On CPUs that of steps with running streams (llama.cpp's flash attention
#: needs 64 rows for its fast path); on a GPU small ones would time little but the start of its kernels.
CHUNK: Final = 64
CHUNK_ON_GPU: Final = 256

#: Seconds that the prefill of one candidate may take; slower models are probed with shorter prompts.
PREFILL_BUDGET: Final = 3.0

#: Turns that every candidate gets at each depth.
ROUNDS: Final = 2

#: After so many seconds nothing is begun any more but what a choice cannot do without: one turn for each candidate that
#: is being compared. The demo model needs less; one that takes seconds a step is not worth minutes.
ENOUGH: Final = 12.0

#: A measurement is not remembered if other work took a larger share of the processors.
DISTURBED: Final = 0.15


@dataclass(frozen=True, slots=True)
class Candidate:
    """One configuration and what was measured with it, in seconds."""

    flash_attention: bool
    unified: bool
    threads: int
    threads_batch: int
    chunk: int
    prefill_token: float
    decode_one: float
    decode_all: float
    parallel: int

    @property
    def cost(self) -> float:
        """Seconds of the reference request: its prefill, its answer decoded alone, and in full company."""
        decode = self.decode_one + self.decode_all / self.parallel
        return PROMPT_TOKENS * self.prefill_token + ANSWER_TOKENS * decode

    def __str__(self) -> str:
        """One line for the log."""
        return (
            f"flash attention {'on' if self.flash_attention else 'off'}, {'unified' if self.unified else 'streams'}, "
            f"{self.threads} + {self.threads_batch} threads: prefill {1 / self.prefill_token:.0f} tok/s, decode "
            f"{1 / self.decode_one:.0f} tok/s alone, {self.parallel / self.decode_all:.0f} tok/s of {self.parallel}"
        )


@dataclass(frozen=True, slots=True)
class Calibration:
    """The chosen configuration, all candidates, and how long measuring took."""

    chosen: Candidate
    candidates: tuple[Candidate, ...]
    seconds: float
    cached: bool
    """Read from the cache folder instead of measured now."""


def calibrate(
    model: Model,
    settings: EngineSettings,
    plan: Plan,
    should_stop: Callable[[], bool] = lambda: False,
    *,
    remembered: bool = True,
) -> Calibration | None:
    """Measure what `settings` leave open, or take the answer of an earlier measurement if `remembered` allows it.

    None where nothing can be measured: for models whose memory cannot be cut back after each trial step (recurrent and
    hybrid ones), and where llama.cpp fails at all of it; the plan's defaults stand then. Raises `EngineStopped` soon
    after `should_stop` says so.
    """
    if model.is_recurrent or model.is_hybrid:
        return None
    path = cache.path_for(cache_key(model, settings, plan))
    known = _known(cache.read(path)) if remembered else None
    if known is not None:
        return known
    log.info("measuring what is fastest on this host (some seconds, once)")
    begin, others = clock(), OtherWork()
    try:
        candidates = measure(model, settings, plan, should_stop)
    except LlamaError as error:
        log.warning("this host cannot be measured (%s); defaults are used", error)
        return None
    disturbed = (share := others.share()) > DISTURBED
    best = choose(candidates, plan, disturbed)
    result = Calibration(best, tuple(candidates), clock() - begin, cached=False)
    for item in candidates:
        log.info("%s%s", item, " (chosen)" if item is best else "")
    if disturbed:
        log.warning(
            "other work took %.0f%% of the processors meanwhile; KV layout, threads and flash attention that "
            "is on keep their defaults, and all is measured again next time",
            100 * share,
        )
    else:
        cache.write(path, asdict(result))
    return result


def choose(candidates: Sequence[Candidate], plan: Plan, disturbed: bool) -> Candidate:
    """The fastest candidate; where other work disturbed the measurement, of those with the plan's layout and threads.

    Of all, if there was no time to measure one of those.
    Both are right by default nearly everywhere, and other work favours fewer threads while it lasts. So is flash
    attention where the plan has it: by a kernel of our own, or on a GPU.
    """
    usual = (plan.unified, plan.threads, plan.threads_batch)
    trusted = [
        it
        for it in candidates
        if (it.unified, it.threads, it.threads_batch) == usual and it.flash_attention >= plan.flash_attention
    ]
    return min(trusted if disturbed and trusted else candidates, key=_cost)


def _known(data: dict[str, Any] | None) -> Calibration | None:
    """An earlier answer; None if `data` does not hold one."""
    if data is None:
        return None
    try:
        candidates = tuple(Candidate(**item) for item in data["candidates"])
        return Calibration(Candidate(**data["chosen"]), candidates, float(data["seconds"]), cached=True)
    except (KeyError, TypeError, ValueError):
        return None


def cache_key(model: Model, settings: EngineSettings, plan: Plan) -> dict[str, object]:
    """All that the answer depends on: model file, library build, processors, settings, and the method."""
    file, params = model.path.stat(), model.params
    return {
        "model": [str(model.path.resolve()), file.st_size, file.st_mtime_ns],
        "placement": [params.n_gpu_layers, params.main_gpu, params.split_mode, params.tensor_split],
        "kernels": params.kernels,
        "build": build_info(),
        "devices": [(device.name, device.description) for device in devices()],
        "cpus": available_cpus(),
        "settings": [settings.threads, settings.flash_attention, settings.kv_layout, plan.parallel, plan.kv_type.name],
        "method": [
            PROMPT_TOKENS,
            ANSWER_TOKENS,
            CHUNK_TOLERANCE,
            ATTENTION_MARGIN,
            LAYOUT_MARGIN,
            THREADS_MARGIN,
            CELLS,
            *PIECES,
            CHUNK,
            *CHUNKS,
        ],
    }


def apply(plan: Plan, chosen: Candidate) -> Plan:
    """The plan with the chosen configuration."""
    return replace(
        plan,
        flash_attention=chosen.flash_attention,
        unified=chosen.unified,
        threads=chosen.threads,
        threads_batch=chosen.threads_batch,
        largest_chunk=chosen.chunk,
    )


def attention_choices(settings: EngineSettings, plan: Plan) -> list[bool]:
    """Whether flash attention may be off, on, or both."""
    if settings.flash_attention is Switch.AUTO and not needs_flash_attention(plan.kv_type):
        return [False, True]
    return [plan.flash_attention]


def layout_choices(settings: EngineSettings, plan: Plan) -> list[bool]:
    """Whether the unified layout may be off, on, or both; the first is tried first."""
    return [False, True] if settings.kv_layout is Layout.AUTO and plan.parallel > 1 else [plan.unified]


def thread_choices(settings: EngineSettings, plan: Plan) -> list[int]:
    """Thread counts worth trying: all processors, and half of them, as hyper-threads share their execution units."""
    if settings.threads:
        return [settings.threads]
    return sorted({plan.threads, max(1, plan.threads // 2)}, reverse=True)


def measure(
    model: Model, settings: EngineSettings, plan: Plan, should_stop: Callable[[], bool] = lambda: False
) -> list[Candidate]:
    """Time the combinations worth trying: attention in one layout, the other layout, numbers of threads, chunk sizes.

    Those compared take turns at each measurement, so that a slow moment of the host meets all of them.
    What `ENOUGH` leaves no time for keeps the plan's value; chunks keep the size that they were timed with. Raises
    `LlamaError` if llama.cpp refuses every combination.
    """
    begin = clock()

    def enough() -> bool:
        return clock() - begin > ENOUGH

    first, *others = layout_choices(settings, plan)
    with ExitStack() as contexts:

        def probes(choices: Iterable[tuple[bool, bool]]) -> list[Probe]:
            made = []
            for flash, unified in choices:
                try:
                    context = contexts.enter_context(make_context(model, trial_plan(plan, flash, unified)))
                except ContextError as error:
                    log.info("flash attention %s, unified %s: not possible here: %s", flash, unified, error)
                else:
                    made.append(Probe(context, flash, unified, CHUNK_ON_GPU if offloads(model) else CHUNK))
            return made

        tried = probes((flash, first) for flash in attention_choices(settings, plan))
        if not tried:
            raise ContextError("llama.cpp refuses every combination of flash attention and KV layout that is allowed")
        time_all(tried, should_stop, enough)
        best = min(tried, key=lambda probe: _cost(candidate(plan, probe)))
        rivals = [] if enough() else probes((best.flash_attention, unified) for unified in others)
        if rivals:
            time_all(rivals, should_stop, enough, beside=[best])
        # one that there was no time to see at every depth is not known to be better
        everyone = tried + [rival for rival in rivals if rival.best.keys() == best.best.keys()]
        winner = min(everyone, key=lambda probe: _cost(candidate(plan, probe)))
        chunk = winner.chunk_size if enough() else best_chunk(winner, plan)
        found = [replace(candidate(plan, probe), chunk=chunk) for probe in everyone]
        if enough():
            return found
        return found + _threads(settings, plan, winner, found[everyone.index(winner)])


def time_all(
    probes: Sequence[Probe],
    should_stop: Callable[[], bool],
    enough: Callable[[], bool],
    beside: Sequence[Probe] = (),
) -> None:
    """Time everything at each depth; slow models stay at the first. Those `beside` have got to the last one already."""
    budget = PREFILL_BUDGET * len(probes)
    slowest = max(probe.lead() for probe in probes) / LEAD
    for size in PIECES:
        if size > min(PIECES) and (enough() or size * slowest * len(probes) > budget):
            break
        for probe in probes:
            budget -= probe.prefill(size)
            probe.spread()
        take_turns([*beside, *probes] if size == max(PIECES) else probes, should_stop, enough)


def take_turns(probes: Sequence[Probe], should_stop: Callable[[], bool], enough: Callable[[], bool]) -> None:
    """Time all probes at their depth, in turn."""
    for turn in range(ROUNDS):
        if turn and enough():
            return
        for probe in probes:
            if should_stop():
                raise EngineStopped("stopped while measuring")
            probe.measure()


def best_chunk(probe: Probe, plan: Plan) -> int:
    """The smallest chunk that prefills about as fast as any, of those that can be timed in `CHUNK_BUDGET` seconds."""
    seconds: dict[int, float] = {}
    for size in CHUNKS:
        if seconds and sum(seconds.values()) + size * min(seconds[s] / s for s in seconds) > CHUNK_BUDGET:
            break
        seconds[size] = probe.chunk(size)
    fastest = min(taken / size for size, taken in seconds.items())
    good = [size for size, taken in seconds.items() if taken / size * CHUNK_TOLERANCE <= fastest]
    return min(good) if good else plan.largest_chunk


def _threads(settings: EngineSettings, plan: Plan, probe: Probe, best: Candidate) -> list[Candidate]:
    """The best combination with other numbers of threads, chosen apart for single tokens and for batches."""
    result: list[Candidate] = []
    for count in thread_choices(settings, plan):
        if count == plan.threads:
            continue
        seconds: dict[int, list[tuple[float, float, float]]] = {plan.threads: [], count: []}
        for _ in range(ROUNDS):
            for threads, times in seconds.items():
                probe.context.set_threads(threads, threads)
                times.append((probe.step(1), probe.step(plan.parallel), probe.chunk(probe.chunk_size)))
        one, together, chunk = (
            min(times[i] for times in seconds[count]) / min(times[i] for times in seconds[plan.threads])
            for i in range(3)
        )
        batches = replace(
            best,
            threads_batch=count,
            prefill_token=best.prefill_token * chunk,
            decode_all=best.decode_all * together,
        )
        better = batches if _cost(batches) < _cost(best) * (1 - THREADS_MARGIN) else best
        if one < 1 - THREADS_MARGIN:
            better = replace(better, threads=count, decode_one=best.decode_one * one)
        if better is not best:
            result.append(better)
    return result


def trial_plan(plan: Plan, flash: bool, unified: bool) -> Plan:
    """The plan with this combination and the cells that probing needs."""
    return replace(plan, flash_attention=flash, unified=unified, context=CELLS, kv_cells=CELLS * plan.parallel)


def candidate(plan: Plan, probe: Probe) -> Candidate:
    """What a probe has measured, with the plan's threads and chunk."""
    return Candidate(
        flash_attention=probe.flash_attention,
        unified=probe.unified,
        threads=plan.threads,
        threads_batch=plan.threads_batch,
        chunk=plan.largest_chunk,
        prefill_token=probe.prefill_token,
        decode_one=probe.decode_one,
        decode_all=probe.decode_all,
        parallel=plan.parallel,
    )


def _cost(candidate: Candidate) -> float:
    margin = LAYOUT_MARGIN if candidate.unified else 0.0
    return candidate.cost * (1 + margin) * (1.0 if candidate.flash_attention else 1 + ATTENTION_MARGIN)
