"""Clients for Node against the real server: the openai package and the Vercel AI SDK (tests/server/node)."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from server_process import ServerProcess

FOLDER = Path(__file__).with_name("node")


@pytest.fixture(scope="session")
def packages() -> None:
    """Installs what the lock file names, where it is not installed yet."""
    missing = [name for name in ("node", "npm") if shutil.which(name) is None]
    if missing:
        reason = f"{' and '.join(missing)} not found; install nodejs and npm"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    installed = FOLDER / "node_modules" / ".package-lock.json"
    if not installed.is_file() or installed.stat().st_mtime < (FOLDER / "package-lock.json").stat().st_mtime:
        subprocess.run(["npm", "ci", "--no-audit", "--no-fund"], cwd=FOLDER, check=True, timeout=240)


@pytest.mark.usefixtures("packages")
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
