"""Who looks at an instrumented server while it is measured: a receiver of traces and a scraper of metrics.

Each is a process of its own, so that neither takes the load client's interpreter and slows it down. They stand for an
OTLP collector and for Prometheus; what they are sent is read whole and forgotten. Knows HTTP; not what is measured.
"""

from __future__ import annotations

import http.client
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any, Self

from bench.ports import free_port


class _Receiver(BaseHTTPRequestHandler):
    """Takes spans and forgets them."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """Answer as an OTLP endpoint does."""
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Log nothing."""


def _receive(port: int) -> None:
    ThreadingHTTPServer(("127.0.0.1", port), _Receiver).serve_forever()


@contextmanager
def receiver() -> Iterator[int]:
    """An OTLP receiver over HTTP in a process of its own; gives its port."""
    port = free_port()
    process = get_context("spawn").Process(target=_receive, args=(port,), daemon=True)
    process.start()
    try:
        yield port
    finally:
        process.terminate()
        process.join()


def scrape(port: int) -> tuple[float, bytes]:
    """GET /metrics: seconds from before the connect to the last byte, and the text; infinite when it failed."""
    begin = time.perf_counter()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", "/metrics")
        response = connection.getresponse()
        text = response.read()
        seconds = time.perf_counter() - begin
    except (OSError, http.client.HTTPException):
        return math.inf, b""
    finally:
        connection.close()
    return (seconds if response.status == 200 else math.inf), text


def _scrape_when_told(port: int, every: float, orders: Connection) -> None:
    """The first order begins, the second ends and is answered with the seconds of each scrape; then over again."""
    while True:
        orders.recv()
        seconds = []
        while not orders.poll(every):
            seconds.append(scrape(port)[0])
        orders.recv()
        orders.send(seconds)


class Scraper:
    """Scrapes the metrics at `port`, `every` so many seconds, from a process of its own, when it is told to.

    `seconds` are those that every scrape took so far. A context manager that ends the process.
    """

    def __init__(self, port: int, every: float) -> None:
        self.seconds: list[float] = []
        context = get_context("spawn")
        self._orders, theirs = context.Pipe()
        self._process = context.Process(target=_scrape_when_told, args=(port, every, theirs), daemon=True)
        self._process.start()
        theirs.close()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Scrape while the block runs; none is under way any more when it has ended."""
        self._orders.send("begin")
        try:
            yield
        finally:
            self._orders.send("end")
            self.seconds += self._orders.recv()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.join()
        self._orders.close()
