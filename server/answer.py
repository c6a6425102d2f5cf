"""The generations on their way to one HTTP client: one, or several where it asked for more choices or prompts.

Takes a slot, submits to the engine, watches for the client to hang up, keeps the exchange's figures up to date, and
gives everything back when it is over, however that comes. Replies take the pieces. Knows the engine's pieces and the
client's socket; knows nothing of JSON.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Final

from engine import EngineError, EngineStopped, Piece, Request, TokenLogprobs, clock
from llama_native import Relay, RelayEnd
from server.errors import CLIENT_CLOSED_REQUEST, ClientGoneError
from server.exchange import Exchange
from server.refusals import from_engine
from server.relay import make_relay
from server.service import Loaded, Service

#: `finish_reason` in logs and metrics of an answer whose client went away.
CANCELLED: Final = "cancelled"

#: The same of one that an error ended after it had been accepted.
FAILED: Final = "error"

#: How often the histograms get the tokens of an answer under way, in seconds: several cost little more than one.
OBSERVE_SECONDS: Final = 0.25

#: Why an answer is broken off whose client reads too slowly.
BEHIND: Final = "the client is too far behind"


class Answer:
    """The generations of one exchange. `close` must be called; it ends whatever is still under way."""

    def __init__(
        self, service: Service, loaded: Loaded, exchange: Exchange, requests: Sequence[Request], choices: int = 1
    ) -> None:
        """Submit `requests`: `choices` of each prompt, next to each other.

        Raises `ApiError` if the server is full or the engine refuses one of them.
        """
        self.exchange = exchange
        self.vocab = loaded.vocab
        self.requests = requests
        self.choices = choices
        #: How long a stream may be silent, in seconds; None for ever.
        self.ping_seconds = service.config.sse_ping_seconds or None
        self._service = service
        self._loaded = loaded
        self._seen = [0] * len(requests)
        self._next_look = [0.0] * len(requests)
        self._unfinished = len(requests)
        self._gone = False
        self._behind = False
        self._closed = False
        service.take_slot()
        sock: socket.socket = exchange.request.environ["gunicorn.socket"]
        try:
            self._group = loaded.engine.submit_all(requests)
            try:
                self._watch = service.watcher.watch(sock, self._on_gone)
            except BaseException:
                self._group.cancel()
                raise
        except BaseException as error:
            service.slots.give_back()
            raise self._explained(error) from error
        exchange.requests = requests
        exchange.prompt_tokens = self.prompt_tokens

    def prompt_logprobs(self, index: int) -> Sequence[TokenLogprobs]:
        """Return one entry for each prompt token of request `index` but the first, from its first piece on."""
        return self._group.generations[index].prompt_logprobs

    def end_logprobs(self, index: int) -> TokenLogprobs | None:
        """Return the entry of the end-of-generation token that ended request `index`, if one did."""
        return self._group.generations[index].end_logprobs

    @property
    def prompt_tokens(self) -> int:
        """Tokens of all prompts; that of several choices counts once."""
        return sum(int(request.prompt.size) for request in self.requests[:: self.choices])

    @property
    def cached_tokens(self) -> int:
        """Tokens of all prompts that were in the KV cache when the first choice of each was admitted."""
        cached = [generation.cached_tokens for generation in self._group.generations]
        return sum(min(cached[at : at + self.choices]) for at in range(0, len(cached), self.choices))

    @property
    def completion_tokens(self) -> int:
        """Tokens handed out, of all choices."""
        return sum(generation.completion_tokens for generation in self._group.generations)

    @property
    def over(self) -> bool:
        """True once the last piece of every generation was handed out."""
        return self._unfinished == 0

    def next(self, timeout: float | None = None) -> tuple[int, Piece] | None:
        """Wait for the next piece of any generation, at most `timeout` seconds; return it with its request's index.

        None when none came in time or when all are over. Raises `ApiError`, and `ClientGoneError` if the client hung
        up.
        """
        exchange = self.exchange
        try:
            taken = self._group.next(timeout)
        except EngineError as error:
            exchange.finish_reason = FAILED
            raise self._explained(error) from error
        if taken is not None:
            index, piece = taken
            if exchange.first_token_seconds is None:
                exchange.first_token_seconds = exchange.timings.total_seconds
            if piece.finish_reason or clock() > self._next_look[index]:
                self._observe(index)
            if exchange.answered is not None:
                exchange.answered.setdefault(index, []).append(piece.text)
            if piece.finish_reason:
                exchange.end_choice(index, piece.finish_reason)
                self._unfinished -= 1
        if self._gone:
            raise ClientGoneError
        return taken

    def relay(self, around: Callable[[], tuple[bytes, bytes] | None]) -> bool:
        """Let tokens go to the client past Python while text is all that they bring; `next` goes on behind them.

        For streams, between pieces. `around` gives what stands before and after each text; None if the reply has to
        see every piece. Returns whether there was nothing to send for `ping_seconds`. Raises as `check_pace` and `next`
        do, and BrokenPipeError if the client cannot be written to.
        """
        if self._relay is None or (frame := around()) is None:
            return False
        self._relay.frame(*frame)
        (generation,) = self._group.generations
        written, last = generation.completion_tokens, clock()
        while (end := generation.relay(self._relay, OBSERVE_SECONDS)) is RelayEnd.TIME:
            if self._gone:
                raise ClientGoneError
            if generation.completion_tokens > written:
                written, last = generation.completion_tokens, clock()
                self._observe(0)
            elif self.ping_seconds is not None and clock() - last >= self.ping_seconds:
                return True
        if end is RelayEnd.BEHIND:
            self._behind = True
            raise TimeoutError(BEHIND)
        if end is RelayEnd.BROKEN:
            raise BrokenPipeError(errno.EPIPE, "the client cannot be written to")
        return False

    def check_pace(self, index: int) -> None:
        """Raise TimeoutError if the piece just taken of request `index` is old: writing those before it took too long.

        For streams only, and not for their first piece: before it nothing waits for the client.
        """
        generation = self._group.generations[index]
        count = generation.completion_tokens
        if count and clock() - generation.course.token_times[count - 1] > self._service.config.client_timeout:
            self._behind = True
            raise TimeoutError(BEHIND)

    def close(self) -> None:
        """Cancel what still runs, free the slot, log and count the exchange. Only the first call does anything."""
        if self._closed:
            return
        self._closed = True
        exchange = self.exchange
        self._service.watcher.unwatch(self._watch)
        self._group.cancel()
        for index in range(len(self.requests)):
            self._observe(index)
        self._service.slots.give_back()
        exchange.cached_tokens = self.cached_tokens
        exchange.completion_tokens = self.completion_tokens
        if self.over and not self._behind:
            self._service.vitals.answered = True
        elif exchange.finish_reason != FAILED:
            exchange.finish_reason = CANCELLED
            exchange.status = CLIENT_CLOSED_REQUEST

    @cached_property
    def _relay(self) -> Relay | None:
        loaded, patience = self._loaded, self._service.config.client_timeout
        return make_relay(self.exchange, self.requests, loaded.texts, loaded.tag_tokens, patience)

    def _observe(self, index: int) -> None:
        """Count the tokens that request `index` has got since the last call."""
        course = self._group.generations[index].course
        self._seen[index] = self._service.metrics.observe_tokens(course, self._seen[index])
        self._next_look[index] = clock() + OBSERVE_SECONDS

    def _on_gone(self) -> None:
        self._gone = True
        self._group.cancel()

    def _explained(self, error: BaseException) -> BaseException:
        """Return what to raise for an engine error."""
        if isinstance(error, EngineStopped):
            return self._service.stopped()
        return (from_engine(error) if isinstance(error, EngineError) else None) or error
