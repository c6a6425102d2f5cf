"""Native rates: how fast this model prefills and decodes on this host with nothing in between.

Drives `llama_native` directly: no server, no scheduler. `python -m bench.rates` measures one point and prints JSON; it
runs in a process of its own so that no model stays loaded beside a measured server.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from bench.llama_tools import NativeSettings, ToolFailedError, cells
from llama_native import Batch, Context, ContextParams, FlashAttention, GgmlType, Model, ModelParams, ThreadPool

Tokens = npt.NDArray[np.int32]

#: Tokens of prompt and of answer before anything is timed.
_WARM_UP = 64
_WARM_UP_STEPS = 2


@dataclass(frozen=True, slots=True)
class Point:
    """One operating point. Sizes in tokens.

    `sequences` at `depth` tokens of context each decode `generate` tokens; `prefill` lists prompt sizes timed behind
    `prefill_depth` cached tokens. `shared`: all sequences share their context (else each has its own).
    """

    sequences: int
    depth: int
    generate: int
    prefill: tuple[int, ...] = ()
    prefill_depth: int = 0
    shared: bool = False


@dataclass(frozen=True, slots=True)
class Rates:
    """What was measured: tokens/s over all sequences, and seconds for each prefill size."""

    decode_rate: float
    prefill_seconds: dict[int, float]


@contextmanager
def native_context(model: Model, settings: NativeSettings, tokens: int, sequences: int) -> Iterator[Context]:
    """A context for `tokens` tokens in each of `sequences`, with the thread pool that llama.cpp's tools create."""
    params = ContextParams(
        n_ctx=sequences * cells(tokens),
        n_batch=settings.n_batch,
        n_ubatch=settings.n_ubatch,
        n_seq_max=sequences,
        n_threads=settings.threads,
        n_threads_batch=settings.threads,
        kv_unified=settings.kv_unified,
        flash_attention=FlashAttention[settings.flash_attention.upper()],
        type_k=GgmlType[settings.kv_type.upper()],
        type_v=GgmlType[settings.kv_type.upper()],
    )
    with Context(model, params) as context, ThreadPool(settings.threads, poll=settings.poll) as pool:
        context.attach_threadpool(pool)
        try:
            yield context
        finally:
            context.detach_threadpool()


def random_tokens(model: Model, count: int, seed: int = 0) -> Tokens:
    """Ordinary token ids (no control tokens) drawn evenly, the same for the same seed."""
    vocab = model.vocab
    drawn = np.random.default_rng(seed).integers(0, vocab.n_tokens, size=2 * count + 64)
    ordinary = [int(token) for token in drawn if not vocab.is_control(int(token))]
    return np.array(ordinary[:count], dtype=np.int32)


def prefill(context: Context, batch: Batch, tokens: Tokens, start: int, sequence: int) -> float:
    """Decode `tokens` at positions from `start` in pieces of n_batch, logits for the last only; seconds."""
    begin = time.perf_counter()
    for offset in range(0, len(tokens), context.n_batch):
        piece = tokens[offset : offset + context.n_batch]
        batch.clear()
        batch.extend(piece, start + offset, sequence, output_last=offset + len(piece) == len(tokens))
        context.decode(batch)
    context.synchronize()
    return time.perf_counter() - begin


def decode(context: Context, batch: Batch, start: int, sequences: int, steps: int) -> float:
    """`steps` greedy steps of all sequences from position `start` on; tokens per second over all of them."""
    batch.clear()
    for sequence in range(sequences):
        batch.add(1, start, sequence, output=True)
    rows = np.arange(sequences, dtype=np.int32)
    samplers = [None] * sequences
    begin = time.perf_counter()
    for _ in range(steps):
        batch.token[:sequences] = context.step(batch, rows, samplers).tokens
        batch.pos[:sequences] += 1
    context.synchronize()
    return sequences * steps / (time.perf_counter() - begin)


def measure(model: Model, settings: NativeSettings, point: Point, repeats: int = 1) -> Rates:
    """Measure a point; medians of `repeats`, after a warm-up."""
    longest = max((*point.prefill, 1)) + max(point.prefill_depth, 1)
    tokens = random_tokens(model, max(longest, point.depth, _WARM_UP))
    rates: list[float] = []
    seconds: dict[int, list[float]] = {size: [] for size in point.prefill}
    # As many cells as llama-batched-bench gets for such a point: no more than its tokens need.
    room = max(point.depth + point.generate, longest, _WARM_UP + _WARM_UP_STEPS)
    with native_context(model, settings, room, point.sequences) as context:
        batch = Batch(context.n_batch)
        _warm_up(context, batch, tokens)
        for _ in range(repeats):
            if point.prefill:
                context.memory.clear(data=False)
                prefill(context, batch, tokens[: max(point.prefill_depth, 1)], 0, 0)
                start = max(point.prefill_depth, 1)
                for size in point.prefill:
                    seconds[size].append(prefill(context, batch, tokens[-size:], start, 0))
                    context.memory.remove(0, start, -1)
            _fill(context, batch, tokens, point, settings.kv_unified)
            rates.append(decode(context, batch, point.depth, point.sequences, point.generate))
    return Rates(statistics.median(rates), {size: statistics.median(times) for size, times in seconds.items()})


def _warm_up(context: Context, batch: Batch, tokens: Tokens) -> None:
    prefill(context, batch, tokens[:_WARM_UP], 0, 0)
    decode(context, batch, _WARM_UP, 1, _WARM_UP_STEPS)
    context.memory.clear(data=False)


def _fill(context: Context, batch: Batch, tokens: Tokens, point: Point, unified: bool) -> None:
    """Give every sequence its context: its own cells, or cells shared with the first.

    What shares nothing is restored rather than copied: attention reads copies of a prefix from one place.
    """
    context.memory.clear(data=False)
    if not point.depth:
        return
    prefill(context, batch, tokens[: point.depth], 0, 0)
    state = b"" if point.shared or point.sequences == 1 else context.sequence_state(0)
    for sequence in range(1, point.sequences):
        if point.shared:
            context.memory.copy(0, sequence)
        else:
            context.restore_sequence(sequence, state)
    if point.shared and not unified and point.sequences > 1:
        # Copies between streams happen with the next decode: make one and take it back.
        prefill(context, batch, tokens[:1], point.depth, 0)
        context.memory.remove(0, point.depth, -1)


def measure_apart(settings: NativeSettings, point: Point, repeats: int = 1, timeout: float = 600.0) -> Rates:
    """`measure` in a process of its own. Raises ToolFailedError when that fails, subprocess.TimeoutExpired."""
    request = json.dumps({"settings": asdict(settings), "point": asdict(point), "repeats": repeats})
    done = subprocess.run(
        [sys.executable, "-m", "bench.rates", request], capture_output=True, text=True, timeout=timeout
    )
    if done.returncode != 0:
        raise ToolFailedError(f"bench.rates failed:\n{done.stderr[-1000:]}")
    result = json.loads(done.stdout)
    return Rates(result["decode_rate"], {int(size): value for size, value in result["prefill_seconds"].items()})


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the point given as JSON and print the rates as JSON."""
    parser = argparse.ArgumentParser(prog="python -m bench.rates", description=__doc__)
    parser.add_argument("request", type=json.loads, help='{"settings": {...}, "point": {...}, "repeats": 1}')
    request = parser.parse_args(arguments).request
    point = Point(**(request["point"] | {"prefill": tuple(request["point"].get("prefill", ()))}))
    settings = NativeSettings(**request["settings"])
    with Model(settings.model, ModelParams(kernels=settings.kernels)) as model:
        print(json.dumps(asdict(measure(model, settings, point, request.get("repeats", 1)))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
