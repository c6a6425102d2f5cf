"""A generation on its way to one HTTP client.

Takes a slot, submits to the engine, watches for the client to hang up, keeps the exchange's figures up to date, and
gives everything back when it is over, however that comes. Routes iterate it for pieces. Knows the engine's pieces and
the client's socket; knows nothing of JSON.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Final

from engine import EngineError, EngineStopped, Piece, Request
from server.errors import CLIENT_CLOSED_REQUEST, ClientGoneError, unavailable
from server.exchange import Exchange
from server.refusals import from_engine
from server.service import Loaded, Service

#: `finish_reason` in logs and metrics of an answer whose client went away.
CANCELLED: Final = "cancelled"

#: The same of one that an error ended after it had been accepted.
FAILED: Final = "error"


class Answer:
    """The running generation of one exchange. `close` must be called; it ends whatever is still under way."""

    def __init__(self, service: Service, loaded: Loaded, exchange: Exchange, request: Request) -> None:
        """Submit `request`. Raises `ApiError` if the server is full or the engine refuses it."""
        self.exchange = exchange
        self.vocab = loaded.vocab
        self._service = service
        self._seen = 0
        self._gone = False
        self._closed = False
        if not service.slots.acquire(blocking=False):
            limit = service.config.http_workers
            raise unavailable(f"The server is at its limit: {limit} answers are under way.", "too_many_requests", 1)
        sock: socket.socket = exchange.request.environ["gunicorn.socket"]
        try:
            self.generation = loaded.engine.submit(request)
            try:
                self._watch = service.watcher.watch(sock, self._on_gone)
            except BaseException:
                self.generation.cancel()
                raise
        except BaseException as error:
            service.slots.release()
            raise self._explained(error) from error
        exchange.prompt_tokens = self.generation.prompt_tokens

    def __iter__(self) -> Iterator[Piece]:
        """Yield pieces; the last has a finish_reason. Raises `ApiError`, or `ClientGoneError` if the client hung up."""
        exchange, generation, metrics = self.exchange, self.generation, self._service.metrics
        try:
            for piece in generation:
                if exchange.first_token_seconds is None:
                    exchange.first_token_seconds = exchange.timings.total_seconds
                self._seen = metrics.observe_tokens(exchange.timings, self._seen)
                if piece.finish_reason:
                    exchange.finish_reason = piece.finish_reason
                if self._gone:
                    break
                yield piece
        except EngineError as error:
            exchange.finish_reason = FAILED
            raise self._explained(error) from error
        if self._gone:
            raise ClientGoneError

    def close(self) -> None:
        """Cancel what still runs, free the slot, log and count the exchange. Only the first call does anything."""
        if self._closed:
            return
        self._closed = True
        exchange, generation = self.exchange, self.generation
        self._service.watcher.unwatch(self._watch)
        generation.cancel()
        self._service.metrics.observe_tokens(exchange.timings, self._seen)
        self._service.slots.release()
        exchange.cached_tokens = generation.cached_tokens
        exchange.completion_tokens = generation.completion_tokens
        if exchange.finish_reason is None:
            exchange.finish_reason = CANCELLED
            exchange.status = CLIENT_CLOSED_REQUEST

    def _on_gone(self) -> None:
        self._gone = True
        self.generation.cancel()

    def _explained(self, error: BaseException) -> BaseException:
        """Return what to raise for an engine error."""
        if isinstance(error, EngineStopped):
            return self._service.stopped()
        return (from_engine(error) if isinstance(error, EngineError) else None) or error
