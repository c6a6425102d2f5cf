"""Compute threads go when they are told to."""

import threading
import time
from pathlib import Path

import numpy as np
import pytest

from llama_native import Batch, Context, ContextParams, Model, release_compute_threads

TASKS = Path("/proc/self/task")


def _compute(model: Model) -> None:
    with Context(model, ContextParams(n_ctx=256, n_threads=3, n_threads_batch=3)) as context:
        batch = Batch(8)
        batch.extend(np.arange(8, dtype=np.int32), 0, 0, output_last=True)
        context.step(batch, (7,), (None,))


@pytest.mark.skipif(not TASKS.exists(), reason="counts threads by /proc")
def test_compute_threads_are_released(tiny_model: Model) -> None:
    seen: list[tuple[int, bool]] = []

    def work() -> None:
        for _ in range(2):  # the second time with threads made anew
            before = set(TASKS.iterdir())
            _compute(tiny_model)
            grown = len(set(TASKS.iterdir()) - before)
            release_compute_threads()
            deadline = time.monotonic() + 10  # they end by themselves, a moment later
            while not (gone := set(TASKS.iterdir()) <= before) and time.monotonic() < deadline:
                time.sleep(0.01)
            seen.append((grown, gone))

    release_compute_threads()  # a thread that has none
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(2, True), (2, True)]
