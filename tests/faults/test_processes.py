"""Processes of the server that are killed or told to stop while it is under load."""

import os
import signal
from collections.abc import Callable
from pathlib import Path

from books import Books, now, outcomes, worker_of
from server_process import ServerProcess, eventually
from streams import Streams

Launch = Callable[..., ServerProcess]

CLIENTS = 6
TOKENS = 12


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def descendants(pid: int) -> list[int]:
    return [found for child in children(pid) for found in (child, *descendants(child))]


def is_alive(pid: int) -> bool:
    """Whether a process still runs; one that nobody has waited for does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def whole(streams: Streams) -> int:
    return streams.outcomes.count("whole")


def answered(server: ServerProcess) -> int:
    """How many chats the log says were answered 200."""
    return server.output.count("POST /v1/chat/completions 200 ")


def test_the_worker_is_killed_under_load_and_the_server_told_to_stop(launch: Launch) -> None:
    """Kill -9 of the worker, twice, then SIGTERM: what is counted never falls, and no process is left."""
    server = launch()
    server.wait_ready()
    books = Books(server)
    kills = 2
    with Streams(server.port, CLIENTS, TOKENS) as streams:
        for _ in range(kills):
            seen = whole(streams)
            eventually(lambda seen=seen: whole(streams) >= seen + CLIENTS, "answers come")  # type: ignore[misc]
            worker = worker_of(server)
            family = [worker, *descendants(worker)]
            before = outcomes(server)["200", "length"]
            os.kill(worker, signal.SIGKILL)
            eventually(lambda family=family: not any(map(is_alive, family)), "all its processes end")  # type: ignore[misc]
            server.wait_ready()
            assert worker_of(server) != worker
            eventually(server.metrics_up, "metrics are there")
            assert outcomes(server)["200", "length"] >= before
        seen = whole(streams)
        eventually(lambda: whole(streams) >= seen + CLIENTS, "answers come")
    assert set(streams.outcomes) <= {"whole", "broken off", "dropped", "refused"}  # the master holds the port
    lost = streams.outcomes.count("broken off") + streams.outcomes.count("dropped")
    assert lost <= kills * CLIENTS  # only those that were under way
    books.check_successor()
    family = descendants(server.process.pid)
    assert server.stop() == 0
    assert not any(map(is_alive, family))
    assert server.output.count("was sent SIGKILL") == kills  # and nothing by the master


def test_sigterm_under_load_lets_every_stream_finish(launch: Launch) -> None:
    """More requests than sequences: those that have a connection are answered, whole or 503, others find none.

    Each answer is in the log once, and the next server on the same port holds no more than this one did.
    """
    server = launch()
    server.wait_ready()
    books = Books(server)
    before = answered(server)
    with Streams(server.port, CLIENTS, TOKENS) as streams:
        eventually(lambda: whole(streams) >= CLIENTS, "answers come")
        eventually(lambda: now(server)["running"] == 4, "it is busy")
        server.process.send_signal(signal.SIGTERM)
        assert server.wait_exit() == 0
    assert set(streams.outcomes) <= {"whole", "refused", "unreachable"}
    assert not is_alive(books.worker)
    assert "Traceback" not in server.output
    assert answered(server) - before == whole(streams)
    again = launch(HTTP_ADDRESS=f"127.0.0.1:{server.port}", PROMETHEUS_HTTP_ADDRESS=f"127.0.0.1:{server.metrics_port}")
    again.port, again.metrics_port = server.port, server.metrics_port
    again.wait_ready()
    books.check_successor(again)


def test_the_master_is_killed(launch: Launch) -> None:
    """Without its master, the worker ends by itself: nobody is left who would answer or hold the port."""
    server = launch()
    server.wait_ready()
    family = descendants(server.process.pid)
    assert len(family) >= 2  # the worker and its template process
    server.process.kill()
    server.wait_exit()
    eventually(lambda: not any(map(is_alive, family)), "all its processes end")
