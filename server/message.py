"""Turns the text of one choice, as it comes, into the parts of the assistant's message.

The one place that says which text is content. Knows characters and the fields of a message; knows nothing of tokens
or events.
"""

from __future__ import annotations

from server.schema.answer import AssistantMessage, Delta


class MessageReader:
    """Reads the text of one choice."""

    def __init__(self) -> None:
        self._content: list[str] = []

    def feed(self, text: str) -> Delta:
        """Take the next text, return what it adds to the message."""
        self._content.append(text)
        return Delta(content=text or None)

    def message(self) -> AssistantMessage:
        """Return the whole message, when everything was fed."""
        return AssistantMessage("assistant", "".join(self._content))

    def finish_reason(self, reason: str) -> str:
        """Return OpenAI's finish_reason, given the engine's."""
        return reason
