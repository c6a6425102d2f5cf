"""Fixtures: one real server process for the whole room, and others where a test needs its own."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from browser import Visit, launch_browser
from playwright.sync_api import Browser
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


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Headless Chromium. Not for the session: while it is there, no other event loop can run in this thread."""
    with launch_browser() as browser:
        yield browser


@pytest.fixture
def visit(browser: Browser, server: ServerProcess) -> Iterator[Visit]:
    """The page in a fresh browser profile; fails if anything went wrong in it meanwhile."""
    server.wait_idle()
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    opened = Visit(context, server)
    yield opened
    context.close()
    assert opened.wrong == []
