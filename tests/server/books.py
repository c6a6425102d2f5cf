"""What a server holds and has counted, before a fault and after it."""

import contextlib
import re
import socket
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from server_process import ServerProcess, eventually


def worker_of(server: ServerProcess) -> int:
    """The process that answers."""
    return int(server.get("/v1/engine").json["worker"])


def entries(pid: int, kind: str) -> int:
    """How many entries /proc has for a process: `fd` descriptors, `task` threads."""
    return sum(1 for _ in Path(f"/proc/{pid}/{kind}").iterdir())


def descriptors(pid: int, besides: Path | None) -> int:
    """How many descriptors a process has, but those of files in the folder `besides`."""
    count = 0
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed meanwhile
            count += besides is None or besides not in entry.readlink().parents
    return count


def resident(pid: int) -> int:
    """A process's resident memory in bytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))


def now(server: ServerProcess) -> dict[str, int]:
    """What the engine does at this moment: `running`, `waiting`, `sequences`, ... (GET /v1/engine)."""
    gauges: dict[str, int] = server.get("/v1/engine").json["now"]
    return gauges


def wait_idle(server: ServerProcess) -> None:
    """Wait until nothing runs and nothing waits."""

    def idle() -> bool:
        gauges = now(server)
        return gauges["running"] == gauges["waiting"] == 0

    eventually(idle, "the engine is idle")


def outcomes(server: ServerProcess) -> Counter[tuple[str, str]]:
    """Chats counted so far, by status and finish_reason."""
    counted: Counter[tuple[str, str]] = Counter()
    for line in server.metrics_text().splitlines():
        if line.startswith("lucid_requests_total{") and 'route="/v1/chat/completions"' in line:
            labels = dict(re.findall(r'(\w+)="([^"]*)"', line))
            counted[labels["status"], labels["finish_reason"]] += int(float(line.rpartition(" ")[2]))
    return counted


def fill_threads(server: ServerProcess, pid: int) -> None:
    """Let the server start all its HTTP threads, so that those started later are leaked ones."""
    last = 0
    while (threads := entries(pid, "task")) > last:
        last = threads
        silent = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(100)]
        time.sleep(0.5)
        for sock in silent:
            sock.close()


class Books:
    """The account of one server from now on. Nobody else may use the server meanwhile."""

    def __init__(self, server: ServerProcess, besides: Path | None = None) -> None:
        """Open files in the folder `besides` do not count: a store keeps some for those who read at once."""
        self._server = server
        self._besides = besides
        self._ask()  # so that the compute threads are there
        wait_idle(server)
        self.worker = worker_of(server)
        fill_threads(server, self.worker)
        self._descriptors = self._least_descriptors()
        self._threads = entries(self.worker, "task")
        self._engine = server.get("/v1/engine").json
        self._outcomes = outcomes(server)  # `fill_threads` took longer than counting what was asked before it
        self._tracebacks = server.output.count("Traceback")

    def _least_descriptors(self) -> int:
        """Descriptors once the connections of those who looked are closed: when no fewer are seen for a while."""
        least, unchanged = descriptors(self.worker, self._besides), 0
        while unchanged < 15:
            time.sleep(0.02)
            seen = descriptors(self.worker, self._besides)
            least, unchanged = min(least, seen), 0 if seen < least else unchanged + 1
        return least

    def _ask(self) -> None:
        """Let every sequence answer something."""
        server = self._server
        sequences = now(server)["sequences"]
        with ThreadPoolExecutor(sequences) as pool:
            answers = list(
                pool.map(lambda n: server.chat(f"Say {n}.", max_tokens=4, ignore_eos=True), range(sequences))
            )
        assert [answer.status for answer in answers] == [200] * sequences

    def counted(self) -> Counter[tuple[str, str]]:
        """Generations counted since the books were opened, by status and finish_reason."""
        return outcomes(self._server) - self._outcomes

    def expect(self, *counted: tuple[str, str, int]) -> None:
        """Wait until exactly these generations are counted: status, finish_reason, how many."""
        expected = Counter({(status, reason): number for status, reason, number in counted if number})
        seen: list[Counter[tuple[str, str]]] = []

        def as_expected() -> bool:
            seen.append(self.counted())
            return seen[-1] == expected

        try:
            eventually(as_expected, f"counted {expected}")
        except AssertionError as error:
            raise AssertionError(f"{error}; counted {seen[-1]}") from None

    def check_successor(self, server: ServerProcess | None = None, tracebacks: int = 0) -> None:
        """Another worker has taken the place, of this server or of `server`, and holds no more than the first one did.

        Call it on books that were opened on a fresh worker. The fault must have logged as many `tracebacks`, and all
        since then none.
        """
        successor = Books(server or self._server)
        assert successor.worker != self.worker, "the worker was not replaced"
        successor._descriptors, successor._threads = self._descriptors, self._threads
        successor._tracebacks = tracebacks + (self._tracebacks if server is None else 0)
        successor.check()

    def check(self) -> None:
        """The same worker answers, every sequence is free, nothing is leaked, no (further) traceback was logged."""
        server = self._server
        wait_idle(server)
        gauges = now(server)
        assert server.metric("lucid_kv_cache_usage_ratio") == 0
        assert (gauges["kv_cells_used"] > 0) == (gauges["sequences_cached"] > 0)
        self._ask()
        assert worker_of(server) == self.worker, "the worker was replaced"
        wait_idle(server)
        eventually(lambda: descriptors(self.worker, self._besides) <= self._descriptors, "no descriptor is leaked")
        eventually(lambda: entries(self.worker, "task") <= self._threads, "no thread is leaked")
        engine = server.get("/v1/engine").json
        assert engine["now"]["kv_cells_used"] <= engine["now"]["kv_cells"]
        assert engine["totals"]["failed"] == self._engine["totals"]["failed"]
        logged = server.output
        assert logged.count("Traceback") == self._tracebacks, logged[logged.find("Traceback") :][:3000]
