"""Free memory as Linux tells it: the machine's, and the limits of control groups of both versions."""

from pathlib import Path

import pytest

from engine.memory import free_memory

MIB = 2**20


def write(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text + "\n")


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """A machine with 8 GiB available."""
    write(tmp_path / "proc", meminfo="MemTotal: 16777216 kB\nMemAvailable: 8388608 kB")
    return tmp_path / "proc"


def test_the_machine(proc: Path, tmp_path: Path) -> None:
    assert free_memory(proc, tmp_path) == 8192 * MIB
    assert free_memory() > 0


def test_version_2(proc: Path, tmp_path: Path) -> None:
    groups = tmp_path / "groups"
    write(proc / "self", cgroup="0::/system.slice/lucid.service")
    stat = f"anon {50 * MIB}\nactive_file {100 * MIB}\ninactive_file {200 * MIB}"
    write(groups, memory__stat=stat)
    write(groups / "system.slice", memory__max="max", memory__current=str(900 * MIB), memory__stat=stat)
    assert free_memory(proc, groups) == 8192 * MIB
    service = groups / "system.slice" / "lucid.service"
    write(service, memory__max=str(1024 * MIB), memory__current=str(600 * MIB), memory__stat=stat)
    assert free_memory(proc, groups) == (1024 - 600 + 300) * MIB
    write(groups / "system.slice", memory__max=str(1000 * MIB))
    assert free_memory(proc, groups) == (1000 - 900 + 300) * MIB  # the outer one is fuller


def test_version_1_in_a_container_that_sees_the_path_of_the_host(proc: Path, tmp_path: Path) -> None:
    groups = tmp_path / "groups"
    write(proc / "self", cgroup="5:cpu,cpuacct:/docker/0123\n4:memory:/docker/0123\n0::/")
    stat = f"inactive_file 1\ntotal_active_file 0\ntotal_inactive_file {10 * MIB}"
    files = {"memory__limit_in_bytes": str(512 * MIB), "memory__usage_in_bytes": str(500 * MIB)}
    write(groups / "memory", memory__stat=stat, **files)
    assert free_memory(proc, groups) == 22 * MIB
    write(groups / "memory", memory__usage_in_bytes=str(600 * MIB))
    assert free_memory(proc, groups) == 0
