"""The computed ceiling of a run: what its work would take at the native rates, with no scheduling in between.

Work = prefill of the prompt tokens that were computed, each prompt at its own size behind what was cached, and the
tokens put out at the decode rate of that many sequences at the workload's depth. Every combination of flash attention
and KV layout is measured, twice: with the kernels that the server ran with, and with llama.cpp's own. The ceiling is
the single combination that was fastest over all rounds, as a server must run with one.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from bench.llama_tools import NativeSettings
from bench.rates import Point, Rates, measure_apart
from bench.recording import Answer


@dataclass(frozen=True, slots=True)
class Ceiling:
    """Output tokens/s that the work allows, the settings that reach it, and the rates they were computed from."""

    output_rate: float
    computed_tokens: int
    prefill_rate: float
    decode_rate: float
    setting: str


@dataclass(frozen=True, slots=True)
class Ceilings:
    """The ceilings of one result, one for each combination of settings.

    `own`: with the kernels that our server ran with; its bar is about the `fastest`. `llama_cpp`: with llama.cpp's,
    which is the most that the same work allows a server without our kernels. Both are one with MODEL_KERNELS=off.
    """

    own: tuple[Ceiling, ...]
    llama_cpp: tuple[Ceiling, ...]


def fastest(rounds: Sequence[Sequence[Ceiling]]) -> list[Ceiling]:
    """Of the combinations, which every round has in the same order, the one with the highest median rate, by round.

    The fastest of each round would be the luckiest: on a host whose speed varies it lies above what any one allows.
    """
    return list(max(zip(*rounds, strict=True), key=lambda each: statistics.median(it.output_rate for it in each)))


def operating_point(answers: Sequence[Answer], sequences: int, shared: bool) -> Point:
    """The point whose rates describe these answers. Raises ValueError when no answer succeeded."""
    good = [answer for answer in answers if answer.error is None]
    if not good:
        raise ValueError("no request succeeded")
    computed = sorted(_computed(answer) for answer in good)
    sizes = sorted({computed[0], computed[len(computed) // 2], computed[-1]})
    return Point(
        sequences=sequences,
        depth=round(float(np.mean([answer.prompt_tokens for answer in good]))),
        generate=max(8, round(float(np.mean([answer.completion_tokens for answer in good])))),
        prefill=tuple(sizes),
        prefill_depth=round(float(np.mean([answer.cached_tokens for answer in good]))),
        shared=shared,
    )


def _computed(answer: Answer) -> int:
    return max(1, answer.prompt_tokens - answer.cached_tokens)


def work_seconds(answers: Sequence[Answer], rates: Rates) -> float:
    """Seconds of the work in these answers at these rates; between measured prefill sizes, by linear interpolation."""
    good = [answer for answer in answers if answer.error is None]
    sizes = sorted(rates.prefill_seconds)
    seconds = np.interp([_computed(answer) for answer in good], sizes, [rates.prefill_seconds[size] for size in sizes])
    return float(np.sum(seconds)) + sum(answer.completion_tokens for answer in good) / rates.decode_rate


def settings_ceilings(
    answers: Sequence[Answer], settings: NativeSettings, sequences: int, shared: bool
) -> tuple[Ceiling, ...]:
    """Measure the rates at the answers' operating point with each combination of settings; compute their ceilings."""
    point = operating_point(answers, sequences, shared)
    good = [answer for answer in answers if answer.error is None]
    computed = sum(_computed(answer) for answer in good)
    tokens = sum(answer.completion_tokens for answer in good)
    layouts = (False, True) if shared and sequences > 1 else (False,)
    found = []
    for flash_attention in ("off", "on"):
        for unified in layouts:
            rates = measure_apart(replace(settings, flash_attention=flash_attention, kv_unified=unified), point)
            seconds = work_seconds(good, rates)
            found.append(
                Ceiling(
                    tokens / seconds,
                    computed,
                    computed / (seconds - tokens / rates.decode_rate),
                    rates.decode_rate,
                    f"flash attention {flash_attention}, {'unified' if unified else 'streams'}",
                )
            )
    return tuple(found)


def ceilings(answers: Sequence[Answer], settings: NativeSettings, sequences: int, shared: bool) -> Ceilings:
    """`settings_ceilings` with the kernels of `settings`, and with llama.cpp's."""
    own = settings_ceilings(answers, settings, sequences, shared)
    plain = replace(settings, kernels=False)
    return Ceilings(own, settings_ceilings(answers, plain, sequences, shared) if settings.kernels else own)
