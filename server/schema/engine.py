"""The body of GET /v1/engine: what the engine does now, what it has done, and with which settings it runs.

Responses only. Knows the engine's snapshot, plan and calibration; knows nothing of routes.
"""

from __future__ import annotations

import msgspec

from engine import Engine, Plan
from engine.calibration import Calibration


class EngineNow(msgspec.Struct, frozen=True):
    """Gauges: how it is at this moment."""

    running: int
    """Requests being computed."""
    waiting: int
    oldest_wait_seconds: float
    sequences: int
    sequences_cached: int
    """Idle sequences that hold a reusable prefix."""
    kv_cells: int
    """Cells of the KV cache, one a token."""
    kv_cells_used: int
    """Of those, the ones that running requests or cached prefixes hold."""


class EngineTotals(msgspec.Struct, frozen=True):
    """Counters: sums since the engine started. Durations in seconds."""

    generated_tokens: int
    prefill_tokens: int
    """Prompt tokens computed."""
    cached_tokens: int
    """Prompt tokens found in the KV cache instead."""
    steps: int
    busy_seconds: float
    decode_seconds: float
    sampling_seconds: float
    finished: int
    cancelled: int
    rejected: int
    failed: int
    evictions: int
    """How often a sequence of the KV cache lost cached tokens to another prompt."""
    evicted_tokens: int


class EnginePlan(msgspec.Struct, frozen=True):
    """The settings that the engine runs with."""

    parallel: int
    """Requests computed at once."""
    context: int
    """Most tokens of one request."""
    threads: int
    threads_batch: int
    flash_attention: bool
    kv_layout: str
    kv_type: str
    largest_chunk: int
    """Most prompt tokens in a step."""
    step_seconds: float
    """What a step may take while streams run."""
    max_queue: int
    calibrated: str
    """`measured` at this start, `cached` from an earlier one, or `off`: defaults."""

    @classmethod
    def of(cls, plan: Plan, calibration: Calibration | None) -> EnginePlan:
        """Return the plan as it is shown."""
        return cls(
            parallel=plan.parallel,
            context=plan.context,
            threads=plan.threads,
            threads_batch=plan.threads_batch,
            flash_attention=plan.flash_attention,
            kv_layout="unified" if plan.unified else "streams",
            kv_type=plan.kv_type.name.lower(),
            largest_chunk=plan.largest_chunk,
            step_seconds=plan.step_seconds,
            max_queue=plan.max_queue,
            calibrated="off" if calibration is None else "cached" if calibration.cached else "measured",
        )


class EngineBody(msgspec.Struct, frozen=True, kw_only=True):
    """The engine of one server process."""

    object: str = "engine"
    model: str
    """The id under which the model is served."""
    description: str
    """The model's architecture, size and quantization."""
    file: str
    worker: int
    """Process id of the server process that answered; each has an engine and counters of its own."""
    clock_seconds: float
    """That process's monotonic clock, so that two answers give exact rates."""
    now: EngineNow
    totals: EngineTotals
    plan: EnginePlan

    @classmethod
    def of(cls, engine: Engine, model: str, file: str, worker: int, clock_seconds: float) -> EngineBody:
        """Return the body for one snapshot of `engine`."""
        stats = engine.stats()
        counters = stats.counters
        return cls(
            model=model,
            description=engine.model.description,
            file=file,
            worker=worker,
            clock_seconds=clock_seconds,
            now=EngineNow(
                running=stats.running,
                waiting=stats.waiting,
                oldest_wait_seconds=stats.oldest_wait,
                sequences=stats.sequences,
                sequences_cached=stats.sequences_cached,
                kv_cells=stats.kv_cells,
                kv_cells_used=stats.kv_cells_used,
            ),
            totals=EngineTotals(
                generated_tokens=counters.generated_tokens,
                prefill_tokens=counters.prefill_tokens,
                cached_tokens=counters.cached_tokens,
                steps=counters.steps,
                busy_seconds=counters.busy_seconds,
                decode_seconds=counters.decode_seconds,
                sampling_seconds=counters.sampling_seconds,
                finished=counters.finished,
                cancelled=counters.cancelled,
                rejected=counters.rejected,
                failed=counters.failed,
                evictions=stats.evictions,
                evicted_tokens=stats.evicted_tokens,
            ),
            plan=EnginePlan.of(engine.plan, engine.calibration),
        )
