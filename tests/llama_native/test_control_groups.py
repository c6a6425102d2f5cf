"""How many CPUs Linux lets a process have: its affinity, and the quotas of control groups of both versions."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from llama_native import available_cpus


def write(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text + "\n")


@pytest.fixture(autouse=True)
def sixteen_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))


def test_no_groups_are_no_quota(tmp_path: Path) -> None:
    assert available_cpus(tmp_path, tmp_path) == 16
    assert 1 <= available_cpus() <= 16


@pytest.mark.parametrize(
    ("quota", "cpus"),
    [
        ("max 100000", 16),
        ("200000 100000", 2),
        ("250000 100000", 3),
        ("5000 100000", 1),
        ("6400000 100000", 16),
        ("0 100000", 16),
        ("200000 0", 16),
        ("nonsense", 16),
        ("", 16),
    ],
)
def test_version_2(tmp_path: Path, quota: str, cpus: int) -> None:
    write(tmp_path / "proc" / "self", cgroup="0::/")
    write(tmp_path / "groups", cpu__max=quota)
    assert available_cpus(tmp_path / "proc", tmp_path / "groups") == cpus


def test_the_smallest_quota_along_the_path_counts(tmp_path: Path) -> None:
    proc, groups = tmp_path / "proc", tmp_path / "groups"
    write(proc / "self", cgroup="0::/system.slice/lucid.service")
    write(groups / "system.slice", cpu__max="400000 100000")
    write(groups / "system.slice" / "lucid.service", cpu__max="800000 100000")
    write(groups / "system.slice" / "other.service", cpu__max="100000 100000")
    assert available_cpus(proc, groups) == 4
    write(groups / "system.slice" / "lucid.service", cpu__max="150000 50000")
    assert available_cpus(proc, groups) == 3


def test_version_1_in_a_container_that_sees_the_path_of_the_host(tmp_path: Path) -> None:
    proc, groups = tmp_path / "proc", tmp_path / "groups"
    write(proc / "self", cgroup="7:cpuset:/docker/0123\n5:cpu,cpuacct:/docker/0123\n4:memory:/docker/0123\n0::/")
    write(groups / "cpu", cpu__cfs_quota_us="-1", cpu__cfs_period_us="100000")
    assert available_cpus(proc, groups) == 16
    write(groups / "cpu", cpu__cfs_quota_us="150000")
    assert available_cpus(proc, groups) == 2
    write(groups / "cpu" / "docker" / "0123", cpu__cfs_quota_us="50000", cpu__cfs_period_us="100000")
    assert available_cpus(proc, groups) == 1
