"""Start a server process, wait until it answers, measure its memory, stop it with everything it started.

Knows processes, ports and a path that tells readiness; not which server it is.
"""

from __future__ import annotations

import atexit
import contextlib
import http.client
import os
import shlex
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from bench import ENVIRONMENT


class ServerFailedError(Exception):
    """A server process ended or did not become ready; the message ends with the last lines of its log."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Resident bytes: of the largest process, and of all together with shared pages divided among them (PSS)."""

    largest_rss: int
    total_pss: int
    processes: int


class ServerProcess:
    """A running server in a process group of its own; a context manager that always stops it.

    `command` and `environment` (added to ours) are started at once; `wait_ready` blocks until GET `ready` on
    127.0.0.1:`port` answers 200. Output goes to a temporary log file that is deleted on `stop`.
    """

    def __init__(
        self, command: list[str], port: int, environment: dict[str, str] | None = None, ready: str = "/ready"
    ) -> None:
        self.port = port
        self.command = command
        self._ready = ready
        self._log = tempfile.NamedTemporaryFile(prefix="bench-server-", suffix=".log")  # noqa: SIM115 (closed by stop)
        self._process = subprocess.Popen(
            command,
            env={**ENVIRONMENT, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        atexit.register(self.stop)

    @property
    def url(self) -> str:
        """Root of the server."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """The process that was started, leader of the group."""
        return self._process.pid

    def wait_ready(self, timeout: float = 120.0) -> Self:
        """Wait until the server is ready. Raises ServerFailedError when it ends first or `timeout` seconds pass."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            if (code := self._process.poll()) is not None:
                raise ServerFailedError(f"{shlex.join(self.command)} ended with code {code}:\n{self.log_tail()}")
            if self._is_ready():
                return self
            time.sleep(0.1)
        raise ServerFailedError(f"{shlex.join(self.command)} was not ready in {timeout:g} s:\n{self.log_tail()}")

    def _is_ready(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=2.0)
        try:
            connection.request("GET", self._ready)
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    @property
    def log(self) -> str:
        """What the server has written so far."""
        return Path(self._log.name).read_text(errors="replace")

    def log_tail(self, lines: int = 15) -> str:
        """The last lines the server wrote."""
        return "\n".join(self.log.splitlines()[-lines:])

    def memory(self) -> Memory:
        """Resident memory of the process group now (Linux: /proc)."""
        rss, pss = [], 0
        for pid in self.members():
            with contextlib.suppress(OSError):
                lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
                kib = {name: int(value.split()[0]) for name, _, value in (line.partition(":") for line in lines)}
                rss.append(kib["Rss"] * 1024)
                pss += kib["Pss"] * 1024
        return Memory(max(rss, default=0), pss, len(rss))

    def cpu_seconds(self) -> float:
        """Processor time of the group's processes so far, of all their threads; to the nanosecond, on Linux.

        The clock's number is what glibc's clock_getcpuclockid(3) makes of a process id.
        """
        seconds = 0.0
        for pid in self.members():
            with contextlib.suppress(OSError):
                seconds += time.clock_gettime(~pid << 3 | 2)
        return seconds

    def members(self) -> list[int]:
        """The processes of the group."""
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with contextlib.suppress(OSError):
                    if os.getpgid(int(entry.name)) == self._process.pid:
                        found.append(int(entry.name))
        return found

    def stop(self, patience: float = 10.0) -> None:
        """Terminate the group; kill it when it is still there after `patience` seconds. May be called twice."""
        atexit.unregister(self.stop)
        if self._process.poll() is None:
            self._signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(patience)
        self._signal(signal.SIGKILL)
        self._process.wait(patience)
        self._log.close()

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
