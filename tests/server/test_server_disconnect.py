"""Clients that hang up: their sequence is free at once, and the others notice nothing."""

import contextlib
import os
import queue
import socket
import threading

import numpy as np
import pytest
from server_process import MODEL, PATIENCE, ServerProcess, eventually

from engine import Request, SamplingParams
from server import config
from server.answer import Answer
from server.connections import Connections
from server.disconnect import DisconnectWatcher
from server.exchange import Exchange
from server.service import Service
from server.succession import Succession

LONG = 900


def cancelled(server: ServerProcess) -> float:
    return server.metric("lucid_requests_total", status="499", finish_reason="cancelled")


def read_some(sock: socket.socket) -> None:
    assert sock.recv(4096).startswith(b"HTTP/1.1 200 ")


def generated(server: ServerProcess) -> float:
    return server.metric("lucid_generated_tokens_total")


@pytest.mark.parametrize("abruptly", [False, True], ids=["closed", "reset"])
@pytest.mark.parametrize("stream", [True, False], ids=["stream", "whole"])
def test_a_client_that_hangs_up_while_tokens_are_made(server: ServerProcess, stream: bool, abruptly: bool) -> None:
    server.wait_idle()
    before, tokens = cancelled(server), generated(server)
    sock = server.open_chat("Tell me a long story.", stream=stream, max_tokens=LONG, ignore_eos=True)
    if stream:
        read_some(sock)
    else:
        eventually(lambda: server.metric("lucid_requests_running") == 1, "the request runs")
    if abruptly:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # close sends a reset
    sock.close()
    eventually(lambda: cancelled(server) == before + 1, "the request is counted as cancelled")
    server.wait_idle()
    assert generated(server) - tokens < LONG
    assert server.chat("hi", max_tokens=2).status == 200


def test_a_client_that_hangs_up_before_the_first_token(server: ServerProcess) -> None:
    server.wait_idle()
    before, tokens = cancelled(server), generated(server)
    prompt = f"{os.urandom(4).hex()} " + "word " * 900
    sock = server.open_chat(prompt, stream=True, max_tokens=LONG, ignore_eos=True)
    eventually(lambda: server.metric("lucid_requests_running") == 1, "the request runs")
    sock.close()
    eventually(lambda: cancelled(server) == before + 1, "the request is counted as cancelled")
    server.wait_idle()
    assert generated(server) - tokens < LONG


def test_a_client_that_hangs_up_while_it_waits_in_the_queue(server: ServerProcess) -> None:
    server.wait_idle()
    before = cancelled(server)
    running = [server.open_chat(f"Story {n}", stream=True, max_tokens=LONG, ignore_eos=True) for n in range(4)]
    for sock in running:
        read_some(sock)
    waiting = server.open_chat("Waiting", stream=True, max_tokens=LONG)
    eventually(lambda: server.metric("lucid_requests_waiting") == 1, "the request waits")
    waiting.close()
    eventually(lambda: server.metric("lucid_requests_waiting") == 0, "the request left the queue")
    assert server.metric("lucid_requests_running") == 4
    for sock in running:
        sock.close()
    eventually(lambda: cancelled(server) == before + 5, "all are counted as cancelled")
    server.wait_idle()


def test_a_client_that_never_sends_its_body_holds_nothing_up(server: ServerProcess) -> None:
    with socket.create_connection(("127.0.0.1", server.port)) as sock:
        sock.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        assert server.chat("hi", max_tokens=2).status == 200


def test_the_watcher_calls_back_once_and_only_for_watched_sockets() -> None:
    watcher = DisconnectWatcher()
    calls: queue.SimpleQueue[str] = queue.SimpleQueue()
    pairs = {name: socket.socketpair() for name in ("closed", "half closed", "unwatched", "open")}
    handles = {name: watcher.watch(ours, lambda name=name: calls.put(name)) for name, (ours, _) in pairs.items()}
    watcher.unwatch(handles["unwatched"])
    pairs["unwatched"][1].close()
    pairs["open"][1].sendall(b"more data is no reason")
    pairs["closed"][1].close()
    assert calls.get(timeout=PATIENCE) == "closed"
    pairs["half closed"][1].shutdown(socket.SHUT_WR)
    assert calls.get(timeout=PATIENCE) == "half closed"
    assert calls.empty()
    for name in ("closed", "half closed", "open", "unwatched"):
        watcher.unwatch(handles[name])


def test_the_watcher_forgets_what_it_cannot_watch() -> None:
    watcher = DisconnectWatcher()
    closed = socket.socket()
    closed.close()
    with pytest.raises((OSError, ValueError)):
        watcher.watch(closed, lambda: None)
    ours, theirs = socket.socketpair()
    handle = watcher.watch(ours, lambda: None)
    with pytest.raises(FileExistsError):
        watcher.watch(ours, lambda: None)
    watcher.unwatch(handle)
    watcher.unwatch(watcher.watch(ours, lambda: None))
    for sock in (ours, theirs):
        sock.close()


def test_breaking_off_wakes_a_thread_whose_client_does_not_read() -> None:
    connections = Connections(PATIENCE, PATIENCE, threads=1)
    ours, theirs = socket.socketpair()
    with connections.serving(ours) as served:
        assert served
        connections.header_read(ours)
        blocked = threading.Thread(target=send_for_ever, args=(ours,))
        blocked.start()
        connections.break_off_unread()
        connections.break_off_late()
        assert theirs.recv(1) == b"x"
        assert blocked.is_alive()
        connections.break_off_all()
        blocked.join(PATIENCE)
        assert not blocked.is_alive()
    with connections.serving(ours) as served:
        assert not served
    theirs.close()


def test_an_answer_that_cannot_be_watched_gives_everything_back() -> None:
    variables = {"MODEL_PATH": str(MODEL), "MODEL_CALIBRATE": "off", "MODEL_PARALLEL": "1", "MODEL_CONTEXT": "1024"}
    service = Service(config.read({**variables, "HTTP_WORKERS": "1"}))
    service.start(Succession(), on_failure=lambda: None)
    eventually(lambda: service.status == "ok", "the model is loaded")
    loaded = service.loaded()
    closed = socket.socket()
    closed.close()
    request = Request(np.arange(5, dtype=np.int32), LONG, SamplingParams(), ignore_eos=True)
    exchange = Exchange({"gunicorn.socket": closed}, service.metrics)
    with pytest.raises((OSError, ValueError)):
        Answer(service, loaded, exchange, [request])
    assert service.slots.take()
    eventually(lambda: loaded.engine.stats().counters.cancelled == 1, "the generation is cancelled")
    assert loaded.engine.stats().running == 0
    service.close()


def send_for_ever(sock: socket.socket) -> None:
    with contextlib.suppress(BrokenPipeError):
        while True:
            sock.sendall(b"x" * 65536)
