"""A control group of this machine with a memory limit, for servers that shall have less than the machine has."""

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

import pytest

ROOT = Path("/sys/fs/cgroup")


@contextmanager
def memory_group(limit: int) -> Iterator[str]:
    """A group that may use `limit` bytes; yields a shell command line that runs `python -m server` in it.

    Skips where groups have no memory limits or are not ours to make; fails where that is so in CI though they are.
    """
    (path,) = re.findall(r"^(?:\d+:memory|0:):/?(.*)$", Path("/proc/self/cgroup").read_text(), re.MULTILINE)[:1]
    first = (ROOT / "memory").exists()  # version 1 of control groups
    parent = (ROOT / "memory" if first else ROOT) / path
    if not first and "memory" not in _words(parent / "cgroup.subtree_control"):
        pytest.skip(f"control groups in {parent} have no memory limits: cgroup.subtree_control")
    group = parent / f"lucid-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        _missing(parent, error)
    try:
        try:
            (group / ("memory.limit_in_bytes" if first else "memory.max")).write_text(str(limit))
        except OSError as error:
            _missing(parent, error)
        yield f"echo $$ > {group}/cgroup.procs; exec {sys.executable} -m server"
    finally:
        for process in _words(group / "cgroup.procs"):  # a test that failed may leave some
            with suppress(OSError):
                (parent / "cgroup.procs").write_text(process)
        group.rmdir()


def _words(file: Path) -> list[str]:
    try:
        return file.read_text().split()
    except OSError:
        return []


def _missing(parent: Path, error: OSError) -> NoReturn:
    reason = f"no control group can be made here: {error}"
    if os.environ.get("CI") and os.access(parent, os.W_OK):
        pytest.fail(reason)
    pytest.skip(reason)
