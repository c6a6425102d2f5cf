"""`bench.ports`: nobody else is handed the same port."""

import os
import socket
import subprocess
import sys
from pathlib import Path

from bench import ports
from bench.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
ALL = "from bench.ports import SHARE, free_port; print(*{free_port() for _ in range(SHARE // 8)})"


def ports_of(worker: str) -> set[int]:
    """Some of the ports of a process of pytest-xdist."""
    done = subprocess.run(
        [sys.executable, "-c", ALL],
        cwd=ROOT, env={**os.environ, "PYTEST_XDIST_WORKER": worker}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return {int(port) for port in done.stdout.split()}


def test_no_port_is_handed_out_twice_in_a_row() -> None:
    some = [free_port() for _ in range(ports.SHARE // 8)]
    assert len(set(some)) == len(some)
    lowest, _ = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    if lowest >= 32768:  # as Linux comes; below, the kernel hands them out too
        assert max(some) < lowest


def test_processes_have_ports_of_their_own() -> None:
    one, other = ports_of("gw0"), ports_of("gw1")
    assert one
    assert other
    assert max(one) < min(other)


def test_a_port_in_use_is_passed_over() -> None:
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", free_port()))
        taken.listen()
        number = taken.getsockname()[1]
        assert all(free_port() != number for _ in range(ports.SHARE))
