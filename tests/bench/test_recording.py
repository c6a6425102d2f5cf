"""Reading an answer from bytes and times: framing, counting, times, and every way it can be broken."""

from __future__ import annotations

import json

import pytest

from bench.recording import read_answer


def chunk(data: str) -> bytes:
    """One frame of chunked transfer coding."""
    raw = data.encode()
    return f"{len(raw):x}\r\n".encode() + raw + b"\r\n"


def event(content: str | None = None, finish: str | None = None, **more: object) -> str:
    """One chat completion chunk as a server-sent event."""
    choice = {"index": 0, "delta": {"content": content} if content is not None else {}, "finish_reason": finish}
    return f"data: {json.dumps({'choices': [choice], **more})}\n\n"


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
USAGE = {"prompt_tokens": 9, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 4}}
EVENTS = [
    event(""),
    event("One"),
    event(" twö"),
    ": a comment\n\n",
    event(" three"),
    event(finish="length"),
    f"data: {json.dumps({'choices': [], 'usage': USAGE})}\n\n",
    "data: [DONE]\n\n",
]
COMPLETE = HEAD + b"".join(chunk(data) for data in EVENTS) + b"0\r\n\r\n"


def test_counts_text_usage_and_finish_reason() -> None:
    answer = read_answer([(1.0, COMPLETE)], 0.0, 1.0)
    assert answer.error is None
    assert answer.text == "One twö three"
    assert (answer.prompt_tokens, answer.cached_tokens, answer.completion_tokens) == (9, 4, 3)
    assert (answer.counted, answer.finish_reason, answer.status) == ("usage", "length", 200)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 1000])
def test_split_anywhere_gives_the_same_answer(size: int) -> None:
    pieces = [(float(start), COMPLETE[start : start + size]) for start in range(0, len(COMPLETE), size)]
    answer = read_answer(pieces, -1.0, 1e6)
    assert answer.error is None
    assert answer.text == "One twö three"
    for text, time in zip(("One", "tw", "three"), answer.token_times, strict=True):
        complete = COMPLETE.index(b"\n\n", COMPLETE.index(text.encode()))
        assert complete - size <= time <= complete


def test_ttft_and_gaps_come_from_arrival_times() -> None:
    pieces = [(10.0, HEAD), *((10.5 + index, chunk(data)) for index, data in enumerate(EVENTS))]
    answer = read_answer(pieces, 10.0, 20.0)
    assert answer.ttft == pytest.approx(1.5)
    assert answer.gaps == pytest.approx([1.0, 2.0])


def test_without_chunked_framing_and_with_crlf_lines() -> None:
    data = "".join(EVENTS).replace("\n", "\r\n").encode()
    answer = read_answer([(1.0, b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + data)], 0.0, 2.0)
    assert (answer.error, answer.text) == (None, "One twö three")


def test_without_usage_chunks_are_counted() -> None:
    raw = HEAD + b"".join(chunk(data) for data in EVENTS if "usage" not in data)
    answer = read_answer([(1.0, raw)], 0.0, 1.0)
    assert (answer.completion_tokens, answer.counted) == (3, "chunks")


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "no complete response header"),
        (b"HTTP/1.1 200 OK\r\n", "no complete response header"),
        (b"garbage\r\n\r\n", "malformed"),
        (HEAD + b"zz\r\n", "malformed"),
        (b'HTTP/1.1 503 Busy\r\nContent-Length: 2\r\n\r\n{"e":1}', "HTTP 503"),
        (COMPLETE[: COMPLETE.index(b"[DONE]")], "without [DONE]"),
        (HEAD + chunk(event("One")) + chunk("data: [DONE]\n\n"), "without a finish_reason"),
        (HEAD + chunk("data: {broken\n\n"), "not a chat completion chunk"),
        (HEAD + chunk('data: {"choices": [3]}\n\n'), "not a chat completion chunk"),
        (HEAD + chunk("data: 3\n\n"), "not a chat completion chunk"),
        (HEAD + chunk('data: {"error": {"message": "no room"}}\n\n') + chunk("data: [DONE]\n\n"), "no room"),
    ],
)
def test_broken_answers_say_why(raw: bytes, reason: str) -> None:
    answer = read_answer([(1.0, raw)] if raw else [], 0.0, 1.0)
    assert answer.error is not None
    assert reason in answer.error


def test_the_clients_own_failure_comes_first() -> None:
    answer = read_answer([(1.0, HEAD + chunk(event("One")))], 0.0, 1.0, failure="connection lost")
    assert answer.error == "connection lost"
