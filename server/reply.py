"""Sends an answer to its client: as one body, or as server-sent events while it is being made.

What the JSON looks like is a `Reply`'s business, one class for each kind of body. Here is what all have in common: an
error before the first token keeps its HTTP status, one after it becomes an event; while nothing comes for a while the
stream gets comments, so that proxies keep it open; the slot is given back whatever happens. Knows the event framing
(HTML Living Standard, 9.2) and HTTP; knows nothing of prompts.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Iterable, Iterator
from typing import Final, Protocol

from werkzeug.wrappers import Response

from engine import WRITE, Piece
from server.answer import FAILED, Answer
from server.errors import ApiError, ClientGoneError, ErrorBody, internal

log = logging.getLogger("server.reply")

#: Headers of an event stream; the last keeps nginx from collecting it.
HEADERS: Final = (("Cache-Control", "no-cache"), ("X-Accel-Buffering", "no"))
CONTENT_TYPE: Final = "text/event-stream; charset=utf-8"

#: What a stream gets while there is nothing to send, from before its first token on: a comment.
PING: Final = b": ping\n\n"


class Reply(Protocol):
    """What one kind of response holds. Pieces come with the index of the request they belong to."""

    def take(self, index: int, piece: Piece) -> None:
        """Keep a piece for `body`."""

    def body(self) -> object:
        """Return the whole body, to be encoded as JSON, when the answer is over."""

    def begin(self) -> Iterable[bytes]:
        """The events before any piece."""

    def events(self, index: int, piece: Piece) -> Iterable[bytes]:
        """The events for a piece; after the last piece of the last request, the end of the stream too."""

    def around(self) -> tuple[bytes, bytes] | None:
        """What stands before and after the characters of a text, where the next pieces bring nothing else.

        None if `events` must see them. For replies to one request.
        """

    def error(self, body: ErrorBody) -> bytes:
        """The event that ends a stream in which something failed."""


def send(answer: Answer, reply: Reply, *, stream: bool) -> Response:
    """Return the response, and close `answer` when it is out. Raises `ApiError` and `ClientGoneError`."""
    answer.exchange.streamed = stream
    try:
        if not stream:
            while (taken := answer.next()) is not None:
                reply.take(*taken)
            answer.close()
            return answer.exchange.json(reply.body())
        first = answer.next(answer.ping_seconds)
    except BaseException:
        answer.close()
        raise
    answer.exchange.status = 200
    return Response(
        _EventStream(_stream(answer, reply, first), answer),
        headers=HEADERS,
        content_type=CONTENT_TYPE,
        direct_passthrough=True,
    )


class _EventStream:
    """The events as a WSGI server takes and closes them; each passes through nothing but their generator."""

    def __init__(self, events: Generator[bytes, None, None], answer: Answer) -> None:
        self._events = events
        self._answer = answer

    def __iter__(self) -> Iterator[bytes]:
        return self._events

    def close(self) -> None:
        """Give back what the answer holds, also where no event was asked for."""
        try:
            self._events.close()
        finally:
            self._answer.close()
            self._answer.exchange.finish()


def _stream(answer: Answer, reply: Reply, taken: tuple[int, Piece] | None) -> Generator[bytes, None, None]:
    """Yield the events. `taken` is the first piece, None if it did not come in time.

    gunicorn writes each to the client before it asks for the next, so the time at a `yield` is the time of the write.
    """
    exchange = answer.exchange
    timings = exchange.timings
    try:
        for data in reply.begin():
            yield data
            timings.lap(WRITE)
        begun = taken is not None
        while True:
            for data in (PING,) if taken is None else reply.events(*taken):
                yield data
                timings.lap(WRITE)
            if answer.over:
                return
            silent = begun and answer.relay(reply.around)
            taken = answer.next(0.0 if silent else answer.ping_seconds)
            if taken is not None:
                begun = True
                answer.check_pace(taken[0])
    except ClientGoneError:
        return
    except (TimeoutError, BrokenPipeError):  # the connection is broken off, or the client might take this for the end
        raise
    except ApiError as error:
        yield reply.error(error.body)
    except Exception:
        log.exception("request %s failed while streaming", exchange.request_id)
        exchange.finish_reason = FAILED
        yield reply.error(internal(exchange.request_id).body)
