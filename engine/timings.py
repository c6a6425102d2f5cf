"""The stopwatch that a request carries from its first line to its last.

One clock, `time.perf_counter`, in seconds. Whoever does a piece of a request's work notes it here; metrics, traces,
the response's `timings` and the page all read this one object. Knows phase names and numbers, nothing of where they
are shown.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

clock = time.perf_counter

#: Every phase of a request, in the order in which it passes through them. `decode` is the time from the first token
#: to the last without the share spent in `sampling`; `detokenize` and `write` run in the HTTP thread, beside the next
#: decode step.
PHASES: Final = (
    "parse",
    "embed",
    "search",
    "template",
    "tokenize",
    "queue",
    "prefill",
    "decode",
    "sampling",
    "detokenize",
    "write",
)


class Timings:
    """Seconds of one request by phase, and of each of its tokens.

    Safe to use from the HTTP thread and the engine thread at once, as long as each phase is written by one of them.
    """

    __slots__ = ("finished", "phases", "started", "token_seconds")

    def __init__(self) -> None:
        self.started = clock()
        #: `clock()` when the last line was done; None until `finish`.
        self.finished: float | None = None
        #: Seconds by phase name; a phase that did not happen is absent.
        self.phases: dict[str, float] = {}
        #: Creation time of each token in seconds: from the previous token (the first: from the start of prefill).
        self.token_seconds: list[float] = []

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Add the time spent in the `with` block to phase `name`."""
        begin = clock()
        try:
            yield
        finally:
            self.add(name, clock() - begin)

    def add(self, name: str, seconds: float) -> None:
        """Add `seconds` to phase `name`."""
        self.phases[name] = self.phases.get(name, 0.0) + seconds

    def finish(self) -> None:
        """Stop the total. Later calls change nothing."""
        if self.finished is None:
            self.finished = clock()

    @property
    def total_seconds(self) -> float:
        """Seconds from creation to `finish`, or to now while the request runs."""
        return (clock() if self.finished is None else self.finished) - self.started
