"""What is measured below the engine: native loops over threads and batch sizes, and the memory contexts take.

Knows `bench.rates` and one loaded model; only an in-process characterisation can do this. The memory is read in a
process of its own (`python -m bench.characterize.native MODEL KV_TYPE CELLS...`), where nothing else allocates.
"""

from __future__ import annotations

import gc
import json
import math
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from bench.characterize.document import Footprint, ModelFacts, Point
from bench.characterize.plan import BATCH_STEPS, CHUNKS, NATIVE_DECODE, NATIVE_DEPTH, NATIVE_PREFILL
from bench.llama_tools import NativeSettings, ToolFailedError
from bench.rates import Point as RatePoint
from bench.rates import measure
from engine import Plan as EnginePlan
from llama_native import (
    Context,
    ContextParams,
    FlashAttention,
    GgmlType,
    Model,
    kv_cache_bytes,
    release_compute_threads,
)

#: Cells of the contexts whose memory is compared.
CELLS = (512, 2048, 4096, 8192)


class NativeLoops:
    """Times `llama_native` loops with the settings the engine runs with."""

    def __init__(self, model: Model, plan: EnginePlan) -> None:
        self._model = model
        self._settings = NativeSettings(
            model=str(model.path),
            threads=plan.threads,
            flash_attention="on" if plan.flash_attention else "off",
            kv_type=plan.kv_type.name.lower(),
            kv_unified=plan.unified,
        )
        self._batch_threads = plan.threads_batch

    def measure(self, point: Point) -> dict[str, float]:
        """Tokens per second: "decode" over all sequences and, where it is timed, "prefill/SIZE"."""
        if point.kind == "threads":
            settings = replace(self._settings, threads=point.size)
            wanted = RatePoint(1, NATIVE_DEPTH, NATIVE_DECODE, prefill=(NATIVE_PREFILL,))
        else:
            settings = replace(
                self._settings, threads=self._batch_threads if point.size > 1 else self._settings.threads
            )
            wanted = RatePoint(point.size, NATIVE_DEPTH, BATCH_STEPS, prefill=CHUNKS if point.size == 1 else ())
        rates = measure(self._model, settings, wanted)
        release_compute_threads()  # else they slow down the engine that is measured next
        prefill = {f"prefill/{size}": size / seconds for size, seconds in rates.prefill_seconds.items()}
        return {"decode": rates.decode_rate, **prefill}


def model_facts(model: Model, kv_type: GgmlType) -> ModelFacts:
    """What theory needs to know of a loaded model."""
    header, arch = model.header, model.architecture
    cells = 256
    kv = kv_cache_bytes(model, ContextParams(n_ctx=cells, type_k=kv_type, type_v=kv_type)) // cells
    width = header.metadata.get(f"{arch}.attention.key_length", model.n_embd // max(1, model.n_head))
    tied = "output.weight" not in header.tensors
    embedding = header.tensors.get("token_embd.weight")
    # Of an embedding table that is not also the output layer, a step reads a row a token and no more.
    unread, idle = (0, 0) if tied or embedding is None else (embedding.nbytes, math.prod(embedding.dims))
    experts = header.metadata.get(f"{arch}.expert_count", 0)
    element = kv / (2 * model.n_layer * model.n_head_kv * int(width)) if isinstance(width, int) and kv else 0
    return ModelFacts(
        name=model.path.name,
        description=model.description,
        file_bytes=model.path.stat().st_size,
        weight_bytes=model.size,
        read_bytes=model.size - unread,
        params=model.n_params,
        active_params=model.n_params - idle,
        experts=experts if isinstance(experts, int) else 0,
        layers=model.n_layer,
        context=model.n_ctx_train,
        kv_type=kv_type.name.lower(),
        kv_bytes=kv,
        kv_formula=(
            f"2 (K and V) x {model.n_layer} layers x {model.n_head_kv} KV heads x {width} values x "
            f"{element:g} bytes ({kv_type.name.lower()})"
        ),
    )


def footprint(model: Path, kv_type: str, cells: Sequence[int] = CELLS, timeout: float = 300.0) -> Footprint:
    """Measure in a process of its own. Raises ToolFailedError when that fails, subprocess.TimeoutExpired."""
    command = [sys.executable, "-m", "bench.characterize.native", str(model), kv_type, *map(str, cells)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    if done.returncode != 0:
        raise ToolFailedError(f"measuring the memory of contexts failed:\n{done.stderr[-1000:]}")
    return Footprint(rows=[(int(size), int(used)) for size, used in json.loads(done.stdout)])


def _context_bytes(model: Model, kv_type: GgmlType, cells: int) -> int:
    """Private bytes this process has more with a context of so many cells (llama.cpp clears, so touches, them all)."""
    gc.collect()
    before = _private_bytes()
    flash = FlashAttention.OFF if kv_type in (GgmlType.F16, GgmlType.F32, GgmlType.BF16) else FlashAttention.ON
    params = ContextParams(n_ctx=cells, type_k=kv_type, type_v=kv_type, flash_attention=flash)
    with Context(model, params) as context:
        context.memory.clear()
        return _private_bytes() - before


def _private_bytes() -> int:
    """Resident memory of this process that no file backs (Linux: RssAnon, proc_pid_status(5))."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    return int(fields["RssAnon"].split()[0]) * 1024


def main(arguments: Sequence[str]) -> None:
    """Print [cells, bytes] for each size as JSON."""
    path, kv_type, *sizes = arguments
    kind = GgmlType[kv_type.upper()]
    with Model(path) as model:
        _context_bytes(model, kind, 256)  # what is allocated once for all contexts is not a context's
        print(json.dumps([(int(size), _context_bytes(model, kind, int(size))) for size in sizes]))


if __name__ == "__main__":
    main(sys.argv[1:])
