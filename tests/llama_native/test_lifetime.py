"""Freed in any order, dropped without closing, alive at exit: nothing crashes. Each in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.llama_native import tiny

SETUP = """
import gc, itertools, sys, threading
import numpy as np
import llama_native as ln
from llama_native import samplers as S

def make():
    model = ln.Model(sys.argv[1])
    context = ln.Context(model, ln.ContextParams(n_ctx=256, n_threads=2))
    adapter = ln.LoraAdapter(model, sys.argv[2])
    sampler = ln.Sampler([S.grammar(model.vocab, 'root ::= [a-z]+'), S.penalties(model.vocab), S.greedy()])
    pool = ln.ThreadPool(2)
    context.set_loras([(adapter, 1.0)])
    context.attach_threadpool(pool)
    batch = ln.Batch(4)
    batch.extend([5, 6, 7], 0, 0, output_last=True)
    context.step(batch, [2], [sampler])
    return {"model": model, "context": context, "adapter": adapter, "sampler": sampler, "pool": pool}
"""

CLOSE_IN_EVERY_ORDER = """
for order in itertools.permutations(("model", "context", "adapter", "sampler", "pool")):
    things = make()
    view = things["context"].logits(-1)
    for name in order:
        things[name].close()
    assert np.isfinite(view).all()
"""

DROP_IN_EVERY_ORDER = """
for order in itertools.permutations(("model", "context", "adapter", "sampler", "pool")):
    things = make()
    for name in order:
        del things[name]
"""

IN_A_CYCLE = """
for _ in range(20):
    things = make()
    things["self"] = things
    things["model"].things = things
    del things
gc.collect()
"""

USE_AFTER_THE_MODEL_CLOSED = """
things = make()
things["model"].close()
context, sampler = things["context"], things["sampler"]
copy = sampler.clone()
batch = ln.Batch(1)
for pos in range(3, 20):
    batch.clear()
    batch.add(7, pos, 0, True)
    context.step(batch, [0], [copy])
"""

ALIVE_AT_EXIT = """
things = make()
keep = things["context"].logits(-1)
sys.modules["things"] = things
"""

COMPUTING_AT_EXIT = """
things = make()
context = things["context"]
def work():
    batch = ln.Batch(1)
    while True:
        context.memory.clear()
        for pos in range(200):
            batch.clear()
            batch.add(7, pos, 0, True)
            context.step(batch, [0], [None])
threading.Thread(target=work, daemon=True).start()
import time
time.sleep(0.2)
"""

CLOSED_WHILE_COMPUTING = """
for _ in range(10):
    things = make()
    context = things["context"]
    def work():
        batch = ln.Batch(1)
        try:
            for pos in range(3, 250):
                batch.clear()
                batch.add(7, pos, 0, True)
                context.step(batch, [0], [None])
        except ln.ClosedError:
            pass
    thread = threading.Thread(target=work)
    thread.start()
    for thing in things.values():
        thing.close()
    thread.join()
"""

SCENARIOS = {name: value for name, value in globals().items() if name.isupper() and name not in ("SETUP", "SCENARIOS")}


@pytest.mark.parametrize("name", SCENARIOS)
def test_scenario(name: str, tiny_path: Path, tmp_path: Path) -> None:
    adapter = tiny.lora(tmp_path / "adapter.gguf", 0.5)
    result = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", SETUP + SCENARIOS[name], str(tiny_path), str(adapter)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, "")
