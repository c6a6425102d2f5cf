"""Fixtures for the benchmarks' tests: a real server under load, and llama.cpp's tools where they are built."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bench import servers
from bench.client import Endpoint
from bench.http import body
from bench.llama_tools import ToolMissingError, tool
from bench.processes import ServerProcess
from bench.servers import Common, Peer


@pytest.fixture(scope="session")
def common(chat_model_path: Path) -> Common:
    """Small: two threads, four slots of 1024 tokens."""
    return Common(str(chat_model_path), threads=2, slots=4, slot_context=1024)


#: Nothing is left to measurement, so that a server starts fast.
EXPLICIT = {"MODEL_FLASH_ATTENTION": "off", "MODEL_KV_LAYOUT": "streams", "MODEL_STEP_MS": "100"}


@pytest.fixture(scope="session")
def our_server(common: Common) -> Peer:
    """How our server is started."""
    return servers.ours(common, EXPLICIT)


@pytest.fixture(scope="session")
def server(our_server: Peer) -> Iterator[ServerProcess]:
    """Our server, started once."""
    with our_server.start() as process:
        yield process.wait_ready()


@pytest.fixture
def endpoint(server: ServerProcess) -> Endpoint:
    """Answers of 12 tokens."""
    return Endpoint(server.url, body("rusty_llm", 12))


@pytest.fixture(scope="session")
def llama_server() -> Path:
    """llama-server; its tests are skipped where `build_llama.sh --tools` has not run."""
    try:
        return tool("llama-server")
    except ToolMissingError as error:
        pytest.skip(str(error))
