"""Clients that vanish, are silent or stop reading: the others are served, and nothing is held for those."""

import json
import os
import socket
import struct

from books import Books, entries, now, resident, wait_idle
from server_process import PATIENCE, ServerProcess, eventually

#: Connections that send nothing.
SILENT = 200

CHAT = b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


def connect(server: ServerProcess) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), PATIENCE)


def vanish(sock: socket.socket, abruptly: bool) -> None:
    if abruptly:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close sends a reset
    sock.close()


def sent(server: ServerProcess, data: bytes) -> socket.socket:
    sock = connect(server)
    sock.sendall(data)
    return sock


def wait_for(server: ServerProcess, **gauges: int) -> None:
    eventually(lambda: gauges.items() <= now(server).items(), f"{gauges}")


def test_clients_that_vanish_at_every_stage(server: ServerProcess, books: Books) -> None:
    """Some times at each stage, half of them with a reset."""
    body = json.dumps({"messages": [{"role": "user", "content": "Hi"}]}).encode()
    times = 10

    def long(**fields: object) -> socket.socket:
        return server.open_chat("Tell a story.", max_tokens=900, ignore_eos=True, **fields)

    incomplete = [b"", b"POST /v1/chat", CHAT + b"Content-Le"]  # nothing to count: there was no request
    broken_off = [
        CHAT + b"Content-Length: %d\r\n\r\n" % len(body) + body[:10],
        CHAT + b"Content-Length: %d\r\n\r\n" % len(body),
        CHAT + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % len(body) + body[:10],
    ]
    for number in range(times):
        abruptly = number % 2 == 0
        for data in incomplete + broken_off:
            vanish(sent(server, data), abruptly)
    books.expect(("499", "none", times * len(broken_off)))

    cancelled = 0
    for _ in range(2):
        streams = [long(stream=stream) for stream in (True, False, True, False)]
        wait_for(server, running=4)
        waiting = [long(stream=stream) for stream in (True, False, True, False)]
        wait_for(server, waiting=4)
        for number, sock in enumerate(waiting):  # in the queue
            vanish(sock, abruptly=number < 2)
        wait_for(server, running=4, waiting=0)
        assert streams[0].recv(4096).startswith(b"HTTP/1.1 200 ")
        for number, sock in enumerate(streams):  # mid-stream, and while a whole answer is made
            vanish(sock, abruptly=number < 2)
        cancelled += 8
        books.expect(("499", "none", times * len(broken_off)), ("499", "cancelled", cancelled))
        wait_idle(server)
        prompts = [f"{os.urandom(4).hex()} " + "word " * 900 for _ in range(4)]
        prefilling = [server.open_chat(prompt, stream=True, max_tokens=90, ignore_eos=True) for prompt in prompts]
        wait_for(server, running=4)
        for number, sock in enumerate(prefilling):
            vanish(sock, abruptly=number < 2)
        cancelled += 4
    books.expect(("499", "none", times * len(broken_off)), ("499", "cancelled", cancelled))


def test_connections_that_send_nothing(server: ServerProcess, books: Books) -> None:
    silent = [connect(server) for _ in range(SILENT)]
    halves = [sent(server, b"GET /health HTTP/1.1\r\n") for _ in range(SILENT // 10)]
    for _ in range(3):
        assert server.chat("Hi", max_tokens=2).status == 200
    assert server.get("/health").status == 200
    assert entries(books.worker, "fd") >= SILENT  # they are there indeed
    for sock in silent + halves:
        sock.close()
    books.expect(("200", "length", 3))


def stalled(server: ServerProcess) -> socket.socket:
    """A client that reads nothing of a stream, which does not fit into the buffers on its way."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.settimeout(PATIENCE)
    sock.connect(("127.0.0.1", server.port))
    message = {"messages": [{"role": "user", "content": "Tell a story."}], "max_tokens": 100, "ignore_eos": True}
    body = json.dumps({**message, "stream": True, "logprobs": True, "top_logprobs": 20}).encode()
    sock.sendall(CHAT + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    return sock


def test_readers_that_stop_reading(server: ServerProcess, books: Books) -> None:
    """Their answers are made and thrown away: no sequence waits for them, and after CLIENT_TIMEOUT no thread."""
    before = resident(books.worker)
    readers = [stalled(server) for _ in range(8)]  # twice as many as there are sequences
    wait_for(server, running=4)
    assert server.chat("Hi", max_tokens=2).status == 200  # the engine waits for nobody
    books.expect(("200", "length", 1), ("499", "cancelled", len(readers)))
    assert resident(books.worker) - before < 32 << 20
    for sock in readers:
        sock.close()
