"""Clients that are slow, or silent, or too many: each is given up in time, and the others are served."""

import json
import socket
import sys
import threading
import time
from collections.abc import Iterator

import pytest
from books import Books
from server_process import PATIENCE, ServerProcess, eventually, user

#: Seconds that a client has, so that a test need not wait a minute.
TIMEOUT = 1.5

#: File descriptors of the server's processes: far fewer than connections that it would take otherwise.
FILES = 64


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server with little patience and few file descriptors."""
    command = ("sh", "-c", f"ulimit -n {FILES}; exec {sys.executable} -m server")
    sizes = {"MODEL_PARALLEL": "1", "MODEL_CONTEXT": "8192", "HTTP_WORKERS": "4"}
    log = tmp_path_factory.mktemp("limits") / "log"
    with ServerProcess(log, *command, CLIENT_TIMEOUT=str(TIMEOUT), **sizes) as process:
        process.wait_ready()
        yield process


def given_up(server: ServerProcess) -> float:
    return server.metric("lucid_requests_total", status="499", finish_reason="cancelled")


@pytest.mark.parametrize(
    "framing", [b"Content-Length: 100000", b"Transfer-Encoding: chunked"], ids=["length", "chunked"]
)
def test_a_body_that_comes_byte_by_byte(server: ServerProcess, framing: bytes) -> None:
    with socket.create_connection(("127.0.0.1", server.port), PATIENCE) as sock:
        sock.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\n" + framing + b"\r\n\r\n")
        begin, over = time.monotonic(), threading.Event()

        def drip() -> None:
            while not over.wait(TIMEOUT / 20) and time.monotonic() < begin + PATIENCE:
                try:
                    sock.sendall(b"1\r\n \r\n" if framing.endswith(b"chunked") else b" ")
                except OSError:
                    return

        dripping = threading.Thread(target=drip)
        dripping.start()
        answer = sock.recv(4096)
        while b'"request_timeout"' not in answer and (more := sock.recv(4096)):  # head and body may come apart
            answer += more
        over.set()
        dripping.join()
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b'"code":"request_timeout"' in answer
    assert time.monotonic() - begin > TIMEOUT


@pytest.mark.parametrize(
    ("bytes_a_look", "more"),
    [(0, {"logprobs": True, "top_logprobs": 20}), (100, {"logprobs": True, "top_logprobs": 20}), (0, {})],
    ids=["stops", "slow", "stops, past Python"],
)
def test_a_reader_that_does_not_keep_up(server: ServerProcess, bytes_a_look: int, more: dict[str, object]) -> None:
    server.wait_idle()
    before = given_up(server)
    body = json.dumps({
        "messages": user("Tell a story."), "stream": True, "max_tokens": 8000, "ignore_eos": True, **more,
    }).encode()  # fmt: skip
    with socket.socket() as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.settimeout(PATIENCE)
        sock.connect(("127.0.0.1", server.port))
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        sock.sendall(head.encode() + body)
        data = sock.recv(20)
        assert data == b"HTTP/1.1 200 OK\r\nSer"

        def over() -> bool:
            nonlocal data
            if bytes_a_look:
                data += sock.recv(bytes_a_look)
            return given_up(server) == before + 1

        eventually(over, "the request is cancelled")
        server.wait_idle()
        while rest := sock.recv(65536):
            data += rest
    assert b"[DONE]" not in data
    assert not data.endswith(b"0\r\n\r\n")  # else the client would believe that it has all
    assert server.chat("hi", max_tokens=1).status == 200


def test_more_connections_than_files(server: ServerProcess) -> None:
    books = Books(server)
    silent = [socket.create_connection(("127.0.0.1", server.port), PATIENCE) for _ in range(2 * FILES)]
    assert server.chat("hi", max_tokens=1).status == 200
    for sock in silent:
        sock.close()
    assert f"the limit of open files is {FILES}" in server.output
    assert server.metric("lucid_workers_lost_total") == 0
    books.expect(("200", "length", 1))
    books.check()


def test_no_body_is_read_where_there_is_no_room(server: ServerProcess) -> None:
    server.wait_idle()
    streams = [server.open_chat("Count.", stream=True, max_tokens=4000, ignore_eos=True) for _ in range(4)]
    eventually(lambda: server.get("/ready").status == 503, "the server is full")
    for path in ("chat/completions", "completions", "responses"):
        with socket.create_connection(("127.0.0.1", server.port), PATIENCE) as sock:
            sock.sendall(f"POST /v1/{path} HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n".encode())
            assert sock.recv(4096).startswith(b"HTTP/1.1 503 ")
    for sock in streams:
        sock.close()
    server.wait_idle()
