"""Stop strings: found wherever they lie, however the text is cut into pieces."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from engine.stops import StopMatcher

letters = st.text(alphabet="ab", max_size=12)


@settings(max_examples=1000)
@given(
    pieces=st.lists(letters, max_size=10),
    stops=st.lists(st.text(alphabet="ab", min_size=1, max_size=4), max_size=3),
)
def test_cutting_the_text_into_pieces_changes_nothing(pieces: list[str], stops: list[str]) -> None:
    matcher = StopMatcher(tuple(stops))
    out = ""
    for piece in pieces:
        out += matcher.feed(piece)
        if matcher.matched:
            break
    else:
        out += matcher.flush()
    text = "".join(pieces)
    ends = [(text.find(stop) + len(stop), text.find(stop)) for stop in stops if stop in text]
    if ends:
        _, begin = min(ends)
        assert matcher.matched
        assert out == text[:begin]
    else:
        assert not matcher.matched
        assert out == text


def test_text_is_held_back_only_while_it_may_be_a_stop_string() -> None:
    matcher = StopMatcher(("END",))
    assert matcher.feed("the E") == "the "
    assert matcher.feed("N") == ""
    assert matcher.feed("T") == "ENT"
    assert matcher.feed("END") == ""
    assert matcher.matched


def test_a_stop_string_that_repeats_itself() -> None:
    matcher = StopMatcher(("aab",))
    assert matcher.feed("aa") == ""
    assert matcher.feed("ab") == "a"
    assert matcher.matched


def test_flush_gives_back_what_was_held() -> None:
    matcher = StopMatcher(("\n\n",))
    assert matcher.feed("one\n") == "one"
    assert matcher.flush() == "\n"
