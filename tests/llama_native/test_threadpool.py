"""Thread pools: attached, shared, paused, and freed in any order."""

from __future__ import annotations

import gc

import numpy as np
import pytest

import llama_native as ln
from tests.llama_native.conftest import MakeContext, filled


def test_a_pool_computes_the_same(tiny_model: ln.Model, make_context: MakeContext) -> None:
    context = make_context(tiny_model, n_threads=2)
    context.decode(filled([5, 6, 7]))
    wanted = context.logits(-1).copy()
    with ln.ThreadPool(2, poll=0) as pool, ln.ThreadPool(1, ln.ThreadPriority.LOW) as batch_pool:
        for pools in ((pool,), (pool, batch_pool)):
            context.attach_threadpool(*pools)
            context.memory.clear()
            context.decode(filled([5, 6, 7]))
            np.testing.assert_allclose(context.logits(-1), wanted, atol=1e-4)
            context.decode(filled([8], 3))
    context.detach_threadpool()
    context.decode(filled([8], 4))


def test_a_smaller_pool_limits_the_threads(tiny_model: ln.Model, make_context: MakeContext) -> None:
    context = make_context(tiny_model, n_threads=2, n_threads_batch=3)
    with ln.ThreadPool(2) as pool, ln.ThreadPool(1) as batch_pool:
        context.attach_threadpool(pool, batch_pool)
        assert context.threads == (2, 1)
        context.set_threads(4, 4)
        assert context.threads == (2, 1)
        context.decode(filled([5, 6, 7]))
        context.detach_threadpool()
        assert context.threads == (4, 4)


def test_pause_and_resume(tiny_model: ln.Model, make_context: MakeContext) -> None:
    context = make_context(tiny_model, n_threads=2)
    pool = ln.ThreadPool(2, paused=True, cpus=[0], strict_cpu=False)
    context.attach_threadpool(pool)
    for pos in range(4):
        context.decode(filled([5], pos))
        pool.pause()
        if pos % 2:
            pool.resume()


def test_lifetimes(tiny_model: ln.Model, make_context: MakeContext) -> None:
    context = make_context(tiny_model, n_threads=2)
    for pos in range(6):
        pool = ln.ThreadPool(2)
        context.attach_threadpool(pool)
        if pos % 2:
            context.decode(filled([5], context.memory.pos_max(0) + 1))
        pool.close()  # the context keeps it
        del pool
        gc.collect()
        context.decode(filled([5], context.memory.pos_max(0) + 1))
        if pos % 3 == 0:
            context.detach_threadpool()
            gc.collect()
    context.decode(filled([5], context.memory.pos_max(0) + 1))
    context.close()


def test_two_contexts_share_a_pool(tiny_model: ln.Model, make_context: MakeContext) -> None:
    contexts = [make_context(tiny_model, n_threads=2) for _ in range(2)]
    with ln.ThreadPool(2) as pool:
        for context in contexts:
            context.attach_threadpool(pool)
    for pos in range(3):
        for context in contexts:
            context.decode(filled([5], pos))
    contexts[0].close()
    contexts[1].decode(filled([5], 3))


def test_bad_parameters(tiny_model: ln.Model, make_context: MakeContext) -> None:
    for n in (0, -1, 10**6):
        with pytest.raises(ValueError, match="threads"):
            ln.ThreadPool(n)
    for poll in (-1, 101):
        with pytest.raises(ValueError, match="poll"):
            ln.ThreadPool(1, poll=poll)
    with pytest.raises(ValueError, match="CPU"):
        ln.ThreadPool(1, cpus=[-1])
    pool = ln.ThreadPool(1)
    pool.close()
    context = make_context(tiny_model)
    for call in (pool.pause, pool.resume, lambda: context.attach_threadpool(pool)):
        with pytest.raises(ln.ClosedError):
            call()
