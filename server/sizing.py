"""How much memory a configuration needs: `python -m server plan` tells it, and the server asks before it takes it.

Weights, KV cache and what the process takes besides, against what this machine has, and what to set where it does not
fit or much is left. The engine's own plan is the source; for the command the model is mapped, not read. Knows the
configuration and bytes; serves nothing.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from engine import EngineError, EngineSettings, Layout, Plan, Switch, make_plan
from engine.memory import free_memory
from engine.plan import context_params, host_share
from knowledge.embedder import MAX_TOKENS, PACK_TOKENS
from llama_native import ContextError, ContextParams, GgmlType, LlamaError, Model, ModelParams, kv_cache_bytes
from server import config
from server.config import Config

#: Bytes of the interpreter, libraries and HTTP threads, and of llama.cpp's buffers beside those counted below.
PROCESS_BYTES: Final = 150_000_000

#: The same of the embedding model: its vocabulary's tables and small buffers.
EMBEDDER_BYTES: Final = 20_000_000

#: Share of the machine's free memory that a configuration may fill: requests, files and others need the rest.
ROOM: Final = 0.9


_ENGINE_LOG: Final = logging.getLogger("engine")

_WIDE: Final = ("f16", "bf16", "f32")


class TooLittleMemoryError(Exception):
    """The KV cache does not fit; the message has the numbers and what would fit."""


@dataclass(frozen=True, slots=True)
class Sizing:
    """Memory of one server process on this machine's CPU. Sizes in bytes; `context` and `cells` in tokens.

    `weights` and `kv` are those of layers that stay here, a share of `host` of them. `scratch`: logits, activations and
    attention scores of the largest step. `embedding`: the embedding model with its context, where it is not loaded yet.
    `free`: what the machine, or the control group, could give before the model was loaded: mapped weights look free
    afterwards, but are needed.
    """

    model: str
    parallel: int
    context: int
    cells: int
    kv_type: str
    kv_token: int
    weights: int
    kv: int
    scratch: int
    process: int
    embedding: int
    free: int
    host: float

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.kv + self.scratch + self.process + self.embedding

    @property
    def fits(self) -> bool:
        """Whether it leaves some of the free memory free."""
        return self.total <= ROOM * self.free


def measure(model: Model, settings: EngineSettings, embedding: int = 0) -> Sizing:
    """Size `settings`, with their `memory`, for a model. Raises `InvalidRequest` for what cannot be right for it.

    `embedding`: bytes of that memory which the embedding model will take first.
    """
    free = free_memory() if settings.memory is None else settings.memory
    plan = _plan(model, replace(settings, memory=max(0, free - embedding)))
    params = context_params(plan)
    host = host_share(model)
    return Sizing(
        model=f"{model.path.name} ({model.description})",
        parallel=plan.parallel,
        context=plan.context,
        cells=plan.kv_cells,
        kv_type=plan.kv_type.name.lower(),
        kv_token=_kv_token(model, plan.kv_type),
        weights=int(host * model.size),
        kv=int(host * kv_cache_bytes(model, params)),
        scratch=_scratch(model, plan),
        process=PROCESS_BYTES,
        embedding=embedding,
        free=free,
        host=host,
    )


def check_memory(model: Model, settings: EngineSettings) -> None:
    """Raise `TooLittleMemoryError` if a loaded model does not fit with its KV cache, before anybody tries.

    The verdict is the plan's. Layers that leave this machine's CPU are left to the devices' drivers, which refuse what
    they do not have.
    """
    level = _ENGINE_LOG.level
    _ENGINE_LOG.setLevel(logging.ERROR)  # what the plan warns of is said when the engine is made
    try:
        sizing = measure(model, settings)
        if not sizing.host or sizing.fits:
            return
        advice = "; ".join(suggestions(model, settings, sizing))
    finally:
        _ENGINE_LOG.setLevel(level)
    raise TooLittleMemoryError(
        f"too little memory: the KV cache of {sizing.parallel} requests of up to {sizing.context} tokens in "
        f"{sizing.kv_type} takes {_size(sizing.kv)}, the weights {_size(sizing.weights)}, a step "
        f"{_size(sizing.scratch)} and the process {_size(sizing.process)}, but {_size(sizing.free)} were free on this "
        f"machine or in this control group, of which {100 * ROOM:.0f}% may be filled; {advice}"
    )


def fits_elsewhere(config: Config, size: int, free: int) -> bool:
    """Whether the server that is chosen where `size` bytes are free would fit where `free` bytes are, without a GPU.

    False for a model that cannot be used: loading it says why.
    """
    params = ModelParams(use_extra_bufts=False)  # mapped, not read
    level = _ENGINE_LOG.level
    _ENGINE_LOG.setLevel(logging.ERROR)  # what the plan warns of is said when the engine is made
    try:
        with Model(config.model_path, params) as model:
            return replace(measure(model, engine_settings(config, size)), free=free).fits
    except (LlamaError, EngineError):
        return False
    finally:
        _ENGINE_LOG.setLevel(level)


def suggestions(model: Model, settings: EngineSettings, sizing: Sizing) -> Iterator[str]:
    """What to set: to fit, if it does not; else what the free memory has room for."""
    fixed = replace(settings, parallel=sizing.parallel, context=sizing.context)

    def fits(**changes: Any) -> bool:
        return measure(model, replace(fixed, **changes), sizing.embedding).fits

    word = "there is room for" if sizing.fits else "it would fit with"
    limit = 256 if sizing.fits else sizing.parallel
    parallel = _largest(limit, lambda value: fits(parallel=value))
    if parallel and parallel != sizing.parallel:
        yield f"{word} MODEL_PARALLEL={parallel} at this context"
    limit = model.n_ctx_train if sizing.fits else min(sizing.context, model.n_ctx_train or sizing.context)
    context = 256 * _largest(limit // 256, lambda value: fits(context=256 * value))
    if context and (context > sizing.context) is sizing.fits:
        yield f"{word} MODEL_CONTEXT={context}, {sizing.parallel} requests at once"
    if sizing.fits:
        return
    if not parallel and not context:
        yield "no context leaves room beside the weights: take a smaller model, fewer bits a weight, a larger machine"
    elif settings.kv_type in _WIDE and settings.flash_attention is not Switch.OFF and fits(kv_type="q8_0"):
        yield "it would fit with MODEL_KV_TYPE=q8_0"


def _largest(limit: int, fits: Callable[[int], bool]) -> int:
    """The largest number from 1 to `limit` that fits, as all smaller ones do; 0 if none does."""
    low, high = 0, limit
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def report(sizing: Sizing, advice: list[str]) -> str:
    """The sizing as lines for a terminal."""
    layout = f"{sizing.parallel} requests of up to {sizing.context} tokens, {sizing.kv_type}"
    rows = [
        ("weights", _size(sizing.weights), sizing.model),
        ("KV cache", _size(sizing.kv), f"{layout}; {sizing.kv_token} bytes a token"),
        ("scratch", _size(sizing.scratch), "the largest step: logits, activations, attention scores"),
        ("process", _size(sizing.process), "interpreter, libraries, threads"),
        (
            "embedding",
            _size(sizing.embedding),
            "the embedding model and its largest step; documents' vectors come on top",
        ),
        ("together", _size(sizing.total), "each worker process; mapped weights are shared between them"),
        ("free now", _size(sizing.free), "on this machine, or in this control group"),
    ]
    lines = [f"{name:10} {amount:>9}  {meaning}" for name, amount, meaning in rows]
    share = sizing.total / sizing.free if sizing.free else float("inf")
    lines.append(f"{'fits' if sizing.fits else 'DOES NOT FIT'}: {100 * share:.0f}% of the free memory")
    if sizing.host < 1:
        share = 100 * (1 - sizing.host)
        lines.append(f"{share:.0f}% of weights and KV cache are on devices, and not counted")
    return "\n".join([*lines, *(f"- {line}" for line in advice)])


def main(as_json: bool) -> int:
    """Size what the environment configures and print it. Exit codes: 0 it fits, 1 not, or no model, 2 bad variables."""
    try:
        settings = config.current()
    except config.ConfigError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    engine = engine_settings(settings, free_memory())
    # Not repacked for this CPU, the weights stay in the file and are mapped.
    params = ModelParams(n_gpu_layers=settings.model_gpu_layers, use_extra_bufts=False)
    try:
        embedding = embedding_bytes(settings.embedding_model)
    except LlamaError as error:
        print(f"error: EMBEDDING_MODEL={str(settings.embedding_model)!r}: {error}", file=sys.stderr)
        return 1
    try:
        with Model(settings.model_path, params) as model:
            sizing = measure(model, engine, embedding)
            _ENGINE_LOG.setLevel(logging.ERROR)  # what it warns of has been said once
            advice = list(suggestions(model, engine, sizing))
    except (LlamaError, EngineError) as error:
        print(f"error: MODEL_PATH={str(settings.model_path)!r}: {error}", file=sys.stderr)
        return 1
    if as_json:
        print(json.dumps({**asdict(sizing), "total": sizing.total, "fits": sizing.fits, "advice": advice}))
    else:
        print(report(sizing, advice))
    return 0 if sizing.fits else 1


def embedding_bytes(path: Path) -> int:
    """Bytes that the embedding model takes with its context; 0 if there is no such file. Raises `LlamaError`."""
    if not path.exists():
        return 0
    with Model(path, ModelParams(use_extra_bufts=False)) as model:
        rows = max(PACK_TOKENS, min(model.n_ctx_train, MAX_TOKENS))
        kv = kv_cache_bytes(model, ContextParams(n_ctx=rows))
        # Scores before and after the softmax, each in two layouts: its attention reads all tokens of a step at once.
        return model.size + kv + 4 * rows * (_width(model) + 4 * model.n_head * rows) + EMBEDDER_BYTES


def engine_settings(config: Config, memory: int) -> EngineSettings:
    """Return the engine's part of the configuration. `memory`: bytes that are free while no model is loaded yet."""
    return EngineSettings(
        memory=memory,
        parallel=config.model_parallel,
        context=config.model_context,
        threads=config.model_threads,
        step_ms=config.model_step_ms,
        flash_attention=Switch(config.model_flash_attention),
        kv_layout=Layout(config.model_kv_layout),
        kv_cells=config.model_kv_cells,
        kv_type=config.model_kv_type,
        calibrate=config.model_calibrate,
        max_queue=config.queue_limit,
        queue_timeout=config.queue_timeout,
    )


def _plan(model: Model, settings: EngineSettings) -> Plan:
    """The engine's plan; of settings whose KV cache cannot fit, what the server would refuse to start with."""
    try:
        return make_plan(model, settings)
    except ContextError:
        smallest = make_plan(model, replace(settings, parallel=1, context=64, kv_cells=0))
        parallel, context = settings.parallel or 1, settings.context or 512
        cells = settings.kv_cells or parallel * context
        return replace(smallest, parallel=parallel, context=context, kv_cells=cells)


def _kv_token(model: Model, kind: GgmlType) -> int:
    cells = 256
    return kv_cache_bytes(model, ContextParams(n_ctx=cells, type_k=kind, type_v=kind)) // cells


def _scratch(model: Model, plan: Plan) -> int:
    """Bytes of the largest step: without flash attention, scores of every head over a sequence's cells come on top."""
    rows = plan.largest_chunk + plan.parallel
    logits = plan.parallel * model.vocab.n_tokens
    scores = 0 if plan.flash_attention else 2 * model.n_head * plan.context
    return 4 * (logits + rows * (_width(model) + scores))


def _width(model: Model) -> int:
    """Values of a token's activations that exist at once."""
    meta, arch = model.header.metadata, model.architecture
    inner = meta.get(f"{arch}.feed_forward_length")
    return 4 * model.n_embd + 3 * (inner if isinstance(inner, int) else 4 * model.n_embd)


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
