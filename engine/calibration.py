"""Finds the fastest configuration for this model on this host, once, and remembers it.

What is fastest differs from host to host: flash attention halves decode on one CPU and doubles prefill on the next.
So the engine measures what the settings leave open: flash attention on or off, the KV layout, the number of threads
for decode and for batches, and the chunk size. The answer is kept in the user's cache folder, per model file, library
build, processor and settings; delete the file to measure again.

Knows plans and seconds. `engine.probe` does the timing.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from engine.plan import Plan, make_context
from engine.probe import LEAD, PIECES, Probe
from engine.settings import EngineSettings, Layout, Switch
from engine.timings import clock
from llama_native import ContextError, Model, build_info

log = logging.getLogger(__name__)

#: The request that the choice optimises: tokens of its prompt, and of its answer alone and in full company.
PROMPT_TOKENS: Final = 256
ANSWER_TOKENS: Final = 64

#: A smaller chunk is taken if it prefills at this share of the best speed: it keeps steps short at no cost.
CHUNK_TOLERANCE: Final = 0.95

#: Seconds that the prefill of one candidate may take; slower models are probed with shorter prompts.
PREFILL_BUDGET: Final = 3.0

#: Share of the processor time that a measurement must have got to be remembered. Waiting at barriers costs some.
UNDISTURBED: Final = 0.7

#: Turns that every candidate gets at decoding.
ROUNDS: Final = 3

#: Cells per sequence while probing.
PROBE_CONTEXT: Final = 512


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


@dataclass(frozen=True, slots=True)
class Calibration:
    """The chosen configuration, all candidates, and how long measuring took."""

    chosen: Candidate
    candidates: tuple[Candidate, ...]
    seconds: float
    cached: bool
    """Read from the cache folder instead of measured now."""


def calibrate(model: Model, settings: EngineSettings, plan: Plan, *, remembered: bool = True) -> Calibration:
    """Measure what `settings` leave open, or take the answer of an earlier measurement if `remembered` allows it."""
    path = cache_path(model, settings, plan)
    known = _read(path) if remembered else None
    if known is not None:
        return known
    log.info("measuring what is fastest on this host (some seconds, once)")
    begin, cpu_begin = clock(), time.process_time()
    candidates = measure(model, settings, plan)
    best = min(candidates, key=_cost)
    seconds = clock() - begin
    for item in candidates:
        log.info(
            "flash attention %s, %s, %d + %d threads: prefill %.0f tok/s, decode %.0f tok/s alone, %.0f tok/s of %d%s",
            "on" if item.flash_attention else "off",
            "unified" if item.unified else "streams",
            item.threads,
            item.threads_batch,
            1 / item.prefill_token,
            1 / item.decode_one,
            item.parallel / item.decode_all,
            item.parallel,
            " (chosen)" if item is best else "",
        )
    result = Calibration(best, tuple(candidates), seconds, cached=False)
    share = (time.process_time() - cpu_begin) / (seconds * plan.threads)
    if share < UNDISTURBED:
        log.warning(
            "other work took the processor while the engine was calibrated (it got %.0f%%); "
            "the choice is used now and measured again at the next start",
            100 * share,
        )
    else:
        _write(path, result)
    return result


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
    if plan.kv_type.name not in ("F16", "F32", "BF16"):
        return [True]  # llama.cpp has quantized values with flash attention only
    return [False, True] if settings.flash_attention is Switch.AUTO else [plan.flash_attention]


def layout_choices(settings: EngineSettings, plan: Plan) -> list[bool]:
    """Whether the unified layout may be off, on, or both; the first is tried first."""
    return [False, True] if settings.kv_layout is Layout.AUTO and plan.parallel > 1 else [plan.unified]


def thread_choices(settings: EngineSettings, plan: Plan) -> list[int]:
    """Thread counts worth trying: all processors, and half of them, as hyper-threads share their execution units."""
    if settings.threads:
        return [settings.threads]
    return sorted({plan.threads, max(1, plan.threads // 2)}, reverse=True)


def measure(model: Model, settings: EngineSettings, plan: Plan) -> list[Candidate]:
    """Time the combinations worth trying: attention in one layout, the other layout, then numbers of threads.

    Those compared take turns at each measurement, so that a slow moment of the host meets all of them.
    Raises `ContextError` if llama.cpp refuses every combination.
    """
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
                    made.append(Probe(context, flash, unified))
            return made

        tried = probes((flash, first) for flash in attention_choices(settings, plan))
        if not tried:
            raise ContextError("llama.cpp refuses every combination of flash attention and KV layout that is allowed")
        time_all(tried)
        best = min(tried, key=lambda probe: candidate(plan, probe).cost)
        rivals = probes((best.flash_attention, unified) for unified in others)
        if rivals:
            time_all(rivals)
            take_turns([best, *rivals])
        found = [candidate(plan, probe) for probe in tried + rivals]
        fastest = min(found, key=_cost)
        winner = (tried + rivals)[found.index(fastest)]
        return found + _threads(settings, plan, winner, fastest)


def time_all(probes: Sequence[Probe]) -> None:
    """Time prefill, and decode behind each piece of the prompt; slow models get the first piece only."""
    budget = PREFILL_BUDGET * len(probes)
    slowest = max(probe.lead() for probe in probes) / LEAD
    for size in PIECES:
        if size > min(PIECES) and size * slowest * len(probes) > budget:
            break
        for probe in probes:
            budget -= probe.prefill(size)
            probe.spread()
        take_turns(probes)


def take_turns(probes: Sequence[Probe]) -> None:
    """Time all probes at their depth, in turn."""
    for _ in range(ROUNDS):
        for probe in probes:
            probe.measure()


def _threads(settings: EngineSettings, plan: Plan, probe: Probe, best: Candidate) -> list[Candidate]:
    """The best combination with other numbers of threads, chosen apart for decode and for batches."""
    result: list[Candidate] = []
    for count in thread_choices(settings, plan):
        if count == plan.threads:
            continue
        seconds: dict[int, list[tuple[float, float, float]]] = {plan.threads: [], count: []}
        for _ in range(ROUNDS):
            for threads, times in seconds.items():
                probe.context.set_threads(threads, threads)
                times.append((probe.step(1), probe.step(plan.parallel), probe.chunk(LEAD)))
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
        better = min(best, batches, key=_cost)
        if one < 1:
            better = replace(better, threads=count, decode_one=best.decode_one * one)
        if better is not best:
            result.append(better)
    return result


def trial_plan(plan: Plan, flash: bool, unified: bool) -> Plan:
    """The plan with this combination and only as many cells as probing needs."""
    context = min(PROBE_CONTEXT, plan.context)
    return replace(plan, flash_attention=flash, unified=unified, context=context, kv_cells=context * plan.parallel)


def candidate(plan: Plan, probe: Probe) -> Candidate:
    """What a probe has measured, with the smallest chunk that is about as fast as the best."""
    speeds = probe.pieces
    chunk = min(size for size, seconds in speeds.items() if seconds * CHUNK_TOLERANCE <= min(speeds.values()))
    return Candidate(
        flash_attention=probe.flash_attention,
        unified=probe.unified,
        threads=plan.threads,
        threads_batch=plan.threads_batch,
        chunk=chunk,
        prefill_token=probe.prefill_token,
        decode_one=probe.decode_one,
        decode_all=probe.decode_all,
        parallel=plan.parallel,
    )


def _cost(candidate: Candidate) -> float:
    return candidate.cost


def cache_path(model: Model, settings: EngineSettings, plan: Plan) -> Path:
    """Where the answer for this model, library build, processor and settings is kept."""
    file = model.path.stat()
    key = {
        "model": [str(model.path.resolve()), file.st_size, file.st_mtime_ns, model.params.n_gpu_layers],
        "build": build_info(),
        "cpu": [_processor(), len(os.sched_getaffinity(0))],
        "settings": [settings.threads, settings.flash_attention, settings.kv_layout, plan.parallel, plan.kv_type.name],
        "method": [PROMPT_TOKENS, ANSWER_TOKENS, CHUNK_TOLERANCE, PROBE_CONTEXT, LEAD, *PIECES],
    }
    digest = hashlib.sha256(json.dumps(key, sort_keys=True, default=str).encode()).hexdigest()[:20]
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return folder / "lucid-llm" / "calibration" / f"{digest}.json"


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text("ascii", "replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _read(path: Path) -> Calibration | None:
    """An earlier answer; None if there is none that can be read."""
    try:
        data: dict[str, Any] = json.loads(path.read_text("utf-8"))
        candidates = tuple(Candidate(**item) for item in data["candidates"])
        return Calibration(Candidate(**data["chosen"]), candidates, float(data["seconds"]), cached=True)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.warning("the calibration in %s cannot be read (%s); measuring again", path, error)
        return None


def _write(path: Path, result: Calibration) -> None:
    """Keep an answer; a cache folder that cannot be written only costs the next start its seconds."""
    data = {
        "chosen": asdict(result.chosen),
        "candidates": [asdict(candidate) for candidate in result.candidates],
        "seconds": result.seconds,
    }
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}")
        temporary.write_text(json.dumps(data, indent=1), "utf-8")
        temporary.replace(path)
    except OSError as error:
        log.warning("the calibration cannot be kept in %s: %s", path, error)
