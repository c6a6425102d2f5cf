"""Server-sent events of a streamed chat completion, rendered as bytes.

What is the same in every chunk of a response is encoded once; a chunk then costs one JSON string. Knows the chunk's
JSON and the event framing (HTML Living Standard, 9.2); knows nothing of sockets or the engine's threads.
"""

from __future__ import annotations

from typing import Final

import msgspec

from server.errors import ErrorBody
from server.schema.answer import ChatLogprobs, TimingsBody, Usage

#: Headers of an event stream; the last keeps nginx from collecting it.
HEADERS: Final = (("Cache-Control", "no-cache"), ("X-Accel-Buffering", "no"))
CONTENT_TYPE: Final = "text/event-stream; charset=utf-8"
DONE: Final = b"data: [DONE]\n\n"

_encode = msgspec.json.Encoder().encode


class ChunkRenderer:
    """Renders the chunks of one response."""

    def __init__(self, completion_id: str, created: int, model: str, *, include_usage: bool) -> None:
        """`created` is in seconds since the epoch. With `include_usage`, chunks before the last say `usage: null`."""
        head = {"id": completion_id, "object": "chat.completion.chunk", "created": created, "model": model}
        self._head = b"data: " + _encode(head)[:-1] + b',"choices":['
        self._delta = self._head + b'{"index":0,"delta":'
        self._before = self._delta + b'{"content":'
        self._tail = b',"usage":null}\n\n' if include_usage else b"}\n\n"
        self._rest = b',"finish_reason":null}]' + self._tail
        self._after = b'},"logprobs":null' + self._rest
        self._include_usage = include_usage

    def role(self) -> bytes:
        """The first chunk: who speaks."""
        return self._delta + b'{"role":"assistant","content":""},"logprobs":null' + self._rest

    def text(self, text: str, logprobs: ChatLogprobs | None = None) -> bytes:
        """A chunk with the next piece of text."""
        if logprobs is None:
            return self._before + _encode(text) + self._after
        return self._before + _encode(text) + b'},"logprobs":' + _encode(logprobs) + self._rest

    def last(self, finish_reason: str, usage: Usage, timings: TimingsBody) -> bytes:
        """The end of the answer: the chunk with the finish_reason, one with `usage` if asked for, the end mark.

        `timings` are in the last chunk, as with llama-server.
        """
        finish = self._delta + b'{},"logprobs":null,"finish_reason":' + _encode(finish_reason) + b"}]"
        figures = b',"timings":' + _encode(timings) + b"}\n\n"
        if not self._include_usage:
            return finish + figures + DONE
        return finish + self._tail + self._head + b'],"usage":' + _encode(usage) + figures + DONE


def error_event(body: ErrorBody) -> bytes:
    """The event that ends a stream in which something failed."""
    return b"event: error\ndata: " + _encode(body) + b"\n\n"
