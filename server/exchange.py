"""One HTTP exchange: a request, what is known of its answer so far, and the stopwatch both share.

The application makes one per request and hands it to the route's handler. When the last byte is out (or the client is
gone) `finish` writes the log line and the metrics, once. Knows HTTP and numbers; knows nothing of prompts or tokens'
meaning.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
from werkzeug.wrappers import Request, Response

from engine import WRITE, Timings
from engine import Request as EngineRequest
from server import access_log
from server.errors import CLIENT_CLOSED_REQUEST, ApiError
from server.metrics import Metrics
from server.request_id import request_id
from server.schema.chat import Message

if TYPE_CHECKING:
    from opentelemetry.trace import Span

    from server.tracing import Tracer

_encode = msgspec.json.Encoder().encode


class Exchange:
    """A request on its way through the server."""

    def __init__(self, environ: dict[str, Any], metrics: Metrics, tracer: Tracer | None = None) -> None:
        self.timings = Timings()
        self.request = Request(environ, populate_request=False)
        #: The client's X-Request-Id if it is usable, else one of ours; sent back and logged.
        self.request_id = request_id(environ.get("HTTP_X_REQUEST_ID", ""))
        #: The pattern of the route that answers; bounded, so it can be a metric label.
        self.route = "unmatched"
        self.status = 0
        #: Size of the request's body, once it was read.
        self.body_bytes = 0
        #: The code of the error that it was answered with; streams tell of theirs in an event instead.
        self.error_code: str | None = None
        #: Called at the end: what gives back that which was taken for the request.
        self.give_back: Callable[[], None] = lambda: None
        self.finish_reason: str | None = None
        #: The same of each choice that is complete, by request.
        self.finish_reasons: dict[int, str] = {}
        #: Tokens of all prompts, or of all texts that are embedded.
        self.prompt_tokens = 0
        self.cached_tokens = 0
        self.completion_tokens = 0
        #: Seconds from its begin, when its header was read, to the first piece of the answer.
        self.first_token_seconds: float | None = None
        #: The engine's requests made of it, none if it generates nothing, and whether their answer is streamed.
        self.requests: Sequence[EngineRequest] = ()
        self.streamed = False
        #: The conversation it brought, and the answers' pieces by request; None where traces do not carry them.
        self.messages: Sequence[Message] = ()
        self.answered: dict[int, list[str]] | None = None
        #: Its open span; None where requests are not traced. `epoch` nanoseconds lie between 1970 and 0 of `clock`.
        self.span: Span | None = None
        self.epoch = 0
        #: The trace it belongs to, in hexadecimal; None where requests are not traced.
        self.trace_id: str | None = None
        self._metrics = metrics
        self._tracer = tracer
        self._finished = False
        if tracer is not None:
            tracer.begin(self)

    @property
    def exemplar(self) -> dict[str, str] | None:
        """The labels that link its observations to its trace (OpenMetrics 1.0, Exemplars)."""
        return {"trace_id": self.trace_id} if self.trace_id else None

    def end_choice(self, index: int, finish_reason: str) -> None:
        """Note why the answer to request `index` ended."""
        self.finish_reasons[index] = self.finish_reason = finish_reason

    def json(self, body: object, status: int = 200, headers: tuple[tuple[str, str], ...] = ()) -> Response:
        """Return a response whose body is `body` as JSON."""
        self.status = status
        response = Response(_encode(body), status, content_type="application/json")
        response.headers.extend(headers)
        return response

    def error(self, error: ApiError) -> Response:
        """Return the response for `error`."""
        self.error_code = error.body.error.code
        return self.json(error.body, error.status, error.headers)

    def gone(self) -> Response:
        """Return the response to a client that hung up. Nobody will see it."""
        self.status = CLIENT_CLOSED_REQUEST
        return Response(status=CLIENT_CLOSED_REQUEST)

    def finish(self) -> None:
        """Stop the clock, then log and count the exchange. Only the first call does anything."""
        if self._finished:
            return
        self._finished = True
        self.give_back()
        self.timings.lap(WRITE)
        self.timings.finish()
        self._metrics.observe(self)
        access_log.write(self)
        if self._tracer is not None:
            self._tracer.end(self)
