"""Contexts: parameters, results, abort, and what happens in several threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import llama_native as ln
from tests.llama_native.conftest import PROMPT, MakeContext, filled


def test_sizes(tiny_model: ln.Model, make_context: MakeContext) -> None:
    streams = make_context(tiny_model, n_ctx=1000, n_seq_max=4, n_batch=128, n_ubatch=64)
    assert (streams.n_ctx, streams.n_ctx_seq) == (1024, 256)
    assert (streams.n_batch, streams.n_ubatch, streams.n_seq_max) == (128, 64, 4)
    unified = make_context(tiny_model, n_ctx=1000, n_seq_max=4, kv_unified=True)
    assert (unified.n_ctx, unified.n_ctx_seq) == (1024, 1024)
    assert make_context(tiny_model, n_ctx=0).n_ctx == tiny_model.n_ctx_train
    assert unified.causal
    assert unified.pooling == ln.Pooling.NONE


BAD_PARAMS: list[dict[str, Any]] = [
    {"n_ctx": -1},
    {"n_ctx": 2**31},
    {"n_batch": 0},
    {"n_ubatch": 0},
    {"n_seq_max": 0},
    {"n_seq_max": 257},
    {"n_threads": -1},
    {"n_threads": 100_000},
    {"n_batch": 4, "n_seq_max": 8},
    {"n_outputs_max": 2, "n_seq_max": 8},
    {"n_ctx": 1 << 30, "n_seq_max": 16},
    {"type_v": ln.GgmlType.Q8_0, "flash_attention": ln.FlashAttention.OFF},
    {"type_k": ln.GgmlType.Q8_0, "flash_attention": ln.FlashAttention.ON},  # 16 is not a multiple of its block of 32
]


@pytest.mark.parametrize("params", BAD_PARAMS, ids=str)
def test_bad_parameters(tiny_model: ln.Model, params: dict[str, Any]) -> None:
    with pytest.raises(ln.ContextError) as caught:
        ln.Context(tiny_model, ln.ContextParams(**{"n_ctx": 256, "n_threads": 1, **params}))
    assert len(str(caught.value)) > 20


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"n_seq_max": 3},
        {"n_seq_max": 3, "kv_unified": True},
        {"type_k": ln.GgmlType.F32, "type_v": ln.GgmlType.F32},
        {"type_k": ln.GgmlType.Q8_0, "type_v": ln.GgmlType.Q8_0, "flash_attention": ln.FlashAttention.ON},
    ],
    ids=str,
)
def test_kv_cache_bytes_is_what_llama_allocates(
    chat_model: ln.Model, params: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    wanted = ln.ContextParams(n_ctx=1024, n_threads=1, **params)
    with caplog.at_level("INFO", "llama_native"):
        ln.Context(chat_model, wanted).close()
    lines = [r.getMessage() for r in caplog.records if "KV buffer size" in r.getMessage()]
    allocated = sum(float(line.split("=")[1].split("MiB")[0]) for line in lines)
    assert lines
    assert ln.kv_cache_bytes(chat_model, wanted) / 2**20 == pytest.approx(allocated, abs=0.01)


def test_logits_are_views_of_the_same_memory(tiny_model: ln.Model, make_context: MakeContext) -> None:
    context = make_context(tiny_model)
    batch = filled([5, 6, 7])
    batch.output[:3] = 1
    context.decode(batch)
    logits = context.logits(2)
    assert logits.shape == (tiny_model.vocab.n_tokens,)
    assert logits.dtype == np.float32
    assert np.shares_memory(logits, context.logits(-1))
    every = context.logits_all(3)
    assert np.shares_memory(every[2], logits)
    assert not np.array_equal(every[0], every[1])
    with pytest.raises(ln.ContextError):
        context.logits_all(4)
    context.close()
    assert np.isfinite(logits).all()  # the view keeps the memory


def test_batched_and_single_decoding_agree(tiny_model: ln.Model, make_context: MakeContext) -> None:
    tokens = tiny_model.vocab.tokenize("some text to read").tolist()
    context = make_context(tiny_model, n_batch=64, n_ubatch=4)
    context.decode(filled(tokens))
    at_once = context.logits(-1).copy()
    context.memory.clear()
    for pos, token in enumerate(tokens):
        context.decode(filled([token], pos))
    np.testing.assert_allclose(context.logits(-1), at_once, atol=1e-3)


def test_sequences_do_not_see_each_other(tiny_model: ln.Model, make_context: MakeContext) -> None:
    alone = make_context(tiny_model)
    alone.decode(filled([5, 6, 7]))
    for unified in (False, True):
        context = make_context(tiny_model, n_seq_max=2, kv_unified=unified)
        batch = ln.Batch(8)
        batch.extend([50, 51, 52, 53], 0, 1)
        row = batch.extend([5, 6, 7], 0, 0, output_last=True)
        context.decode(batch)
        np.testing.assert_allclose(context.logits(row), alone.logits(-1), atol=1e-3)


def test_outputs_that_are_not_there(tiny_model: ln.Model, make_context: MakeContext) -> None:
    context = make_context(tiny_model)
    with pytest.raises(ln.ContextError, match="no logits"):
        context.logits(0)
    context.decode(filled([5, 6]))
    for row in (0, 2, -2, 10**6, -(10**6)):
        with pytest.raises(ln.ContextError, match="no logits"):
            context.logits(row)
    with pytest.raises(ln.ContextError, match="no embeddings"):
        context.embeddings(1)
    with pytest.raises(ln.ContextError, match="no pooled embeddings"):
        context.embeddings_seq(0)


def test_token_embeddings(tiny_model: ln.Model, make_context: MakeContext) -> None:
    context = make_context(tiny_model, embeddings=True)
    context.decode(filled([5, 6]))
    assert context.embeddings(0).shape == (tiny_model.n_embd_out,)
    assert not np.array_equal(context.embeddings(0), context.embeddings(1))


def test_encode_needs_an_encoder(tiny_model: ln.Model, make_context: MakeContext) -> None:
    with pytest.raises(ln.ContextError, match="no encoder"):
        make_context(tiny_model).encode(filled([5]))


def test_threads(tiny_model: ln.Model, make_context: MakeContext) -> None:
    context = make_context(tiny_model)
    assert context.threads == (1, 1)
    context.set_threads(1, 2)
    assert context.threads == (1, 2)
    context.decode(filled([5, 6, 7]))
    for n in (0, -1, 10**6):
        with pytest.raises(ValueError, match="threads"):
            context.set_threads(n)


def test_performance(tiny_model: ln.Model, make_context: MakeContext) -> None:
    context = make_context(tiny_model, measure=True)
    context.decode(filled([5, 6, 7]))
    context.synchronize()
    context.decode(filled([5], 3))
    context.synchronize()
    seen = context.performance()
    assert (seen.n_prompt_tokens, seen.n_eval_tokens) == (3, 1)
    context.reset_performance()
    assert context.performance().n_eval_tokens <= 1


def test_abort_stops_a_running_decode(chat_model: ln.Model, make_context: MakeContext) -> None:
    context = make_context(chat_model, n_ctx=2048, n_batch=2048, n_ubatch=64)
    batch = filled([500 + i for i in range(1500)], capacity=2048)
    timer = threading.Timer(0.3, context.abort)
    timer.start()
    started = time.monotonic()
    with pytest.raises(ln.DecodeAborted) as caught:
        context.decode(batch)
    timer.join()
    assert caught.value.code == 2
    assert time.monotonic() - started < 60
    assert context.memory.pos_max(0) < 1499
    context.memory.clear()
    context.decode(filled(chat_model.vocab.tokenize(PROMPT, parse_special=True).tolist()))
    assert np.isfinite(context.logits(-1)).all()


def test_abort_before_a_call_and_withdrawn(tiny_model: ln.Model, make_context: MakeContext) -> None:
    context = make_context(tiny_model)
    context.abort()
    context.reset_abort()
    context.decode(filled([5]))
    context.abort()
    with pytest.raises(ln.DecodeAborted):
        context.decode(filled([5], 1))
    context.decode(filled([5], 1))  # the request is used up


def test_a_second_thread_is_refused(chat_model: ln.Model, make_context: MakeContext) -> None:
    context = make_context(chat_model, n_ctx=2048, n_batch=2048, n_ubatch=64)
    batch = filled([500 + i for i in range(1500)], capacity=2048)
    outcome: list[BaseException] = []

    def work() -> None:
        try:
            context.decode(batch)
        except ln.DecodeAborted as error:
            outcome.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    deadline = time.monotonic() + 60
    while not context._busy.locked() and time.monotonic() < deadline:
        time.sleep(0.001)
    other = filled([5])
    for call in (
        lambda: context.decode(other),
        lambda: context.step(other),
        lambda: context.memory.clear(),
        lambda: context.logits(0),
        lambda: context.state(),
    ):
        with pytest.raises(ln.ContextError, match="in use by another thread"):
            call()
    context.close()  # the running call keeps the memory until it ends
    assert context.closed
    context.abort()
    thread.join()
    assert len(outcome) == 1


def test_python_runs_while_c_computes(chat_model: ln.Model, make_context: MakeContext) -> None:
    context = make_context(chat_model, n_ctx=1024)
    ticks = 0
    done = threading.Event()

    def count() -> None:
        nonlocal ticks
        while not done.wait(0.001):
            ticks += 1

    thread = threading.Thread(target=count)
    thread.start()
    context.decode(filled([500 + i for i in range(200)], capacity=256))
    done.set()
    thread.join()
    assert ticks > 20


def test_use_after_close(tiny_model: ln.Model) -> None:
    context = ln.Context(tiny_model, ln.ContextParams(n_ctx=256, n_threads=1))
    memory, batch = context.memory, filled([5])
    context.close()
    context.close()
    calls = (
        lambda: context.decode(batch),
        lambda: context.encode(batch),
        lambda: context.step(batch),
        lambda: context.logits(0),
        lambda: context.threads,
        lambda: context.performance(),
        lambda: context.state(),
        lambda: context.sequence_state(0),
        lambda: context.detach_threadpool(),
        lambda: context.set_loras([]),
        lambda: memory.clear(),
        lambda: memory.pos_max(0),
        lambda: memory.can_shift,
    )
    for call in calls:
        with pytest.raises(ln.LlamaError, match=r"Context is closed|no encoder"):
            call()


def test_many_contexts_leave_no_memory_behind(tiny_model: ln.Model) -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    def cycle() -> Iterator[None]:
        for _ in range(50):
            with ln.Context(tiny_model, ln.ContextParams(n_ctx=8192, n_threads=1)) as context:
                context.decode(filled([5]))
            with pytest.raises(ln.ContextError):
                ln.Context(tiny_model, ln.ContextParams(n_ctx=8192, n_threads=1, type_k=ln.GgmlType.Q8_0))
            yield

    list(cycle())
    before = resident()
    list(cycle())
    assert resident() - before < 8 << 20  # fifty contexts of 1 MiB of cache and more of buffers each
