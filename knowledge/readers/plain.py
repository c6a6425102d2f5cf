"""Bytes to text in whatever encoding they are: byte order marks first, then UTF-8, then by statistics.

Sources: charset-normalizer's documentation; the Unicode FAQ on byte order marks.
"""

from __future__ import annotations

import codecs

from charset_normalizer import from_bytes

from knowledge.readers.errors import SkippedError

# UTF-32 before UTF-16: its little-endian mark begins with the one of UTF-16.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_TEXT_CONTROLS = frozenset(b"\t\n\r\f\v\b\x1b")
_SAMPLE = 1 << 16


def read_plain(data: bytes) -> str:
    """Returns the text with line feeds as line ends. Raises `SkippedError` if this is no text."""
    return _decoded(data).replace("\r\n", "\n").replace("\r", "\n").replace("\0", "")


def _decoded(data: bytes) -> str:
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            try:
                return data.decode(encoding)
            except UnicodeDecodeError as error:
                raise SkippedError(f"it is marked as {encoding} and is not ({error.reason})") from error
    sample = data[:_SAMPLE]
    if wide := _without_mark(sample):
        try:
            return data.decode(wide)
        except UnicodeDecodeError as error:
            raise SkippedError("it is binary") from error
    if _is_binary(sample):
        raise SkippedError("it is binary")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        pass
    # Whole lines, so that the sample does not end within a character.
    best = from_bytes(sample[: sample.rfind(b"\n") + 1 or None]).best()
    if best is None:
        raise SkippedError("its encoding was not recognised")
    try:
        return data.decode(best.encoding)
    except UnicodeDecodeError:  # the sample was not like the rest, or it ended in the middle of a character
        best = from_bytes(data).best()
    if best is None:
        raise SkippedError("its encoding was not recognised")
    return str(best)


def _without_mark(sample: bytes) -> str | None:
    """Returns UTF-16's byte order if every other byte is mostly zero, as in European text without a mark."""
    even, odd = sample[0::2].count(0), sample[1::2].count(0)
    half = max(1, len(sample) // 2)
    if odd > 0.6 * half and even < 0.05 * half:
        return "utf-16-le"
    if even > 0.6 * half and odd < 0.05 * half:
        return "utf-16-be"
    return None


def _is_binary(sample: bytes) -> bool:
    controls = sum(sample.count(byte) for byte in range(32) if byte not in _TEXT_CONTROLS)
    return b"\0" in sample or controls > len(sample) // 50
