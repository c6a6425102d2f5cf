"""Finds tool calls in the text of an answer as it streams.

The grammar (see `server.structured.grammar`) sees to it that a call, once begun, is written exactly as its format
says, so texts are compared and not guessed at. What turns out to be no call, such as one that the token limit cut
before its arguments, is content: nothing is lost. Knows characters; knows nothing of tokens.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum, auto

from engine.stops import overlap
from server.schema.answer import FunctionDelta, ToolCallDelta
from server.structured.formats import ToolFormat


class _At(Enum):
    """Where the reader is: in content, before a call's arguments, or in them."""

    TEXT = auto()
    HEAD = auto()
    ARGUMENTS = auto()


class ToolCallReader:
    """Splits the text of one answer into content and calls."""

    def __init__(self, form: ToolFormat, functions: Iterable[str]) -> None:
        """`functions` are the names that may be called."""
        self._form = form
        self._functions = {form.head(name): name for name in functions}
        self._close = form.tail + form.end
        #: How many calls have begun.
        self.count = 0
        self._held = ""
        self._space = ""  # white space between content and what may be a call
        self._json = _JsonObject()
        self._at = _At.HEAD if form.bare else _At.TEXT
        self._leads: tuple[str, ...] = ("", form.begin)
        """What may come before the head of the next call."""

    def feed(self, text: str) -> tuple[str, list[ToolCallDelta]]:
        """Take the next text; return what of it is content, and what it adds to calls, at most one entry a call."""
        self._held += text
        content: list[str] = []
        calls: list[ToolCallDelta] = []
        more = True
        while more and self._held:
            if self._at is _At.TEXT:
                more = self._read_text(content)
            elif self._at is _At.HEAD:
                more = self._read_head(content, calls)
            else:
                more = self._read_arguments(calls)
        return "".join(content), calls

    def flush(self) -> str:
        """Return the content that is held back: the answer is over."""
        held, self._held = self._space + self._held, ""
        if self._at is _At.HEAD and self.count:
            return "" if self._close.startswith(held) else held.removeprefix(self._close)
        return held

    def _read_text(self, content: list[str]) -> bool:
        """Pass content on until a call may begin. White space waits, as it is dropped before a call."""
        at = self._held.find(self._form.trigger)
        found = at >= 0
        end = at if found else len(self._held) - overlap(self._held, self._form.trigger)
        before = self._held[:end]
        text = before.rstrip()
        content.append(text)
        self._held = self._held[end if found else len(text) :]
        if found:
            self._space = before[len(text) :]
            self._at, self._leads = _At.HEAD, (self._form.begin,)
        return found

    def _read_head(self, content: list[str], calls: list[ToolCallDelta]) -> bool:
        """Look for what comes before a call's arguments; if it is something else, it is content."""
        undecided = False
        for lead in self._leads:
            for head, name in self._functions.items():
                whole = lead + head
                if self._held.startswith(whole):
                    self._held, self._space = self._held[len(whole) :], ""
                    self._json = _JsonObject()
                    self._at = _At.ARGUMENTS
                    function = FunctionDelta(name=name, arguments="")
                    calls.append(ToolCallDelta(self.count, self._form.new_id(), "function", function))
                    self.count += 1
                    return True
                undecided |= whole.startswith(self._held)
        if not undecided:
            self._at = _At.TEXT
            if self._held.startswith(self._form.trigger):
                content.append(self._space + self._form.trigger)
                self._held, self._space = self._held[len(self._form.trigger) :], ""
            elif self.count:
                self._held = self._held.removeprefix(self._close)
        return not undecided

    def _read_arguments(self, calls: list[ToolCallDelta]) -> bool:
        """Pass on arguments up to their closing brace."""
        index, size = self.count - 1, self._json.feed(self._held)
        fragment, self._held = self._held[:size], self._held[size:]
        if calls and calls[-1].index == index:
            begun = calls[-1]
            calls[-1] = ToolCallDelta(index, begun.id, begun.type, FunctionDelta(fragment, begun.function.name))
        else:
            calls.append(ToolCallDelta(index, function=FunctionDelta(fragment)))
        if self._json.over:
            self._at, self._leads = _At.HEAD, (self._form.tail + self._form.separator,)
        return self._json.over


class _JsonObject:
    """Finds the end of a JSON object in text that comes in pieces."""

    __slots__ = ("_depth", "_escaped", "_in_string", "over")

    def __init__(self) -> None:
        self._depth = 0
        self._in_string = False
        self._escaped = False
        self.over = False

    def feed(self, text: str) -> int:
        """Take the next text; return how many characters of it belong to the object."""
        for place, character in enumerate(text):
            if self._escaped:
                self._escaped = False
            elif self._in_string:
                self._escaped = character == "\\"
                self._in_string = character != '"'
            elif character == '"':
                self._in_string = True
            elif character in "{[":
                self._depth += 1
            elif character in "}]":
                self._depth -= 1
                if self._depth == 0:
                    self.over = True
                    return place + 1
        return len(text)
