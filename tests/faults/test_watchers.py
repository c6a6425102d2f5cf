"""Prometheus goes away in the middle of scrapes, or asks and never reads."""

import socket
import struct

from books import Books
from server_process import PATIENCE, ServerProcess, eventually

#: Scrapers that stay silent; more than the server answers at once.
SILENT = 40


def connect(server: ServerProcess) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.metrics_port), PATIENCE)


def test_prometheus_gone(server: ServerProcess, books: Books) -> None:
    for number in range(60):
        sock = connect(server)
        sock.sendall((b"", b"GET /met", b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")[number % 3])
        if number % 2:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close sends a reset
        sock.close()
    silent = [connect(server) for _ in range(SILENT)]
    assert server.chat("Hi", max_tokens=2).status == 200
    for sock in silent:
        sock.close()
    eventually(server.metrics_up, "metrics are there")
    books.expect(("200", "length", 1))
