"""Notices that the engine, or the embedding model, is stuck: it has work and gets no further.

A call of llama.cpp has no time limit of its own, and a driver or a lost thread can make it last for ever. Knows turns
and seconds; what a turn is, and what happens to those who wait, is the engine's business.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

#: Seconds without a step until an engine counts as stuck, unless the configuration says.
STALL_SECONDS: Final = 120.0

#: The same as a multiple of the first steps. They compute 32 prompt tokens, the longest step some 500: it would have
#: to take six times as long as expected.
WARM_UPS: Final = 100.0

#: Seconds between two looks that count at most: a process that was stopped as a whole has not been stuck.
LOOK_SECONDS: Final = 5.0


def patience(configured: float | None, warm_up_seconds: float) -> float:
    """Return after how many seconds an engine is stuck; 0 for never. `configured` None chooses."""
    return max(STALL_SECONDS, WARM_UPS * warm_up_seconds) if configured is None else configured


class Watchdog:
    """Counts how long each of several turns has been the same."""

    def __init__(self, turns: dict[str, tuple[Callable[[], int | None], float]]) -> None:
        """`turns` has, for each name, what says at which turn that one is (None: it has nothing to do), and a limit.

        It is stuck after more seconds than that in one turn; 0: never.
        """
        self._turns = turns
        self._seen: dict[str, int | None] = dict.fromkeys(turns)
        self._stuck = dict.fromkeys(turns, 0.0)
        self._looked = time.monotonic()

    def look(self) -> str | None:
        """Return what is wrong, if something is. To be called about once a second."""
        now = time.monotonic()
        passed, self._looked = min(now - self._looked, LOOK_SECONDS), now
        for name, (turn, limit) in self._turns.items():
            at = turn()
            same = at is not None and at == self._seen[name]
            self._stuck[name] = self._stuck[name] + passed if same else 0.0
            self._seen[name] = at
            if limit and self._stuck[name] > limit:
                return f"{name} has made no step for {self._stuck[name]:.0f} seconds although there is work"
        return None
