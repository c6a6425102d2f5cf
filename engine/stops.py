"""Finds stop strings in text that arrives in pieces.

Knows characters only. A stop string may begin in one piece and end in a later one, so text that could still turn out
to be the beginning of a stop string is held back until it is decided.
"""

from __future__ import annotations


class StopMatcher:
    """Cuts a stream of text before the first occurrence of any stop string.

    The stop string that is complete first counts; of several that end at the same place, the longest. So it does not
    matter into which pieces the text was cut.
    """

    __slots__ = ("_held", "_stops", "matched")

    def __init__(self, stops: tuple[str, ...]) -> None:
        """`stops` are the strings to stop at; empty strings must be refused by the caller."""
        self._stops = stops
        self._held = ""
        #: True once a stop string was found; nothing may be fed after that.
        self.matched = False

    def feed(self, text: str) -> str:
        """Take the next piece, return what is certain to lie before any stop string."""
        if not self._stops:
            return text
        text = self._held + text
        found = [(at + len(stop), at) for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            self.matched = True
            self._held = ""
            _, begin = min(found)
            return text[:begin]
        keep = max(overlap(text, stop) for stop in self._stops)
        cut = len(text) - keep
        self._held = text[cut:]
        return text[:cut]

    def flush(self) -> str:
        """Return what is held back: the generation ended, so it is no stop string."""
        held, self._held = self._held, ""
        return held


def overlap(text: str, stop: str) -> int:
    """Return the length of the longest end of `text` that is a proper beginning of `stop`."""
    for length in range(min(len(text), len(stop) - 1), 0, -1):
        if text.endswith(stop[:length]):
            return length
    return 0
