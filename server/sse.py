"""Server-sent events of a streamed chat completion, rendered as bytes.

What is the same in every chunk of a response is encoded once; a chunk then costs one small object. Knows the chunk's
JSON and the event framing (HTML Living Standard, 9.2); knows nothing of sockets or the engine's threads.
"""

from __future__ import annotations

from typing import Final

import msgspec

from server.errors import ErrorBody
from server.schema.answer import ChatLogprobs, Delta, TimingsBody, Usage
from server.schema.knowledge import Citation

DONE: Final = b"data: [DONE]\n\n"

_encode = msgspec.json.Encoder().encode


class ChunkRenderer:
    """Renders the chunks of one response."""

    def __init__(self, completion_id: str, created: int, model: str, *, include_usage: bool) -> None:
        """`created` is in seconds since the epoch. With `include_usage`, chunks before the last say `usage: null`."""
        head = {"id": completion_id, "object": "chat.completion.chunk", "created": created, "model": model}
        self._head = b"data: " + _encode(head)[:-1] + b',"choices":['
        self._tail = b',"usage":null}\n\n' if include_usage else b"}\n\n"
        self._rest = b',"finish_reason":null}]' + self._tail
        self._after_content = b'},"logprobs":null' + self._rest
        self._include_usage = include_usage

    def role(self, index: int) -> bytes:
        """The first chunk of a choice: who speaks."""
        return self.delta(index, Delta(role="assistant", content=""))

    def delta(self, index: int, delta: Delta, logprobs: ChatLogprobs | None = None) -> bytes:
        """A chunk with what comes next in a choice's message."""
        return self._start(index, delta) + (b"null" if logprobs is None else _encode(logprobs)) + self._rest

    def content(self, index: int, text: str) -> bytes:
        """A chunk with text: `delta` for what nearly every token brings."""
        return self._head + b'{"index":%d,"delta":{"content":' % index + _encode(text) + self._after_content

    def around_content(self, index: int) -> tuple[bytes, bytes]:
        """What stands before and after the characters of a text in its chunk (see `server.relay`)."""
        return self._head + b'{"index":%d,"delta":{"content":"' % index, b'"' + self._after_content

    def finish(self, index: int, finish_reason: str) -> bytes:
        """The end of a choice, while others go on."""
        return self._finish(index, finish_reason) + self._tail

    def last(
        self, index: int, finish_reason: str, usage: Usage, timings: TimingsBody, citations: list[Citation] | None
    ) -> bytes:
        """The end of the last choice: its last chunk, one with `usage` if asked for, the end mark.

        `timings` are in the last chunk, as with llama-server, and so are `citations` if documents were searched.
        """
        finish = self._finish(index, finish_reason)
        figures = b',"timings":' + _encode(timings) + b"}\n\n"
        if citations is not None:
            figures = b',"citations":' + _encode(citations) + figures
        if not self._include_usage:
            return finish + figures + DONE
        return finish + self._tail + self._head + b'],"usage":' + _encode(usage) + figures + DONE

    def _start(self, index: int, delta: Delta) -> bytes:
        return self._head + b'{"index":%d,"delta":' % index + _encode(delta) + b',"logprobs":'

    def _finish(self, index: int, finish_reason: str) -> bytes:
        return self._start(index, Delta()) + b'null,"finish_reason":' + _encode(finish_reason) + b"}]"


def error_event(body: ErrorBody) -> bytes:
    """The event that ends a stream in which something failed."""
    return b"event: error\ndata: " + _encode(body) + b"\n\n"
