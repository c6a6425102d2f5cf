"""Fixtures: one server for the faults that it must survive, and others where a fault needs its own."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from books import Books
from server_process import ServerProcess

#: gunicorn's settings of this server, with small buffers for what clients do not read.
NARROW = """
from server.gunicorn_settings import *

def post_worker_init(worker):
    import server.worker
    server.worker.SEND_BUFFER = 4096
"""

SETTINGS = {"HTTP_WORKERS": "16", "MODEL_PARALLEL": "4", "MODEL_CONTEXT": "1024", "QUEUE_LIMIT": "8"}


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server that is ready: four sequences of 1024 tokens each, at most eight requests waiting."""
    folder = tmp_path_factory.mktemp("faults")
    (folder / "settings.py").write_text(NARROW)
    command = (sys.executable, "-m", "gunicorn", "-c", str(folder / "settings.py"), "--pythonpath", ".")
    with ServerProcess(folder / "log", *command, CLIENT_TIMEOUT="2", **SETTINGS) as process:
        process.wait_ready()
        yield process


@pytest.fixture
def books(server: ServerProcess) -> Iterator[Books]:
    """The books of `server`; checked when the test is over: it answers, holds nothing more and logged no traceback."""
    opened = Books(server)
    yield opened
    opened.check()


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Callable[..., ServerProcess]]:
    """Starts further servers, by command and variables; they are stopped at the end of the test."""
    started: list[ServerProcess] = []

    def start(*command: str, **variables: str) -> ServerProcess:
        started.append(ServerProcess(tmp_path / f"log{len(started)}", *command, **{**SETTINGS, **variables}))
        return started[-1]

    yield start
    for process in started:
        process.__exit__()
