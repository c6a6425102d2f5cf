"""What is characterised, as the sweeps see it: something that answers prompts. `HttpTarget` and `EngineTarget` do.

Knows prompts by their size and seed; not how they are sent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from bench.characterize.document import Load


class TargetFailedError(Exception):
    """The target cannot be characterised; the message says why."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt of about `tokens` tokens. The same seed gives the same prompt, another seed another from its start."""

    tokens: int
    seed: str


@dataclass(frozen=True, slots=True)
class Pace:
    """A first impression of the target's speed in tokens per second, for planning."""

    prefill: float
    decode: float


class Target(Protocol):
    """Answers prompts."""

    pace: Pace

    def ask(self, prompts: Sequence[Prompt], clients: int, answer: int) -> Load:
        """Ask for each prompt, `clients` at a time, each going on at once; `answer` tokens each."""

    def describe(self) -> dict[str, Any]:
        """The engine's settings and calibration, as far as they are known."""

    def identify(self) -> dict[str, str]:
        """Which software and model answer, as far as it is known: what must be the same for samples to be compared."""

    def close(self) -> None:
        """Give back what is held."""
