"""Settings resolved for one model on one host: what the engine will actually run with.

Knows how much memory a KV cache takes and which processors this process may use. What depends on speed rather than
memory comes from `engine.calibration`, or from the documented defaults here.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Final

import numpy as np

from engine.errors import InvalidRequest
from engine.memory import free_memory
from engine.settings import SMALLEST_CONTEXT, EngineSettings, Layout, Switch
from engine.timings import clock
from llama_native import (
    Batch,
    Context,
    ContextParams,
    DeviceType,
    FlashAttention,
    GgmlType,
    Model,
    available_cpus,
    build_info,
    devices,
    kv_cache_bytes,
)

log = logging.getLogger(__name__)

#: Target step time while streams run and a prompt is prefilled, in seconds. Shorter steps cost throughput (prompts in
#: small pieces, and while they last few streams to decode together), longer ones stall streams;
#: `bench.peers --our-variant MODEL_STEP_MS=...` shows how much.
STEP_SECONDS: Final = 0.300

#: About how long the longer prompt of a warm-up may take, in seconds.
LONGER_SECONDS: Final = 0.5

#: Longest request by default; the model's own limit may be lower.
CONTEXT: Final = 4096

#: Sequences by default without a GPU: at least and at most so many, one for each thread between. On two cores eight
#: decode almost as fast together as more would. A step reads all weights once, whatever it computes: the more cores
#: compute, the more sequences it takes until they, and not memory, bound it.
PARALLEL_CPU: Final = 8
MOST_PARALLEL_CPU: Final = 32

#: Sequences by default with a GPU.
PARALLEL_GPU: Final = 16

#: llama.cpp's flash attention on CPUs takes queries in tiles of so many; fewer take a slower path, and a tile that is
#: not full costs as much as one that is (`ggml_fa_tile_config`).
ATTENTION_TILE: Final = 64

#: Requests that may wait by default, for each sequence. A burst of four times what is computed at once loses nobody;
#: more would wait for longer than most clients do.
QUEUE: Final = 3

#: Most prompt tokens in a step, unless calibration finds that fewer are as fast.
LARGEST_CHUNK: Final = 512

#: Most prompt tokens in a step whose log probabilities are wanted, beside one of each prompt. Each takes a row of
#: logits (demo model: 0.2 MB).
SCORED_TOKENS: Final = 32

GPUS: Final = (DeviceType.GPU, DeviceType.IGPU)

#: Share of the free memory that a default KV cache may take.
KV_SHARE: Final = 0.5


@dataclass(frozen=True, slots=True)
class Plan:
    """Every setting with its final value."""

    parallel: int
    context: int
    kv_cells: int
    """Cells in all, for all sequences."""
    unified: bool
    flash_attention: bool
    kv_type: GgmlType
    threads: int
    """Threads of a step that only decodes."""
    threads_batch: int
    """Threads of a step with prefill, or with more than one sequence."""
    step_seconds: float
    largest_chunk: int
    """Most prompt tokens in a step when no stream runs."""
    max_queue: int
    queue_timeout: float


def make_plan(model: Model, settings: EngineSettings) -> Plan:
    """Resolve `settings` without measuring anything.

    Raises `InvalidRequest` if a setting cannot be right for the model, and `llama_native.ContextError` if its KV cache
    cannot fit this machine.
    """
    kv_type = _kv_type(settings.kv_type)
    if needs_flash_attention(kv_type) and settings.flash_attention is Switch.OFF:
        raise InvalidRequest("kv_type", f"a KV cache of {settings.kv_type} needs flash attention, which is set to off")
    offloaded = offloads(model)
    if model.params.n_gpu_layers and not offloaded:
        log.warning("%d layers were to go to a GPU, but this build or host has none", model.params.n_gpu_layers)
    context = settings.context or max(SMALLEST_CONTEXT, min(model.n_ctx_train, CONTEXT))
    threads = settings.threads or available_cpus()
    parallel = settings.parallel or (PARALLEL_GPU if offloaded else parallel_for(threads))
    here = host_share(model)
    free_here, free_there = _free_beside_weights(model, settings), _free_device_memory() if offloaded else 0

    def too_large() -> bool:
        params = ContextParams(n_ctx=parallel * context, n_seq_max=parallel, type_k=kv_type, type_v=kv_type)
        kv = kv_cache_bytes(model, params)
        return here * kv > free_here * KV_SHARE or (1 - here) * kv > free_there * KV_SHARE

    while not settings.parallel and parallel > 1 and too_large():
        parallel //= 2
    while not settings.context and context > 512 and too_large():
        context //= 2
    unified = settings.kv_layout is Layout.UNIFIED
    if settings.kv_cells:
        if not unified:
            raise InvalidRequest("kv_cells", "kv_cells needs the unified KV layout: streams have cells of their own")
        if settings.kv_cells < context:
            raise InvalidRequest("kv_cells", f"kv_cells must hold one request of {context} tokens")
    flash_attention = settings.flash_attention is Switch.ON or (
        settings.flash_attention is Switch.AUTO
        and (offloaded or needs_flash_attention(kv_type) or has_own_attention(model, kv_type))
    )
    if context > model.n_ctx_train > 0:
        log.warning("requests of %d tokens: the model was trained on %d, expect nonsense", context, model.n_ctx_train)
    plan = Plan(
        parallel=parallel,
        context=context,
        kv_cells=settings.kv_cells or parallel * context,
        unified=unified,
        flash_attention=flash_attention,
        kv_type=kv_type,
        threads=threads,
        threads_batch=threads,
        step_seconds=settings.step_ms / 1000 or STEP_SECONDS,
        largest_chunk=LARGEST_CHUNK,
        max_queue=QUEUE * parallel if settings.max_queue is None else settings.max_queue,
        queue_timeout=settings.queue_timeout,
    )
    context_params(plan).check(model)  # before seconds are spent on measuring
    return plan


def parallel_for(threads: int) -> int:
    """How many sequences to decode at once on so many threads without a GPU, where memory allows."""
    return max(PARALLEL_CPU, min(MOST_PARALLEL_CPU, threads))


def grain(model: Model, plan: Plan) -> int:
    """Size of prompt pieces, in tokens, that costs no more for what it leaves over than it has to."""
    tiled = plan.flash_attention and not offloads(model) and not has_own_attention(model, plan.kv_type)
    return ATTENTION_TILE if tiled else 1


def has_own_attention(model: Model, kv_type: GgmlType) -> bool:
    """Whether flash attention is our own kernel, which has no tiles and is the faster choice at any depth."""
    possible = model.params.kernels and bool(build_info()["kernels"])
    return possible and model.plain_attention and kv_type is GgmlType.F16 and not offloads(model)


def needs_flash_attention(kv_type: GgmlType) -> bool:
    """Whether llama.cpp can keep keys and values of this type with flash attention only."""
    return kv_type not in (GgmlType.F16, GgmlType.BF16, GgmlType.F32)


def offloads(model: Model) -> bool:
    """Whether layers of the model are on a GPU."""
    return model.params.n_gpu_layers != 0 and any(device.type in GPUS for device in devices())


def host_share(model: Model) -> float:
    """Share of the model's layers, and so about of weights and KV cache, that stays on this machine's CPU: 0 to 1.

    llama.cpp offloads the last ones first, and counts the output as one more (`llama_model_base::load_tensors`).
    """
    asked = model.params.n_gpu_layers
    if not offloads(model):
        return 1.0
    return 0.0 if asked < 0 else min(1.0, max(0, model.n_layer + 1 - asked) / model.n_layer)


def context_params(plan: Plan) -> ContextParams:
    """How to create the llama context of a plan."""
    batch = plan.largest_chunk + plan.parallel
    return ContextParams(
        n_ctx=plan.kv_cells if plan.unified else plan.parallel * plan.context,
        n_batch=batch,
        n_ubatch=batch,
        n_seq_max=plan.parallel,
        n_threads=plan.threads,
        n_threads_batch=plan.threads_batch,
        kv_unified=plan.unified,
        flash_attention=FlashAttention.ON if plan.flash_attention else FlashAttention.OFF,
        type_k=plan.kv_type,
        type_v=plan.kv_type,
        n_outputs_max=plan.parallel + SCORED_TOKENS,
        swa_full=True,
    )


def make_context(model: Model, plan: Plan) -> Context:
    """The llama context for a plan. Raises `llama_native.ContextError`."""
    return Context(model, context_params(plan))


def _kv_type(name: str) -> GgmlType:
    try:
        return GgmlType[name.upper()]
    except KeyError:
        raise InvalidRequest("kv_type", f"kv_type must be f16, bf16, f32, q8_0 or q4_0, not {name!r}") from None


def _free_beside_weights(model: Model, settings: EngineSettings) -> int:
    """Bytes of this machine free for a KV cache. A mapped file's weights are not to be counted: they look free."""
    if settings.memory is None:
        return free_memory()
    return max(0, settings.memory - int(host_share(model) * model.size))


def _free_device_memory() -> int:
    """Bytes free on all GPUs together."""
    return sum(device.memory_free for device in devices() if device.type in GPUS)


def warm_up(context: Context, size: int) -> float:
    """Run one step of each kind, so that the first request finds memory, threads and the vocabulary's tables in place.

    `size` is how many tokens a sequence may have. Returns how long that took, in seconds. Where it was short, a prompt
    follows that is as long as `LONGER_SECONDS` allow, as long ones take memory of their own.
    """
    begin = clock()
    context.model.vocab.prepare()
    batch = Batch(context.n_batch)

    def prefill(tokens: int) -> float:
        start = clock()
        batch.clear()
        batch.extend(np.zeros(tokens, dtype=np.int32), 0, 0, output_last=True)
        context.step(batch, (tokens - 1,), (None,))
        return clock() - start

    prompt = min(32, size - 2)
    prompt_seconds = prefill(prompt)
    for rows in {1, context.n_seq_max}:
        batch.clear()
        for sequence in range(rows):
            batch.add(0, context.memory.pos_max(sequence) + 1, sequence, output=True)
        context.step(batch, range(rows), [None] * rows)
    seconds = clock() - begin
    context.memory.clear(data=False)
    longer = min(context.n_ubatch, size - 2, int(LONGER_SECONDS / prompt_seconds * prompt))
    if longer > prompt:
        prefill(longer)
        context.memory.clear(data=False)
    return seconds
