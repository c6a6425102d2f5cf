"""A client that does as little as it can: sends requests at once, counts the events of the answers, notes times.

`bench.client` parses what it reads, which costs more than some servers' writing. One thread, one selector; knows
HTTP/1.1 and server-sent events just enough.
"""

from __future__ import annotations

import http.client
import selectors
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

_EVENT: Final = b"data: {"
_END: Final = b"data: [DONE]"


@dataclass(slots=True)
class Stream:
    """One answer. Times are those of `perf_counter`; `first` and `last`: when the first and last events were read."""

    started: float
    first: float = float("inf")
    last: float = float("inf")
    ended: float = float("inf")
    chunks: int = 0
    complete: bool = False
    """Whether its end mark was seen."""
    tail: bytes = b""
    """The last bytes read: a marker may come in two pieces."""

    @property
    def first_seconds(self) -> float:
        """From the request to the first event."""
        return self.first - self.started


def get(port: int, path: str) -> bytes:
    """The body of a GET on 127.0.0.1."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", path)
        return connection.getresponse().read()
    finally:
        connection.close()


def run_streams(
    port: int,
    path: str,
    count: int,
    body: bytes = b"",
    at_chunk: tuple[int, Callable[[], None]] | None = None,
    patience: float = 60.0,
) -> list[Stream]:
    """Ask for the same `count` times at once, and read until all answers have ended.

    :param body: POSTed as JSON; a GET if there is none.
    :param at_chunk: a function to call once a stream has so many chunks.
    :param patience: after so many seconds of silence on all streams they are left as they are.
    """
    head = f"{'POST' if body else 'GET'} {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    request = f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body
    streams = []
    with selectors.DefaultSelector() as selector:
        for _ in range(count):
            connection = socket.create_connection(("127.0.0.1", port), timeout=10)
            stream = Stream(time.perf_counter())
            connection.sendall(request)
            selector.register(connection, selectors.EVENT_READ, (connection, stream))
            streams.append(stream)
        while selector.get_map() and (ready := selector.select(patience)):
            for key, _ in ready:
                connection, stream = key.data
                _read(connection, stream)
                if at_chunk is not None and stream.chunks >= at_chunk[0]:
                    at_chunk[1]()
                    at_chunk = None
                if stream.ended < float("inf"):
                    selector.unregister(connection)
                    connection.close()
        for key in list(selector.get_map().values()):
            key.data[0].close()
    return streams


def _read(connection: socket.socket, stream: Stream) -> None:
    """Take what has come."""
    try:
        received = connection.recv(1 << 18)
    except OSError:
        received = b""
    now = time.perf_counter()
    if not received:
        stream.ended = now
        return
    # Of what was read before, only so much that no whole marker is counted twice.
    stream.chunks += (stream.tail[1 - len(_EVENT) :] + received).count(_EVENT)
    stream.complete = stream.complete or _END in stream.tail + received
    if stream.chunks:
        stream.first, stream.last = min(stream.first, now), now
    stream.tail = received[1 - len(_END) :]
