"""One HTTP request on a connection of its own, for hundreds of clients in one thread (asyncio).

Only bytes and the times they came are kept while it runs. A client may also vanish on purpose. Knows sockets and
HTTP/1.1; knows nothing of what is asked.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import io
import json
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from bench.recording import Pieces

_RECEIVE_BYTES = 65536


@dataclass(frozen=True, slots=True)
class Leave:
    """How a client vanishes: `share` of its request's bytes are sent, `seconds` later it closes, or resets, it all."""

    share: float
    seconds: float
    reset: bool


@dataclass(frozen=True, slots=True)
class Response:
    """A complete HTTP response; header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        """The decoded body. Raises ValueError if it is no JSON."""
        return json.loads(self.body)


@dataclass(frozen=True, slots=True)
class Exchange:
    """What came of a request. Times are `time.perf_counter()` seconds; `started` is before the connect.

    `sent` is when the kernel had all of the request, None if it never had.
    `response` is None if none came whole, which `failure` explains, and if the client `left` on purpose. `hung`: it was
    not over within the client's patience.
    """

    started: float
    ended: float
    sent: float | None = None
    pieces: Pieces = field(default_factory=list)
    response: Response | None = None
    failure: str | None = None
    hung: bool = False
    left: bool = False

    @property
    def seconds(self) -> float:
        """From the start to the last byte that came."""
        return self._last - self.started

    @property
    def waited(self) -> float:
        """From when the request was sent to the last byte that came."""
        return self._last - (self.started if self.sent is None else self.sent)

    @property
    def _last(self) -> float:
        return self.pieces[-1][0] if self.pieces else self.ended


def post(address: tuple[str, int], path: str, body: object, request_id: str, method: str = "POST") -> bytes:
    """The bytes of a request with a JSON body; `body` may be bytes, sent as they are, or None for no body."""
    data = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    head = [
        f"{method} {path} HTTP/1.1",
        f"Host: {address[0]}:{address[1]}",
        f"X-Request-Id: {request_id}",
        "Content-Type: application/json",
        f"Content-Length: {len(data)}",
        "Connection: close",
    ]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + data


async def exchange(address: tuple[str, int], request: bytes, patience: float, leave: Leave | None = None) -> Exchange:
    """Send `request`, read until the server closes, for at most `patience` seconds. Never raises for what happens."""
    pieces: Pieces = []
    times: list[float] = []
    started = time.perf_counter()
    failure, hung, left = None, False, leave is not None
    try:
        async with asyncio.timeout(patience):
            await _talk(address, request, pieces, times, leave)
    except TimeoutError:
        failure, hung, left = f"not over after {patience:g} s", True, False
    except OSError as error:
        failure = f"connection lost: {error}"
    found = Exchange(started, time.perf_counter(), times[0] if times else None, pieces)
    if left or failure:
        return replace(found, failure=failure, hung=hung, left=left)
    try:
        return replace(found, response=_parse(b"".join(data for _, data in pieces)))
    except (http.client.HTTPException, ValueError) as error:
        return replace(found, failure=f"no whole response: {type(error).__name__} {error}")


async def _talk(
    address: tuple[str, int], request: bytes, pieces: Pieces, times: list[float], leave: Leave | None
) -> None:
    """Fill `pieces` with what comes, and `times` with when the request was sent."""
    reader, writer = await asyncio.open_connection(*address)
    connection: socket.socket = writer.get_extra_info("socket")
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        writer.write(request if leave is None else request[: int(leave.share * len(request))])
        await writer.drain()
        times.append(time.perf_counter())
        if leave is None:
            await _receive(reader, pieces)
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(leave.seconds):
                await _receive(reader, pieces)
        if leave.reset:
            writer.transport.abort()
    finally:
        writer.close()


async def _receive(reader: asyncio.StreamReader, pieces: Pieces) -> None:
    while data := await reader.read(_RECEIVE_BYTES):
        pieces.append((time.perf_counter(), data))


class _Bytes:
    """As much of a socket as `http.client.HTTPResponse` reads from."""

    def __init__(self, raw: bytes) -> None:
        self._raw = raw

    def makefile(self, *_: object) -> io.BytesIO:
        return io.BytesIO(self._raw)


def _parse(raw: bytes) -> Response:
    response = http.client.HTTPResponse(_Bytes(raw))  # type: ignore[arg-type]
    response.begin()
    headers = {name.lower(): value for name, value in response.getheaders()}
    return Response(response.status, headers, response.read())
