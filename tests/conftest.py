"""What every package's tests share: where the demo models are, and a processor for each worker of pytest-xdist.

They know file names only; opening a model is each package's own business. `make models` puts the demo models in place,
and a test that needs one fails without it. Gemma is optional (`make gemma`): tests that need it are skipped.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def pytest_configure(config: pytest.Config) -> None:
    """Keep a worker, and every server that it starts, on processors of its own.

    Compute threads wait for each other at every operation, so that two models on the same processors would slow each
    other down many times.
    """
    worker = getattr(config, "workerinput", None)
    if worker is None or not hasattr(os, "sched_setaffinity"):
        return
    allowed = sorted(os.sched_getaffinity(0))
    mine = allowed[int(worker["workerid"].removeprefix("gw")) :: worker["workercount"]]
    if mine:
        os.sched_setaffinity(0, mine)


def _demo_model(filename: str) -> Path:
    path = ROOT / "model" / filename
    if not path.is_file():
        pytest.fail(f"{path} is missing; run `make models`")
    return path


@pytest.fixture(scope="session")
def root() -> Path:
    """The root of the repository."""
    return ROOT


@pytest.fixture(scope="session")
def chat_model_path() -> Path:
    """The demo chat model, a 135M Llama architecture in Q4_1."""
    return _demo_model("model.gguf")


@pytest.fixture(scope="session")
def embedding_model_path() -> Path:
    """The demo embedding model, all-MiniLM-L6-v2 in F16."""
    return _demo_model("embed.gguf")


@pytest.fixture(scope="session")
def gemma_model_path() -> Path:
    """Gemma 3 270M in Q4_K_M, whose layers attend over a sliding window."""
    path = ROOT / "model" / "gemma-3-270m.gguf"
    if not path.is_file():
        pytest.skip("Gemma is not in place; run `make gemma`")
    return path
