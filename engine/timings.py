"""The stopwatch that a request carries from its first line to its last.

One clock, `time.perf_counter`, in seconds. The thread that answers the request calls `lap` whenever a piece of work is
done; the engine thread notes on a `Course` when it admitted a generation and made its tokens. `Timings.phases` puts
the two together. Metrics, traces, logs, the response's `timings` and the page all read this one object. Knows phase
names and times, nothing of where they are shown.
"""

from __future__ import annotations

import time
from array import array
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import numpy as np
import numpy.typing as npt

clock = time.perf_counter

#: Every phase of a request, in the order in which it passes through them. They follow each other without gap or
#: overlap, so they add up to the time that the request took: its critical path. While the engine computes the answer
#: (`queue` to `sampling`) the answering thread turns tokens into text and writes them; only what it still has to do
#: after the engine's last token is on the path and counts as `handoff`, `detokenize` and `write`.
PHASES: Final = (
    "parse",
    "embed",
    "search",
    "turn",
    "template",
    "tokenize",
    "submit",
    "queue",
    "prefill",
    "decode",
    "sampling",
    "handoff",
    "detokenize",
    "write",
)

#: What the answering thread does while the engine computes, in the same words.
HANDOFF: Final = "handoff"
DETOKENIZE: Final = "detokenize"
WRITE: Final = "write"

_CODE: Final = {name: code for code, name in enumerate(PHASES)}

#: What the answering thread's C code does for a token.
_RELAYED: Final = bytes(_CODE[name] for name in (HANDOFF, DETOKENIZE, WRITE))


class Course:
    """One generation's way through the engine, as times of `clock`; written by the engine thread.

    `submitted` is when it was queued, `admitted` when it got its sequence, `token_times` when each token was there,
    `ended` when the engine did its last for it. `sampling_seconds` is how much of the time went into choosing tokens,
    `first_sampling_seconds` the part of it before the first token was there.
    """

    __slots__ = ("admitted", "ended", "first_sampling_seconds", "sampling_seconds", "submitted", "token_times")

    def __init__(self, submitted: float) -> None:
        self.submitted = submitted
        self.admitted: float | None = None
        self.ended: float | None = None
        self.token_times: list[float] = []
        self.sampling_seconds = 0.0
        self.first_sampling_seconds = 0.0

    def token(self, now: float, sampling_seconds: float) -> None:
        """Note that a token was there at `now`, of whose time choosing it took `sampling_seconds`."""
        self.sampled(sampling_seconds)
        self.token_times.append(now)

    def sampled(self, seconds: float) -> None:
        """Note that choosing a token took `seconds`."""
        if not self.token_times:
            self.first_sampling_seconds += seconds
        self.sampling_seconds += seconds

    def end(self, now: float) -> None:
        """Note when the engine did its last for this generation. Only the earliest time counts."""
        self.ended = now if self.ended is None else min(self.ended, now)

    def end_at_token(self, count: int) -> None:
        """The answer ended with token number `count`; what the engine computes beyond it is for nobody."""
        self.end(self.token_times[count - 1])

    @property
    def token_seconds(self) -> list[float]:
        """Creation time of each token: from the previous token (the first: from the start of prefill)."""
        return [self.token_second(index) for index in range(len(self.token_times))]

    def token_second(self, index: int) -> float:
        """Return the creation time of token `index`, counted from 0, in seconds."""
        times = self.token_times
        before = times[index - 1] if index else self.admitted
        return times[index] - (times[index] if before is None else before)

    def phases(self, end: float) -> dict[str, float]:
        """Return the seconds of `queue`, `prefill`, `decode` and `sampling`, which fill the time up to `end`."""
        if self.admitted is None or self.admitted >= end:
            return {"queue": end - self.submitted}
        phases = {"queue": self.admitted - self.submitted}
        tokens = bisect_right(self.token_times, end)
        first = min(self.token_times[0], end) if tokens else end
        prefill_sampling = min(self.first_sampling_seconds, first - self.admitted)
        phases["prefill"] = first - self.admitted - prefill_sampling
        decode_sampling = min(self.sampling_seconds - self.first_sampling_seconds, end - first)
        if end > first:
            phases["decode"] = end - first - decode_sampling
        phases["sampling"] = prefill_sampling + decode_sampling
        return phases


class Timings:
    """Where the time of one request went.

    One thread, the one that answers, calls `lap`, `phase` and `add`; the engine thread writes the `courses`.
    """

    __slots__ = ("_codes", "_ends", "courses", "finished", "started")

    def __init__(self) -> None:
        self.started = clock()
        #: `clock()` when the last line was done; None until `finish`.
        self.finished: float | None = None
        #: One for each generation that was submitted for this request.
        self.courses: list[Course] = []
        self._codes = bytearray()
        self._ends = array("d")

    def lap(self, name: str, at: float | None = None) -> None:
        """All the time since the last lap, until now (or `at`), went into phase `name`."""
        self._codes.append(_CODE[name])
        self._ends.append(clock() if at is None else at)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Make a lap at the end of the `with` block, however it ends."""
        try:
            yield
        finally:
            self.lap(name)

    def add(self, name: str, seconds: float) -> None:
        """Of the time since the last lap, the first `seconds` went into phase `name`; for work measured elsewhere."""
        self.lap(name, min(self._last + seconds, clock()))

    def submit(self) -> Course:
        """Note that a generation is queued for this request now, and return its course for the engine to fill."""
        course = Course(clock())
        self.lap("submit", course.submitted)
        self.courses.append(course)
        return course

    def relayed(self, times: npt.NDArray[np.float64]) -> None:
        """Note tokens that went to the client past Python.

        `times`, shape (n, 3): when each was taken, turned into text and written, as times of `clock`.
        """
        self._codes += _RELAYED * len(times)
        self._ends.frombytes(times.tobytes())

    def finish(self) -> None:
        """Stop the total. Later calls change nothing."""
        if self.finished is None:
            self.finished = clock()

    @property
    def total_seconds(self) -> float:
        """Seconds from creation to `finish`, or to now while the request runs."""
        return (clock() if self.finished is None else self.finished) - self.started

    @property
    def phases(self) -> dict[str, float]:
        """Seconds by phase, in the order of `PHASES`; a phase that did not happen is absent.

        Of several generations, the path leads through the one that ended last.
        """
        return self._account()[0]

    @property
    def beside(self) -> dict[str, float]:
        """Seconds of `detokenize` and `write` that ran beside the engine, and so are not in `phases`."""
        return self._account()[1]

    def laps(self) -> Iterator[tuple[str, float, float]]:
        """What the answering thread did: (phase, begin, end) without gaps. `handoff` is waiting for a token."""
        begin = self.started
        for code, end in zip(bytes(self._codes), self._ends.tolist(), strict=False):
            yield PHASES[code], begin, end
            begin = end

    def path(self) -> Course | None:
        """Return the course that the critical path leads through; None if nothing was submitted."""
        return max(self.courses, key=_end_of, default=None)

    @property
    def _last(self) -> float:
        return self._ends[-1] if self._ends else self.started

    def _account(self) -> tuple[dict[str, float], dict[str, float]]:
        now = clock() if self.finished is None else self.finished
        course = self.path()
        start, stop = (now, now) if course is None else (course.submitted, min(_end_of(course), now))
        codes = np.frombuffer(bytes(self._codes), np.uint8)
        ends = np.array(self._ends)
        begins = np.concatenate(((self.started,), ends[:-1]))[: ends.size]
        on_path = np.maximum(0, np.minimum(ends, start) - begins) + np.maximum(0, ends - np.maximum(begins, stop))
        whole = np.bincount(codes, ends - begins, len(PHASES))
        seconds = dict(zip(PHASES, np.bincount(codes, on_path, len(PHASES)).tolist(), strict=True))
        beside = {name: float(whole[_CODE[name]]) - seconds[name] for name in (DETOKENIZE, WRITE)}
        if course is not None:
            seconds.update(course.phases(stop))
        return _positive(seconds), _positive(beside)


def _positive(seconds: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in seconds.items() if value > 1e-9}  # less is the error of differences


def _end_of(course: Course) -> float:
    return float("inf") if course.ended is None else course.ended
