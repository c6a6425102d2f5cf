"""Turns the pieces of one choice, as they come, into the parts of the assistant's message.

The one place that says which text is thought, which is content and which is a call of a tool. Knows characters and the
fields of a message; of tokens only their number, and nothing of events.
"""

from __future__ import annotations

from typing import Final

from msgspec import UNSET

from engine import Piece
from server.reasoning import ReasoningSplitter
from server.schema.answer import AnswerToolCall, AssistantMessage, CalledFunction, Delta, ToolCallDelta
from server.structured.reader import ToolCallReader

TOOL_CALLS: Final = "tool_calls"


class MessageReader:
    """Reads the pieces of one choice."""

    def __init__(self, splitter: ReasoningSplitter | None = None, calls: ToolCallReader | None = None) -> None:
        """`splitter` finds the model's thoughts, `calls` calls of tools; without either, all text is content."""
        self._splitter = splitter
        self._reader = calls
        self._content: list[str] = []
        self._reasoning: list[str] = []
        self._calls: list[AnswerToolCall] = []
        self._tokens = 0  # up to the end of the thoughts, if there are any

    @property
    def reasoning_tokens(self) -> int:
        """Tokens of the thoughts so far, their tags included."""
        return self._tokens if self._splitter is not None and self._splitter.found else 0

    @property
    def transparent(self) -> bool:
        """Whether all further text, but for the last piece's, is content as it stands."""
        return self._reader is None and (self._splitter is None or self._splitter.transparent)

    def feed(self, piece: Piece) -> Delta:
        """Take the next piece, return what it adds to the message. Behind the last nothing is held back."""
        text, last, reasoning = piece.text, piece.finish_reason is not None, ""
        calls: list[ToolCallDelta] = []
        if self._splitter is not None:
            if not self._splitter.over:
                self._tokens += len(piece.tokens)
            reasoning, text = self._splitter.feed(text)
            if last:
                more_reasoning, more_text = self._splitter.flush()
                reasoning, text = reasoning + more_reasoning, text + more_text
        if self._reader is not None:
            text, calls = self._reader.feed(text)
            if last:
                text += self._reader.flush()
        self._reasoning.append(reasoning)
        self._content.append(text)
        for call in calls:
            self._add(call)
        return Delta(content=text or None, reasoning_content=reasoning or None, tool_calls=calls or None)

    def message(self) -> AssistantMessage:
        """Return the whole message, when everything was fed."""
        content, reasoning = "".join(self._content), "".join(self._reasoning) or UNSET
        if not self._calls:
            return AssistantMessage("assistant", content, reasoning)
        return AssistantMessage("assistant", content or None, reasoning, tool_calls=self._calls)

    def finish_reason(self, reason: str) -> str:
        """Return OpenAI's finish_reason, given the engine's."""
        return TOOL_CALLS if self._calls and reason == "stop" else reason

    def _add(self, call: ToolCallDelta) -> None:
        """Add to a call what has come of it."""
        function = call.function
        if call.id is not None and call.type is not None and function.name is not None:
            self._calls.append(AnswerToolCall(call.id, call.type, CalledFunction(function.name, function.arguments)))
        else:
            begun = self._calls[-1]
            arguments = begun.function.arguments + function.arguments
            self._calls[-1] = AnswerToolCall(begun.id, begun.type, CalledFunction(begun.function.name, arguments))
