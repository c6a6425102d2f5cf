"""What a chat completion looks like: OpenAI's body, or its chunks.

Knows the JSON of chat responses and how the parts of a message are put together; knows nothing of sockets.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from engine import Piece
from server import sse
from server.answer import Answer
from server.errors import ErrorBody
from server.message import MessageReader
from server.schema.answer import ChatChoice, ChatCompletion, ChatLogprobs, Delta, TimingsBody, TokenLogprob, Usage
from server.schema.knowledge import Citation


class ChatReply:
    """The reply to one chat completion request (see `server.reply.Reply`)."""

    def __init__(
        self,
        answer: Answer,
        model: str,
        readers: Sequence[MessageReader],
        *,
        include_usage: bool,
        citations: list[Citation] | None = None,
    ) -> None:
        """`model` is the name to answer with; `readers` has one for each choice.

        `citations` are the passages in the prompt; None if documents were not searched.
        """
        self._citations = citations
        self._answer = answer
        self._model = model
        self._id = f"chatcmpl-{uuid.uuid4().hex}"
        self._created = int(time.time())
        self._readers = readers
        self._logprobs: list[list[TokenLogprob]] = [[] for _ in answer.requests]
        self._reasons = [""] * len(answer.requests)
        self._renderer = sse.ChunkRenderer(self._id, self._created, model, include_usage=include_usage)
        self._begun: set[int] = set()

    def take(self, index: int, piece: Piece) -> None:
        """Keep a piece for `body`."""
        self._readers[index].feed(piece)
        self._logprobs[index] += self._entries(piece)
        if piece.finish_reason:
            self._reasons[index] = self._end(index, piece.finish_reason)

    def body(self) -> ChatCompletion:
        """Return the complete answer."""
        answer = self._answer
        choices = [
            ChatChoice(
                index=index,
                message=reader.message(),
                logprobs=None if request.sampling.logprobs is None else ChatLogprobs(logprobs),
                finish_reason=reason,
            )
            for index, (request, reader, logprobs, reason) in enumerate(
                zip(answer.requests, self._readers, self._logprobs, self._reasons, strict=True)
            )
        ]
        return ChatCompletion(
            id=self._id,
            object="chat.completion",
            created=self._created,
            model=self._model,
            choices=choices,
            usage=self._usage(),
            timings=TimingsBody.of(answer, answer.exchange.timings),
            citations=msgspec.UNSET if self._citations is None else self._citations,
        )

    def begin(self) -> Iterable[bytes]:
        """Nothing: a choice begins with its first piece."""
        return ()

    def events(self, index: int, piece: Piece) -> Iterable[bytes]:
        """Return the chunks of a piece: the role before a choice's first, the finish_reason behind its last."""
        if index not in self._begun:
            return self._first(index, piece)
        delta = self._readers[index].feed(piece)
        if piece.finish_reason is None and piece.logprobs is None and (text := delta.only_content) is not None:
            return (self._renderer.content(index, text),)
        return self._chunks(index, piece, delta)

    def _first(self, index: int, piece: Piece) -> Iterator[bytes]:
        self._begun.add(index)
        yield self._renderer.role(index)
        yield from self._chunks(index, piece, self._readers[index].feed(piece))

    def _chunks(self, index: int, piece: Piece, delta: Delta) -> Iterator[bytes]:
        reason = piece.finish_reason
        if delta or piece.logprobs:
            logprobs = None if piece.logprobs is None else ChatLogprobs(self._entries(piece))
            for part in delta.parts():
                yield self._renderer.delta(index, part, logprobs)
                logprobs = None
        if reason is not None:
            reason, answer = self._end(index, reason), self._answer
            if answer.over:
                timings = TimingsBody.of(answer, answer.exchange.timings)
                yield self._renderer.last(index, reason, self._usage(), timings, self._citations)
            else:
                yield self._renderer.finish(index, reason)

    def around(self) -> tuple[bytes, bytes] | None:
        """What stands around each text, once the reader makes content of all of it."""
        return self._renderer.around_content(0) if self._readers[0].transparent else None

    def error(self, body: ErrorBody) -> bytes:
        """The event for a failure."""
        return sse.error_event(body)

    def _end(self, index: int, reason: str) -> str:
        """Note that a choice is complete; return its finish_reason, given the engine's."""
        reason = self._readers[index].finish_reason(reason)
        self._answer.exchange.end_choice(index, reason)
        return reason

    def _usage(self) -> Usage:
        return Usage.of(self._answer, sum(reader.reasoning_tokens for reader in self._readers))

    def _entries(self, piece: Piece) -> list[TokenLogprob]:
        return [TokenLogprob.of(entry, self._answer.vocab) for entry in piece.logprobs or ()]
