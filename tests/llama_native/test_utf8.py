"""Characters that are split over tokens come out whole, exactly once."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from llama_native import Utf8Decoder


@given(st.text(), st.data())
def test_any_split_gives_the_same_text(text: str, data: st.DataObject) -> None:
    raw = text.encode("utf-8", errors="replace")
    cuts = sorted(data.draw(st.lists(st.integers(0, len(raw)))))
    decoder = Utf8Decoder()
    pieces = [raw[start:end] for start, end in zip([0, *cuts], [*cuts, len(raw)], strict=True)]
    assert "".join(decoder.feed(piece) for piece in pieces) + decoder.flush() == raw.decode()


@given(st.lists(st.binary(max_size=8)))
def test_invalid_bytes_are_replaced_whatever_the_split(pieces: list[bytes]) -> None:
    decoder = Utf8Decoder()
    text = "".join(decoder.feed(piece) for piece in pieces) + decoder.flush()
    assert text == b"".join(pieces).decode("utf-8", errors="replace")


def test_a_character_appears_with_its_last_byte() -> None:
    decoder = Utf8Decoder()
    assert [decoder.feed(bytes([byte])) for byte in "é✨".encode()] == ["", "é", "", "", "✨"]
    assert decoder.flush() == ""


def test_flush_of_half_a_character_and_reuse() -> None:
    decoder = Utf8Decoder()
    assert not decoder.pending
    assert decoder.feed(b"a\xe2\x9c") == "a"
    assert decoder.pending
    assert decoder.flush() == "\ufffd"
    assert not decoder.pending
    assert decoder.feed(b"b") == "b"
