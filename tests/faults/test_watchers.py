"""Prometheus goes away in the middle of scrapes, or never gets to their end."""

import contextlib
import socket
import struct
import threading

from books import Books
from server_process import PATIENCE, ServerProcess, eventually

#: Scrapers that send a byte now and then, and stay; more than the server answers at once.
SLOW = 40


def connect(server: ServerProcess) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.metrics_port), PATIENCE)


def test_prometheus_gone(server: ServerProcess, books: Books) -> None:
    for number in range(60):
        sock = connect(server)
        sock.sendall((b"", b"GET /met", b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")[number % 3])
        if number % 2:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close sends a reset
        sock.close()
    slow = [connect(server) for _ in range(SLOW)]
    over = threading.Event()

    def drip() -> None:
        while not over.wait(0.2):
            for sock in slow:
                with contextlib.suppress(OSError):  # it was given up
                    sock.sendall(b"G")

    dripping = threading.Thread(target=drip)
    dripping.start()
    assert server.chat("Hi", max_tokens=2).status == 200
    eventually(server.metrics_up, "metrics are there although they stay")
    over.set()
    dripping.join()
    for sock in slow:
        sock.close()
    books.expect(("200", "length", 1))
