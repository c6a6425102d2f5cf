"""Clients for Node against the real server: the openai package and the Vercel AI SDK (tests/server/node)."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from server_process import ServerProcess

from tests import npm

FOLDER = Path(__file__).with_name("node")


@pytest.fixture(scope="module", autouse=True)
def packages() -> None:
    npm.install(FOLDER)


@pytest.mark.parametrize("file", sorted(path.name for path in FOLDER.glob("*.test.mjs")))
def test_node(server: ServerProcess, file: str) -> None:
    result = subprocess.run(
        ["node", "--test", file],
        cwd=FOLDER,
        env={**os.environ, "BASE_URL": f"{server.url}/v1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=240,
        check=False,
    )
    assert result.returncode == 0, result.stdout
