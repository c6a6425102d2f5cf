"""The events of an answer as a WSGI server takes them: whatever it does, what the answer holds is given back."""

from __future__ import annotations

from collections.abc import Generator
from typing import cast

import pytest

from server.answer import Answer
from server.reply import _EventStream


class Held:
    """Stands for an answer and its exchange; notes what was given back."""

    def __init__(self) -> None:
        self.given_back: list[str] = []
        self.exchange = self

    def close(self) -> None:
        self.given_back.append("answer")

    def finish(self) -> None:
        self.given_back.append("exchange")


def events(held: Held, error: Exception | None = None) -> Generator[bytes, None, None]:
    try:
        yield b"one"
        yield b"two"
    finally:
        held.given_back.append("events")
        if error is not None:
            raise error


def stream(held: Held, error: Exception | None = None) -> _EventStream:
    return _EventStream(events(held, error), cast(Answer, held))


def test_an_answer_of_which_no_event_was_taken_is_given_back() -> None:
    held = Held()
    stream(held).close()
    assert held.given_back == ["answer", "exchange"]


def test_one_that_is_broken_off_ends_its_events_first() -> None:
    held = Held()
    under_way = stream(held)
    assert next(iter(under_way)) == b"one"
    under_way.close()
    assert held.given_back == ["events", "answer", "exchange"]


def test_one_whose_events_fail_at_the_end_is_given_back_too() -> None:
    held = Held()
    under_way = stream(held, OSError("gone"))
    next(iter(under_way))
    with pytest.raises(OSError, match="gone"):
        under_way.close()
    assert held.given_back == ["events", "answer", "exchange"]


def test_all_events_come_in_order() -> None:
    assert list(stream(Held())) == [b"one", b"two"]
