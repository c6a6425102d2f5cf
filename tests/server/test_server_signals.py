"""Signals that come when the server is busy with something else: forking a worker, importing, reloading."""

import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from server_process import ServerProcess, eventually

from bench.ports import free_port
from server.stops import SAME_SIGNAL_SECONDS

Launch = Callable[..., ServerProcess]
SMALL = {"MODEL_CONTEXT": "512", "MODEL_PARALLEL": "1", "EMBEDDING_MODEL": "none", "LOG_LEVEL": "debug"}


def children(server: ServerProcess) -> list[str]:
    """The process ids of the workers."""
    master = server.process.pid
    return Path(f"/proc/{master}/task/{master}/children").read_text().split()


def wait_forked(server: ServerProcess, besides: str = "") -> None:
    """Wait until there is a worker, besides `besides`, without giving it time."""
    while set(children(server)) <= {besides}:
        assert server.process.poll() is None, server.output


def test_an_interrupt_before_anything_has_started(launch: Launch) -> None:
    server = launch(**SMALL)
    maps = Path(f"/proc/{server.process.pid}/maps")
    while "libssl" not in maps.read_text():  # what gunicorn imports first of all
        server.process.send_signal(signal.SIGCONT)
        time.sleep(0.02)
        server.process.send_signal(signal.SIGSTOP)  # it is looked at, and told, while it stands still
        assert server.process.poll() is None, server.output
    server.process.send_signal(signal.SIGINT)
    assert server.stop(signal.SIGCONT) == -signal.SIGINT
    assert server.output == ""


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("moment", [0.0, 0.15])
def test_a_stop_while_the_worker_imports(launch: Launch, sig: signal.Signals, moment: float) -> None:
    server = launch(**SMALL)
    wait_forked(server)
    time.sleep(moment)
    assert server.stop(sig) == 0
    assert "Traceback" not in server.output
    assert "SIGKILL" not in server.output, "the worker missed the signal and was killed after GRACEFUL_TIMEOUT"


def test_reloads_in_quick_succession(launch: Launch) -> None:
    server = launch(**SMALL)
    server.wait_ready()
    first = str(server.worker)
    server.process.send_signal(signal.SIGHUP)
    wait_forked(server, besides=first)
    server.process.send_signal(signal.SIGHUP)  # the one that it just began with is stopped while it imports
    eventually(lambda: server.output.count("Handling signal: hup") == 2, "the second one is obeyed")
    eventually(lambda: len(children(server)) == 1, "one worker is left")
    server.wait_ready()
    assert server.chat("hi", max_tokens=1).status == 200
    assert server.metric("lucid_workers_lost_total") == 0
    assert server.stop() == 0
    assert "Traceback" not in server.output


@pytest.mark.parametrize("at_once", [False, True])
def test_a_stop_and_what_forces_it_while_a_reload_waits(launch: Launch, at_once: bool) -> None:
    server = launch(**{**SMALL, "MODEL_CONTEXT": "8192"}, GRACEFUL_TIMEOUT="600")
    server.wait_ready()
    first = str(server.worker)
    sock = server.open_chat("Tell a story.", stream=True, max_tokens=8000, ignore_eos=True)
    data = sock.recv(4096)
    assert data.startswith(b"HTTP/1.1 200 ")
    server.process.send_signal(signal.SIGHUP)
    wait_forked(server, besides=first)
    server.process.send_signal(signal.SIGTERM)
    if at_once:
        time.sleep(0.02)  # signals that wait together are handled in the order of their numbers
        server.process.send_signal(signal.SIGQUIT)
    else:
        eventually(lambda: "Handling signal: term" in server.output, "the stop is obeyed")
        eventually(lambda: children(server) == [first], "the new worker ends, the old one finishes its answer")
        time.sleep(2 * SAME_SIGNAL_SECONDS)
        assert sock.recv(1 << 20)
        assert server.process.poll() is None
        server.process.send_signal(signal.SIGTERM)
    while more := sock.recv(65536):
        data += more
    assert b'"code":"shutting_down"' in data
    assert server.wait_exit() == 0
    assert "Traceback" not in server.output


#: What systemd does for a socket unit: it listens, and passes the socket on as file descriptor 3.
ACTIVATED = """
import os, socket, sys
listening = socket.create_server(("127.0.0.1", int(sys.argv[1])))
os.dup2(listening.fileno(), 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
os.execv(sys.executable, [sys.executable, "-m", "server"])
"""


def test_a_socket_from_systemd_and_no_second_master(launch: Launch) -> None:
    """Socket activation (sd_listen_fds) works; gunicorn's upgrade by SIGUSR2 does not, and harms nobody."""
    port = free_port()
    server = launch(sys.executable, "-c", ACTIVATED, str(port), HTTP_ADDRESS=f"127.0.0.1:{port}", **SMALL)
    server.port = port
    server.wait_ready()
    assert server.chat("hi", max_tokens=1).status == 200
    server.process.send_signal(signal.SIGUSR2)
    eventually(lambda: "SIGUSR2 is not supported" in server.output, "it is refused")
    assert server.chat("hi", max_tokens=1).status == 200
    assert server.stop() == 0
    assert "Traceback" not in server.output
