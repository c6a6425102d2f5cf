"""The demo model and engines on it, for the engine's tests.

Engines are made without calibration and with one thread, so that tests behave alike on every host; calibration has
tests of its own.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest

from engine import Engine, EngineSettings, Layout
from llama_native import Model

sys.path.append(str(Path(__file__).parent.parent / "llama_native"))
import tiny

MakeEngine = Callable[..., Engine]

# how long an example takes depends on the host's load
hypothesis.settings.register_profile("engine", deadline=None)
hypothesis.settings.load_profile("engine")


@pytest.fixture(scope="session")
def model(chat_model_path: Path) -> Iterator[Model]:
    with Model(chat_model_path) as loaded:
        yield loaded


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    """A Llama with random weights in 32 bits, for behaviour that does not depend on meaning."""
    with Model(tiny.llama(tmp_path_factory.mktemp("tiny") / "llama.gguf")) as loaded:
        yield loaded


@pytest.fixture
def make_engine() -> Iterator[MakeEngine]:
    """Makes started engines and closes them at the end of the test."""
    engines: list[Engine] = []

    def make(model: Model, **settings: object) -> Engine:
        defaults: dict[str, object] = {"calibrate": False, "threads": 1, "context": 1024, "parallel": 4}
        engine = Engine(model, EngineSettings(**{**defaults, **settings}))  # type: ignore[arg-type]
        engine.start()
        engines.append(engine)
        return engine

    yield make
    for engine in engines:
        engine.close()


@pytest.fixture(params=[Layout.STREAMS, Layout.UNIFIED])
def layout(request: pytest.FixtureRequest) -> Layout:
    """Either layout of the KV cache."""
    value: Layout = request.param
    return value
