"""Bytes of tokens to text, one token at a time.

A character may be split over several tokens. The decoder holds its first bytes back until it is whole, and gives it
out exactly once. Bytes that are not UTF-8 become U+FFFD, as the Unicode standard recommends (section 3.9).
"""

from __future__ import annotations

import codecs


class Utf8Decoder:
    """An incremental UTF-8 decoder for one stream of tokens."""

    __slots__ = ("_decoder",)

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    @property
    def pending(self) -> bool:
        """Whether the first bytes of a character are held back."""
        return bool(self._decoder.getstate()[0])

    def feed(self, data: bytes) -> str:
        """Returns the text that `data` completes, which may be empty."""
        return self._decoder.decode(data)

    def flush(self) -> str:
        """Returns U+FFFD if the stream ended inside a character, else "". The decoder can be used again."""
        return self._decoder.decode(b"", final=True)
