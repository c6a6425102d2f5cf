"""What one streamed answer was, read from the bytes that came and when they came.

Parsing happens after the load, so that it costs the measured run nothing. Knows HTTP/1.1 framing (RFC 9112),
server-sent events (WHATWG HTML, section 9.2) and OpenAI's chunk objects; knows nothing of sockets.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

Pieces = list[tuple[float, bytes]]


@dataclass(frozen=True, slots=True)
class Answer:
    """One request and its answer. Times are `time.perf_counter()` seconds; `started` is before the connect.

    `token_times` holds the arrival of every chunk that carried text. `completion_tokens` is the server's own count
    (usage), or the number of those chunks where the server sends no usage (`counted` is then "chunks"). `phases`:
    seconds by phase (`timings.phases`), None from a server that does not tell. `ids` are those of its chunks: one, if
    all is well. `citations`: passages of the server's documents that it put into the prompt.
    """

    started: float
    ended: float
    status: int = 0
    token_times: tuple[float, ...] = ()
    text: str = ""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    counted: str = "usage"
    finish_reason: str | None = None
    error: str | None = None
    conversation: int = 0
    turn: int = 0
    phases: dict[str, float] | None = None
    ids: frozenset[str] = frozenset()
    citations: int = 0

    @property
    def ttft(self) -> float | None:
        """Seconds from the start of the request to the first text, None when there was none."""
        return self.token_times[0] - self.started if self.token_times else None

    @property
    def gaps(self) -> list[float]:
        """Seconds between neighbouring chunks with text: the inter-token latencies of this stream."""
        return [later - earlier for earlier, later in pairwise(self.token_times)]


@dataclass(slots=True)
class _Payload:
    """The body without its chunked framing, able to say when its n-th byte arrived."""

    data: bytearray = field(default_factory=bytearray)
    ends: list[int] = field(default_factory=list)
    shifts: list[int] = field(default_factory=list)

    def append(self, raw: bytes, start: int, end: int) -> None:
        self.shifts.append(start - len(self.data))
        self.data += raw[start:end]
        self.ends.append(len(self.data))

    def raw_offset(self, offset: int) -> int:
        return offset + self.shifts[bisect_right(self.ends, offset)]


def _payload(raw: bytes, start: int, chunked: bool) -> _Payload:
    payload = _Payload()
    if not chunked:
        payload.append(raw, start, len(raw))
        return payload
    while True:
        line_end = raw.find(b"\r\n", start)
        if line_end < 0:
            return payload
        size = int(raw[start:line_end].split(b";")[0], 16)
        if size == 0:
            return payload
        payload.append(raw, line_end + 2, min(line_end + 2 + size, len(raw)))
        start = line_end + 2 + size + 2


def _events(payload: _Payload) -> Iterator[tuple[int, bytes]]:
    """Each server-sent event's data with the offset of its last byte in the payload."""
    data = bytes(payload.data)
    start = 0
    while (end := data.find(b"\n", start)) >= 0:
        line = data[start:end].strip()
        if line.startswith(b"data:"):
            yield end, line[5:].strip()
        start = end + 1


def read_answer(
    pieces: Pieces, started: float, ended: float, failure: str | None = None, conversation: int = 0, turn: int = 0
) -> Answer:
    """The answer in the recorded pieces; never raises: whatever was wrong is in `Answer.error`."""

    def failed(reason: str, status: int = 0) -> Answer:
        return Answer(started, ended, status=status, error=reason, conversation=conversation, turn=turn)

    raw = b"".join(data for _, data in pieces)
    head_end = raw.find(b"\r\n\r\n")
    if head_end < 0:
        return failed(failure or "no complete response header")
    head = raw[:head_end].split(b"\r\n")
    try:
        status = int(head[0].split()[1])
        chunked = any(line.lower().replace(b" ", b"") == b"transfer-encoding:chunked" for line in head[1:])
        payload = _payload(raw, head_end + 4, chunked)
    except (IndexError, ValueError):
        return failed(failure or "malformed HTTP response")
    if status != 200:
        return failed(f"HTTP {status}: {bytes(payload.data[:300]).decode(errors='replace')}", status)
    arrivals = _Arrivals(pieces)
    texts: list[str] = []
    times: list[float] = []
    usage: dict[str, Any] = {}
    timings: dict[str, Any] = {}
    finish_reason: str | None = None
    ids: set[str] = set()
    citations = 0
    done = False
    error = failure
    for offset, data in _events(payload):
        if data == b"[DONE]":
            done = True
            break
        try:
            event = json.loads(data)
            if "error" in event:
                error = error or f"error in the stream: {json.dumps(event['error'])[:300]}"
            ids.add(str(event.get("id")))
            usage = event.get("usage") or usage
            timings = event.get("timings") or timings
            citations += len(event.get("citations") or ())
            for choice in event.get("choices") or ():
                finish_reason = choice.get("finish_reason") or finish_reason
                if text := (choice.get("delta") or {}).get("content"):
                    texts.append(str(text))
                    times.append(arrivals.at(payload.raw_offset(offset)))
        except (ValueError, TypeError, AttributeError):
            return failed(f"an event is not a chat completion chunk: {data[:100]!r}", status)
    if error is None and not done:
        error = "the stream ended without [DONE]"
    if error is None and finish_reason is None:
        error = "the stream ended without a finish_reason"
    return Answer(
        started,
        ended,
        status=status,
        token_times=tuple(times),
        text="".join(texts),
        prompt_tokens=int(usage.get("prompt_tokens") or 0),
        cached_tokens=int((usage.get("prompt_tokens_details") or {}).get("cached_tokens") or 0),
        completion_tokens=int(usage["completion_tokens"]) if "completion_tokens" in usage else len(times),
        counted="usage" if "completion_tokens" in usage else "chunks",
        finish_reason=finish_reason,
        error=error,
        conversation=conversation,
        turn=turn,
        phases=timings.get("phases"),
        ids=frozenset(ids),
        citations=citations,
    )


class _Arrivals:
    """When the n-th byte of the raw response came."""

    def __init__(self, pieces: Pieces) -> None:
        self._times = [time for time, _ in pieces]
        self._ends: list[int] = []
        total = 0
        for _, data in pieces:
            total += len(data)
            self._ends.append(total)

    def at(self, offset: int) -> float:
        return self._times[min(bisect_right(self._ends, offset), len(self._times) - 1)]
