"""Fixtures: one real server process for the whole room, and others where a test needs its own."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from server_process import MODEL, ServerProcess

from llama_native import Model, ModelParams


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server that is ready: four sequences of 1024 tokens each, at most eight requests waiting."""
    log = tmp_path_factory.mktemp("server") / "log"
    with ServerProcess(log, MODEL_PARALLEL="4", MODEL_CONTEXT="1024", QUEUE_LIMIT="8") as process:
        process.wait_ready()
        yield process


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Callable[..., ServerProcess]]:
    """Starts further servers, by command and variables; they are stopped at the end of the test."""
    started: list[ServerProcess] = []

    def start(*command: str, **variables: str) -> ServerProcess:
        started.append(ServerProcess(tmp_path / f"log{len(started)}", *command, **variables))
        return started[-1]

    yield start
    for process in started:
        process.__exit__()


@pytest.fixture(scope="session")
def vocab_model() -> Iterator[Model]:
    """The demo model's vocabulary and metadata, without its weights."""
    with Model(MODEL, ModelParams(vocab_only=True)) as model:
        yield model
