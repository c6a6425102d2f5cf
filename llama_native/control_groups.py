"""What Linux's control groups, of both versions, let this process have: its groups' folders, and how many CPUs.

Containers and service managers bound CPUs by pinning, which the affinity mask shows, or by a quota of time, which only
the groups show. Knows Documentation/admin-guide/cgroup-v2.rst and Documentation/scheduler/sched-bwc.rst; nothing of
models.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_PROC = Path("/proc")
_GROUPS = Path("/sys/fs/cgroup")


def group_folders(controller: str, proc: Path = _PROC, groups: Path = _GROUPS) -> Iterator[tuple[Path, bool]]:
    """Yield the folder of each group of this process that `controller` may bound, the outer ones first.

    With it comes whether the group is of version 1. In a container the path that Linux tells may be the host's, so a
    folder need not exist.
    """
    with suppress(OSError, ValueError):
        for line in (proc / "self" / "cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if not controllers or controller in controllers.split(","):
                root = groups / controller if controllers else groups
                parts = Path(path).parts[1:]
                for depth in range(len(parts) + 1):
                    yield root / Path(*parts[:depth]), bool(controllers)


def available_cpus(proc: Path = _PROC, groups: Path = _GROUPS) -> int:
    """Return how many CPUs this process may use: those it is bound to, or its quota of CPU time where that is less.

    A part of a CPU counts as one. `proc` and `groups` are where Linux shows control groups.
    """
    bound = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([bound, *(math.ceil(quota) for quota in _quotas(proc, groups))]))


def _quotas(proc: Path, groups: Path) -> Iterator[float]:
    """Yield the CPUs' worth of time that each group allows itself and those within it."""
    for folder, first_version in group_folders("cpu", proc, groups):
        with suppress(OSError, ValueError, ZeroDivisionError):  # "max" is no number: no quota
            if first_version:
                quota, period = (
                    int((folder / f"cpu.cfs_{name}_us").read_text("ascii")) for name in ("quota", "period")
                )
            else:
                quota, period = (int(word) for word in (folder / "cpu.max").read_text("ascii").split())
            if quota > 0:  # -1: none
                yield quota / period
