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
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from engine.plan import Plan, make_context
from engine.probe import Probe
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
PREFILL_BUDGET: Final = 2.5

#: Share of the processor time that a measurement must have got to be remembered. Waiting at barriers costs some.
UNDISTURBED: Final = 0.7

#: Cells per sequence while probing.
PROBE_CONTEXT: Final = 768


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


def calibrate(model: Model, settings: EngineSettings, plan: Plan) -> Calibration:
    """Measure what `settings` leave open, or read the answer of an earlier measurement."""
    path = cache_path(model, settings, plan)
    known = _read(path)
    if known is not None:
        return known
    begin, cpu_begin = clock(), time.process_time()
    candidates = [*_layouts(model, settings, plan)]
    best = min(candidates, key=_cost)
    candidates += _threads(model, settings, plan, best)
    best = min(candidates, key=_cost)
    seconds = clock() - begin
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


def measure(model: Model, plan: Plan, flash: bool, unified: bool) -> Candidate | None:
    """Time one combination of attention and layout with the plan's threads; None if llama.cpp refuses it."""
    trial = _trial(plan, flash, unified)
    try:
        context = make_context(model, trial)
    except ContextError as error:
        log.info("flash attention %s, unified %s: not possible here: %s", flash, unified, error)
        return None
    with context:
        probe = Probe(context)
        prefill = probe.prefill(PREFILL_BUDGET)
        probe.spread()
        return _candidate(trial, prefill, probe.decode(1), probe.decode(plan.parallel))


def _layouts(model: Model, settings: EngineSettings, plan: Plan) -> list[Candidate]:
    """Attention first, in one layout, then the other layout with the better attention."""
    first, *others = layout_choices(settings, plan)
    result = [measure(model, plan, flash, first) for flash in attention_choices(settings, plan)]
    found = [candidate for candidate in result if candidate is not None]
    if not found:
        raise ContextError("llama.cpp refuses every combination of flash attention and KV layout that is allowed")
    best = min(found, key=_cost)
    for unified in others:
        other = measure(model, plan, best.flash_attention, unified)
        if other is not None:
            found.append(other)
    return found


def _threads(model: Model, settings: EngineSettings, plan: Plan, best: Candidate) -> list[Candidate]:
    """The best combination so far with other numbers of threads, chosen apart for decode and for batches."""
    counts = [count for count in thread_choices(settings, plan) if count != best.threads]
    if not counts:
        return []
    result: list[Candidate] = []
    with make_context(model, _trial(plan, best.flash_attention, best.unified)) as context:
        one = Probe(context)
        budget = best.prefill_token * best.chunk * 2
        one.prefill(budget)
        one.spread()
        reference = one.chunk(best.chunk)
        for count in counts:
            context.set_threads(count, count)
            factor = one.chunk(best.chunk) / reference
            single, together = one.decode(1), one.decode(plan.parallel)
            batch_wins = factor * best.prefill_token * PROMPT_TOKENS + ANSWER_TOKENS * together / plan.parallel < (
                best.prefill_token * PROMPT_TOKENS + ANSWER_TOKENS * best.decode_all / plan.parallel
            )
            result.append(
                replace(
                    best,
                    threads=count if single < best.decode_one else best.threads,
                    decode_one=min(single, best.decode_one),
                    threads_batch=count if batch_wins else best.threads_batch,
                    prefill_token=best.prefill_token * factor if batch_wins else best.prefill_token,
                    decode_all=together if batch_wins else best.decode_all,
                )
            )
    return result


def _cost(candidate: Candidate) -> float:
    return candidate.cost


def _trial(plan: Plan, flash: bool, unified: bool) -> Plan:
    context = min(PROBE_CONTEXT, plan.context)
    return replace(plan, flash_attention=flash, unified=unified, context=context, kv_cells=context * plan.parallel)


def _candidate(plan: Plan, prefill: dict[int, float], decode_one: float, decode_all: float) -> Candidate:
    best = min(prefill.values())
    chunk = min(size for size, seconds in prefill.items() if seconds * CHUNK_TOLERANCE <= best)
    return Candidate(
        flash_attention=plan.flash_attention,
        unified=plan.unified,
        threads=plan.threads,
        threads_batch=plan.threads_batch,
        chunk=chunk,
        prefill_token=prefill[chunk],
        decode_one=decode_one,
        decode_all=decode_all,
        parallel=plan.parallel,
    )


def cache_path(model: Model, settings: EngineSettings, plan: Plan) -> Path:
    """Where the answer for this model, library build, processor and settings is kept."""
    file = model.path.stat()
    key = {
        "model": [str(model.path.resolve()), file.st_size, file.st_mtime_ns, model.params.n_gpu_layers],
        "build": build_info(),
        "cpu": [_processor(), len(os.sched_getaffinity(0))],
        "settings": [settings.threads, settings.flash_attention, settings.kv_layout, plan.parallel, plan.kv_type.name],
        "method": [PROMPT_TOKENS, ANSWER_TOKENS, CHUNK_TOLERANCE, PROBE_CONTEXT],
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
