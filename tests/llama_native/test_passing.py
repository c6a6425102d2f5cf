"""Computing in a thread that ends with the work."""

import threading
import time
from pathlib import Path

import numpy as np
import pytest

from llama_native import Batch, Context, ContextParams, Model, in_passing


def test_results_and_errors_come_back() -> None:
    where = in_passing(threading.current_thread)
    assert where is not threading.current_thread()
    assert not where.is_alive()
    with pytest.raises(FileNotFoundError):
        in_passing(Path("/nowhere").read_bytes)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="counts threads by /proc")
def test_no_compute_thread_stays(tiny_model: Model) -> None:
    def compute() -> None:
        with Context(tiny_model, ContextParams(n_ctx=256, n_threads=3, n_threads_batch=3)) as context:
            batch = Batch(8)
            batch.extend(np.arange(8, dtype=np.int32), 0, 0, output_last=True)
            context.step(batch, (7,), (None,))

    tasks = Path("/proc/self/task")
    in_passing(compute)  # whatever is made once for the process is there now
    before = set(tasks.iterdir())
    in_passing(compute)
    deadline = time.monotonic() + 10  # the team ends by itself, a moment after its thread
    while not set(tasks.iterdir()) <= before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert set(tasks.iterdir()) <= before
