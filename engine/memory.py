"""How much memory this process could still get: from the machine, or from its control groups where that is less.

Reads /proc and the control groups of both versions (Linux: Documentation/admin-guide/cgroup-v2.rst, cgroup-v1/memory).
Knows bytes, not what they are for.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final, NamedTuple

from llama_native import group_folders


class _Files(NamedTuple):
    """Where a version of control groups keeps its figures, and what it calls the pages that it can take back."""

    limit: str
    used: str
    cached: tuple[str, str]


_V2: Final = _Files("memory.max", "memory.current", ("active_file", "inactive_file"))
_V1: Final = _Files("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_active_file", "total_inactive_file"))


def free_memory(proc: Path = Path("/proc"), groups: Path = Path("/sys/fs/cgroup")) -> int:
    """Return how many bytes this process could get now without anything being swapped out or killed.

    Files in the page cache count as free: the kernel gives them up. `proc` and `groups` are where Linux shows them.
    """
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    with suppress(OSError, KeyError, ValueError):
        fields = dict(line.split(":", 1) for line in (proc / "meminfo").read_text("ascii").splitlines())
        free = int(fields["MemAvailable"].split()[0]) * 1024
    return max(0, min([free, *_rooms(proc, groups)]))


def _rooms(proc: Path, groups: Path) -> Iterator[int]:
    """Yield what each control group of this process, the outer ones included, has left of its limit."""
    for folder, first_version in group_folders("memory", proc, groups):
        with suppress(OSError, ValueError):  # "max" is no number: no limit
            yield _room(folder, _V1 if first_version else _V2)


def _room(group: Path, files: _Files) -> int:
    limit, used = (int((group / name).read_text("ascii")) for name in (files.limit, files.used))
    stat = dict(line.split() for line in (group / "memory.stat").read_text("ascii").splitlines())
    return limit - used + sum(int(stat.get(name, 0)) for name in files.cached)
