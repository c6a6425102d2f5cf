"""Our own attention: it computes what flash attention is, in all shapes that it takes, and always the same bits."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import llama_native as ln
from tests.llama_native import tiny
from tests.llama_native.conftest import MakeContext, needs_kernels

ON, OFF = ln.FlashAttention.ON, ln.FlashAttention.OFF
#: Beyond a chunk of cells, whose results different threads may compute.
LENGTH = 300
SHAPE: dict[str, Any] = {"flash_attention": ON, "n_ctx": 1024, "n_seq_max": 2}

pytestmark = needs_kernels


def tokens_for(model: ln.Model, seed: int = 5, count: int = LENGTH) -> list[int]:
    return [int(token) for token in np.random.default_rng(seed).integers(3, model.vocab.n_tokens - 30, count)]


def logits(
    context: ln.Context, tokens: list[int], step: int = LENGTH, company: list[int] | None = None
) -> NDArray[np.float32]:
    """Of every token of sequence 0, computed `step` at a time, each time beside as many of `company` in sequence 1."""
    found = []
    for start in range(0, len(tokens), step):
        batch = ln.Batch(2 * step)
        beside = [] if company is None else company[start : start + step]
        if beside:
            batch.extend(beside, start, 1, output_all=True)
        part = tokens[start : start + step]
        batch.extend(part, start, 0, output_all=True)
        context.decode(batch)
        found.append(context.logits_all(len(beside) + len(part))[len(beside) :].copy())
    return np.concatenate(found)


def error(found: NDArray[np.float32], truth: NDArray[np.float32]) -> float:
    return float(np.sqrt(np.square(found - truth).mean()))


# One, two, three heads that share keys, and more than are computed together; dimensions of one block and of more.
@pytest.mark.parametrize("heads", [(4, 4, 16), (4, 2, 16), (3, 1, 64), (4, 1, 32), (7, 1, 16), (2, 1, 80), (2, 2, 144)])
def test_it_is_as_near_to_exact_as_llama_cpps(
    heads: tuple[int, int, int], tmp_path: Path, make_context: MakeContext
) -> None:
    n_head, n_head_kv, n_head_dimensions = heads
    path = tiny.llama(tmp_path / "model.gguf", n_head=n_head, n_head_kv=n_head_kv, n_head_dimensions=n_head_dimensions)
    with ExitStack() as stack:
        ours, theirs = (
            stack.enter_context(ln.Model(path, ln.ModelParams(kernels=kernels))) for kernels in (True, False)
        )
        tokens, company = tokens_for(ours), tokens_for(ours, 6)
        exact = make_context(theirs, flash_attention=OFF, type_k=ln.GgmlType.F32, type_v=ln.GgmlType.F32)
        truth = logits(exact, tokens)
        for step, unified in ((LENGTH, False), (7, False), (7, True), (1, False)):
            shape = {**SHAPE, "kv_unified": unified, "n_threads": 2}
            found, reference = (logits(make_context(model, **shape), tokens, step, company) for model in (ours, theirs))
            assert not np.array_equal(found, reference)  # else it was not ours
            assert error(found, truth) < 1.02 * error(reference, truth), (step, unified)


@pytest.mark.parametrize("heads", [(4, 4, 16), (4, 2, 16), (3, 1, 64), (10, 2, 16), (2, 1, 80)])
def test_how_tokens_are_grouped_does_not_change_a_bit(
    heads: tuple[int, int, int], tmp_path: Path, make_context: MakeContext
) -> None:
    """Weights in Q4_1, so that products of weights do not depend on it either."""
    n_head, n_head_kv, n_head_dimensions = heads
    plain, path = tmp_path / "f32.gguf", tmp_path / "q4_1.gguf"
    tiny.llama(plain, n_head=n_head, n_head_kv=n_head_kv, n_head_dimensions=n_head_dimensions)
    ln.quantize(plain, path, ln.FileType.Q4_1, n_threads=1)
    with ln.Model(path) as model:
        tokens, company = tokens_for(model), tokens_for(model, 6)
        at_once = logits(make_context(model, **SHAPE), tokens)
        for step, threads, beside in ((1, 1, None), (7, 3, company), (100, 2, company)):
            context = make_context(model, **SHAPE, n_threads=threads, n_threads_batch=threads)
            assert np.array_equal(logits(context, tokens, step, beside), at_once), step


def test_a_window_hides_what_lies_before_it(tmp_path: Path, make_context: MakeContext) -> None:
    path = tiny.gemma(tmp_path / "gemma.gguf", window=16)
    with ln.Model(path) as ours, ln.Model(path, ln.ModelParams(kernels=False)) as theirs:
        tokens = tokens_for(ours)
        truth = logits(make_context(ours, flash_attention=OFF), tokens)
        found, reference = (logits(make_context(model, flash_attention=ON), tokens, 60) for model in (ours, theirs))
    assert not np.array_equal(found, reference)  # else it was not ours
    assert error(found, truth) < 0.01 * truth.std()


@pytest.mark.parametrize(
    ("step", "threads", "in_company"),
    [(LENGTH, 1, False), (LENGTH, 3, False), (64, 2, False), (64, 2, True), (7, 3, True), (1, 2, False)],
)
def test_the_demo_models_logits_are_the_same_bits_however_they_are_computed(
    chat_model: ln.Model, make_context: MakeContext, step: int, threads: int, in_company: bool
) -> None:
    tokens, company = tokens_for(chat_model), tokens_for(chat_model, 6)
    at_once = logits(make_context(chat_model, **SHAPE, n_threads=2, n_threads_batch=2), tokens)
    context = make_context(chat_model, **SHAPE, n_threads=threads, n_threads_batch=threads)
    assert np.array_equal(logits(context, tokens, step, company if in_company else None), at_once)
