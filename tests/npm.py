"""Packages for Node that tests use: what a folder's package-lock.json names, installed beside it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest


def install(folder: Path) -> None:
    """Install the packages of `folder` where they are not installed yet.

    Skips the test where there is no Node; in continuous integration, where CI is set, it fails.
    """
    missing = [name for name in ("node", "npm") if shutil.which(name) is None]
    if missing:
        reason = f"{' and '.join(missing)} not found; install nodejs and npm"
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)
    installed = folder / "node_modules" / ".package-lock.json"
    if not installed.is_file() or installed.stat().st_mtime < (folder / "package-lock.json").stat().st_mtime:
        subprocess.run(["npm", "ci", "--no-audit", "--no-fund"], cwd=folder, check=True, timeout=240)
