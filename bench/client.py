"""A closed-loop load generator for streaming chat completions: so many clients, each with one request at a time.

It runs on the cores of the server it measures, so while it runs it only stores bytes and the time they came; one
thread, one selector, one connection a request (as curl does). All parsing is done afterwards by `bench.recording`,
apart from answers that the next turn of their conversation needs. Knows sockets and the order of requests; not what
the texts mean.
"""

from __future__ import annotations

import gc
import json
import selectors
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from bench.recording import Answer, Pieces, read_answer
from bench.workloads import Conversation

_DONE = b"data: [DONE]"
_RECEIVE_BYTES = 65536


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where requests go and what every body carries besides its messages.

    `url` is the server's root (http://host:port, a path prefix is kept). `idle_timeout`: seconds without a byte after
    which a request counts as failed. Raises ValueError for anything but an http URL.
    """

    url: str
    body: dict[str, Any]
    headers: tuple[tuple[str, str], ...] = ()
    idle_timeout: float = 120.0

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme != "http" or not parts.hostname:
            raise ValueError(f"{self.url!r} is not an http://host:port URL")

    @property
    def address(self) -> tuple[str, int]:
        """Host and port to connect to."""
        parts = urlsplit(self.url)
        return parts.hostname or "", parts.port or 80

    def request(self, messages: list[dict[str, str]]) -> bytes:
        """The complete HTTP request for these messages."""
        parts = urlsplit(self.url)
        body = json.dumps({**self.body, "messages": messages, "stream": True}).encode()
        head = [
            f"POST {parts.path.rstrip('/')}/v1/chat/completions HTTP/1.1",
            f"Host: {parts.netloc}",
            "Content-Type: application/json",
            "Accept: text/event-stream",
            f"Content-Length: {len(body)}",
            "Connection: close",
            *(f"{name}: {value}" for name, value in self.headers),
        ]
        return "\r\n".join(head).encode() + b"\r\n\r\n" + body


@dataclass(frozen=True, slots=True)
class Run:
    """A finished load: the answers in the order they ended, wall and client CPU time in seconds."""

    answers: tuple[Answer, ...]
    wall: float
    client_cpu: float
    concurrency: int


@dataclass(slots=True)
class _Talk:
    index: int
    turns: Sequence[str]
    messages: list[dict[str, str]] = field(default_factory=list)
    turn: int = 0

    def next_messages(self) -> list[dict[str, str]]:
        self.messages.append({"role": "user", "content": self.turns[self.turn]})
        return self.messages


@dataclass(slots=True)
class _Stream:
    talk: _Talk
    started: float
    turn: int
    last: float
    socket: socket.socket | None = None
    pieces: Pieces = field(default_factory=list)
    tail: bytes = b""
    answered: bool = False


class LoadGenerator:
    """Sends every turn of every conversation, `concurrency` requests in flight, each client asking again at once."""

    def __init__(
        self,
        endpoint: Endpoint,
        conversations: Sequence[Conversation],
        concurrency: int,
        on_answer: Callable[[], object] | None = None,
    ) -> None:
        if concurrency < 1:
            raise ValueError(f"concurrency must be at least 1, got {concurrency}")
        self._endpoint = endpoint
        self._concurrency = concurrency
        self._on_answer = on_answer or (lambda: None)
        self._ready = deque(_Talk(index, talk.turns) for index, talk in enumerate(conversations))
        self._selector = selectors.DefaultSelector()
        self._running = 0
        self._next_check = 0.0
        self._finished: list[tuple[_Stream, float, str | None]] = []

    def run(self) -> Run:
        """Run the whole load. Failed requests are answers with an `error`; their conversations end there."""
        gc.collect()
        gc.disable()
        cpu = time.process_time()
        begin = time.perf_counter()
        try:
            self._start_ready()
            while self._running:
                for key, _ in self._selector.select(timeout=1.0):
                    self._receive(key.data)
                if time.perf_counter() >= self._next_check:
                    self._expire()
            end = self._finished[-1][1] if self._finished else begin
            cpu = time.process_time() - cpu
            self._drain()
        finally:
            gc.enable()
            for key in list(self._selector.get_map().values()):
                self._close(key.data)
            self._selector.close()
        answers = tuple(
            read_answer(stream.pieces, stream.started, ended, failure, stream.talk.index, stream.turn)
            for stream, ended, failure in self._finished
        )
        return Run(answers, end - begin, cpu, self._concurrency)

    def _start_ready(self) -> None:
        while self._ready and self._running < self._concurrency:
            talk = self._ready.popleft()
            request = self._endpoint.request(talk.next_messages())
            started = time.perf_counter()
            stream = _Stream(talk, started, talk.turn, started)
            self._running += 1
            try:
                stream.socket = socket.create_connection(self._endpoint.address, timeout=10.0)
                stream.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                stream.socket.sendall(request)
                stream.socket.setblocking(False)
                self._selector.register(stream.socket, selectors.EVENT_READ, stream)
            except OSError as error:
                if stream.socket is not None:
                    stream.socket.close()
                self._end(stream, f"cannot send the request: {error}")

    def _receive(self, stream: _Stream) -> None:
        assert stream.socket is not None
        try:
            data = stream.socket.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            self._close(stream)
            if not stream.answered:
                self._end(stream, f"connection lost: {error}")
                self._start_ready()
            return
        now = time.perf_counter()
        if not data:
            self._close(stream)
            if not stream.answered:
                self._end(stream, None)
                self._start_ready()
            return
        if stream.answered:
            return
        stream.last = now
        stream.pieces.append((now, data))
        if _DONE in stream.tail + data:
            stream.answered = True
            self._end(stream, None)
            self._start_ready()
        stream.tail = data[-len(_DONE) :]

    def _end(self, stream: _Stream, failure: str | None) -> None:
        now = time.perf_counter()
        self._running -= 1
        self._finished.append((stream, now, failure))
        talk = stream.talk
        talk.turn += 1
        if talk.turn < len(talk.turns) and failure is None:
            answer = read_answer(stream.pieces, stream.started, now)
            if answer.error is None:
                talk.messages.append({"role": "assistant", "content": answer.text})
                self._ready.append(talk)
        self._on_answer()

    def _expire(self) -> None:
        now = time.perf_counter()
        self._next_check = now + 1.0
        limit = now - self._endpoint.idle_timeout
        for key in list(self._selector.get_map().values()):
            stream: _Stream = key.data
            if stream.last < limit:
                self._close(stream)
                if not stream.answered:
                    self._end(stream, f"no byte for {self._endpoint.idle_timeout:g} s")
        self._start_ready()

    def _drain(self) -> None:
        """Let answered connections end in order, for at most two seconds, so that no server sees a client vanish."""
        deadline = time.perf_counter() + 2.0
        while self._selector.get_map() and time.perf_counter() < deadline:
            for key, _ in self._selector.select(timeout=0.1):
                self._receive(key.data)

    def _close(self, stream: _Stream) -> None:
        assert stream.socket is not None
        self._selector.unregister(stream.socket)
        stream.socket.close()
