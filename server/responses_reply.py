"""What a Responses answer looks like: OpenAI's response object, or the events in which it comes into being.

An answer is a list of items: a message, before it perhaps the model's thoughts, behind it perhaps calls of functions.
Messages and thoughts have one part of content, to which text is added; calls have arguments instead. Knows the JSON of
Responses; knows nothing of sockets.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from engine import Piece
from server.answer import Answer
from server.errors import ErrorBody
from server.message import MessageReader
from server.schema.answer import TimingsBody, ToolCallDelta
from server.schema.responses import ResponsesRequest

_encode = msgspec.json.Encoder().encode

Event = dict[str, Any]

MESSAGE: Final = "message"
REASONING: Final = "reasoning"
CALL: Final = "function_call"

_PREFIX: Final = {MESSAGE: "msg", REASONING: "rs", CALL: "fc"}
_PART: Final = {MESSAGE: "output_text", REASONING: "reasoning_text"}


@dataclass
class _Item:
    """An item of the output and the text that it has so far."""

    kind: str
    index: int
    call_id: str = ""
    name: str = ""
    """The call's own id, and the function that it calls."""
    id: str = field(init=False)
    texts: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.id = f"{_PREFIX[self.kind]}_{uuid.uuid4().hex}"

    @property
    def text(self) -> str:
        """All its text."""
        return "".join(self.texts)

    def part(self, text: str) -> Event:
        """Its one part of content, with `text`."""
        if self.kind == MESSAGE:
            return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
        return {"type": "reasoning_text", "text": text}

    def json(self, status: str, *, empty: bool = False) -> Event:
        """The item as JSON."""
        if self.kind == CALL:
            call: Event = {"id": self.id, "type": CALL, "status": status, "call_id": self.call_id, "name": self.name}
            return {**call, "arguments": "" if empty else self.text}
        content = [] if empty else [self.part(self.text)]
        item: Event = {"id": self.id, "type": self.kind, "status": status, "content": content}
        return {**item, "role": "assistant"} if self.kind == MESSAGE else {**item, "summary": []}


class ResponsesReply:
    """The reply to one Responses request (see `server.reply.Reply`)."""

    def __init__(self, answer: Answer, body: ResponsesRequest, model: str, reader: MessageReader) -> None:
        """`model` is the name to answer with; `reader` tells thoughts, content and calls apart."""
        self._answer = answer
        self._body = body
        self._model = model
        self._reader = reader
        self._id = f"resp_{uuid.uuid4().hex}"
        self._created = int(time.time())
        self._items: list[_Item] = []
        self._finish_reason: str | None = None
        self._sequence = 0

    def take(self, index: int, piece: Piece) -> None:  # noqa: ARG002 - there is one answer
        """Keep a piece for `body`."""
        for _ in self._advance(piece):
            pass

    def body(self) -> Event:
        """Return the response as it is now."""
        answer, request = self._answer, self._body
        sampling = answer.requests[0].sampling
        done = self._finish_reason is not None
        cut = self._finish_reason == "length"
        return {
            "id": self._id,
            "object": "response",
            "created_at": self._created,
            "status": self._status if done else "in_progress",
            "background": False,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if cut else None,
            "instructions": request.instructions,
            "max_output_tokens": request.max_output_tokens,
            "metadata": request.metadata or {},
            "model": self._model,
            "output": self._output() if done else [],
            "parallel_tool_calls": request.parallel_tool_calls is not False,
            "previous_response_id": None,
            "reasoning": request.reasoning or {"effort": None, "summary": None},
            "store": False,
            "temperature": sampling.temperature,
            "text": {"format": request.text_format},
            "tool_choice": request.tool_choice or "auto",
            "tools": request.tools or [],
            "top_p": sampling.top_p,
            "truncation": "disabled",
            "usage": self._usage() if done else None,
            **({"timings": TimingsBody.of(answer, answer.exchange.timings)} if done else {}),
        }

    def begin(self) -> Iterable[bytes]:
        """The response without output."""
        yield self._event({"type": "response.created", "response": self.body()})
        yield self._event({"type": "response.in_progress", "response": self.body()})

    def events(self, index: int, piece: Piece) -> Iterable[bytes]:  # noqa: ARG002
        """The events of a piece; behind the last the whole response."""
        for event in self._advance(piece):
            yield self._event(event)

    def around(self) -> None:
        """Nothing: events are numbered, and the last repeats the whole text."""

    def error(self, body: ErrorBody) -> bytes:
        """The event for a failure."""
        error = body.error
        return self._event({"type": "error", "code": error.code, "message": error.message, "param": error.param})

    @property
    def _status(self) -> str:
        return "incomplete" if self._finish_reason == "length" else "completed"

    def _output(self) -> list[Event]:
        """The items; only the last can be incomplete."""
        last = len(self._items) - 1
        return [item.json(self._status if item.index == last else "completed") for item in self._items]

    def _usage(self) -> Event:
        answer = self._answer
        return {
            "input_tokens": answer.prompt_tokens,
            "input_tokens_details": {"cached_tokens": answer.cached_tokens},
            "output_tokens": answer.completion_tokens,
            "output_tokens_details": {"reasoning_tokens": self._reader.reasoning_tokens},
            "total_tokens": answer.prompt_tokens + answer.completion_tokens,
        }

    def _advance(self, piece: Piece) -> Iterator[Event]:
        """Take a piece; yield what happens to the response by it."""
        delta = self._reader.feed(piece)
        if delta.reasoning_content:
            yield from self._add(REASONING, delta.reasoning_content)
        if delta.content:
            yield from self._add(MESSAGE, delta.content)
        for call in delta.tool_calls or ():
            yield from self._call(call)
        if piece.finish_reason is not None:
            self._finish_reason = piece.finish_reason
            self._answer.exchange.end_choice(0, self._reader.finish_reason(piece.finish_reason))
            if not self._items:
                yield from self._open(MESSAGE)
            yield from self._close(self._status)
            yield {"type": f"response.{self._status}", "response": self.body()}

    def _add(self, kind: str, text: str) -> Iterator[Event]:
        """Add text to the last item, after a new one if it is of another kind."""
        if not self._items or self._items[-1].kind != kind:
            if self._items:
                yield from self._close("completed")
            yield from self._open(kind)
        item = self._items[-1]
        item.texts.append(text)
        event = {"type": f"response.{_PART[kind]}.delta", **_place(item), "delta": text}
        yield {**event, "logprobs": []} if kind == MESSAGE else event

    def _call(self, call: ToolCallDelta) -> Iterator[Event]:
        """Begin a call, or add to the arguments of the last."""
        function = call.function
        if call.id is not None:
            if self._items:
                yield from self._close("completed")
            yield from self._open(CALL, call.id, function.name or "")
        if function.arguments:
            item = self._items[-1]
            item.texts.append(function.arguments)
            yield {
                "type": "response.function_call_arguments.delta",
                "item_id": item.id,
                "output_index": item.index,
                "delta": function.arguments,
            }

    def _open(self, kind: str, call_id: str = "", name: str = "") -> Iterator[Event]:
        item = _Item(kind, len(self._items), call_id, name)
        self._items.append(item)
        added = item.json("in_progress", empty=True)
        yield {"type": "response.output_item.added", "output_index": item.index, "item": added}
        if kind != CALL:
            yield {"type": "response.content_part.added", **_place(item), "part": item.part("")}

    def _close(self, status: str) -> Iterator[Event]:
        item = self._items[-1]
        if item.kind == CALL:
            place = {"item_id": item.id, "output_index": item.index, "name": item.name}
            yield {"type": "response.function_call_arguments.done", **place, "arguments": item.text}
        else:
            event = {"type": f"response.{_PART[item.kind]}.done", **_place(item), "text": item.text}
            yield {**event, "logprobs": []} if item.kind == MESSAGE else event
            yield {"type": "response.content_part.done", **_place(item), "part": item.part(item.text)}
        yield {"type": "response.output_item.done", "output_index": item.index, "item": item.json(status)}

    def _event(self, event: Event) -> bytes:
        """Return `event` with its number, as it goes out."""
        data = _encode({**event, "sequence_number": self._sequence})
        self._sequence += 1
        kind: str = event["type"]
        return b"event: " + kind.encode() + b"\ndata: " + data + b"\n\n"


def _place(item: _Item) -> Event:
    return {"item_id": item.id, "output_index": item.index, "content_index": 0}
