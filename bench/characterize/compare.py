"""Two characterisations side by side: the figures that both have, as ratios with a verdict.

Knows figures only. Prompts of different tokenizers have different lengths, so points are matched to the nearest.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.characterize.document import Curve, CurvePoint, Figures
from bench.characterize.units import amount, show, size

#: Points further apart than this share are not compared.
NEAR: Final = 0.2


@dataclass(frozen=True, slots=True)
class Ratio:
    """One figure of both: as text, B / A as text, and whether B is better, worse or the same."""

    name: str
    first: str
    second: str
    ratio: str
    verdict: str


def names_of(first: Path, second: Path) -> tuple[str, str]:
    """What the two files are called: their names, with as many of their folders as tell them apart."""
    parts = [path.resolve().with_suffix("").parts for path in (first, second)]
    for count in range(1, max(map(len, parts)) + 1):
        one, other = ("/".join(part[-count:]) for part in parts)
        if one != other:
            return one, other
    return f"{first.stem} (A)", f"{second.stem} (B)"


def ratios(first: Figures, second: Figures) -> list[Ratio]:
    """Every figure that both have, rates before times."""
    rows = []
    for name, label, every in _ROWS:
        one, other = first.curves.get(name), second.curves.get(name)
        if one is None or other is None or one.unit != other.unit:
            continue
        pairs = list(_pairs(one, other))
        for a, b in pairs if every else pairs[-1:]:
            rows.append(_ratio(label.format(amount(a.x)), a, b, one.unit))
    if first.memory and second.memory:
        a_bytes, b_bytes = first.memory.theory, second.memory.theory
        verdict = "same" if a_bytes == b_bytes else "better" if b_bytes < a_bytes else "worse"
        ratio = f"{b_bytes / a_bytes:.2f}" if a_bytes else "-"
        rows.append(Ratio("KV cache a token", size(a_bytes), size(b_bytes), ratio, verdict))
    return rows


def _ratio(name: str, a: CurvePoint, b: CurvePoint, unit: str) -> Ratio:
    meet = a.low <= b.high and b.low <= a.high
    more_is_better = unit not in ("s", "J")
    verdict = "same" if meet else "better" if (b.median > a.median) is more_is_better else "worse"
    ratio = f"{b.median / a.median:.2f}" if a.median else "-"
    return Ratio(name, show(a.median, unit), show(b.median, unit), ratio, verdict)


def _pairs(one: Curve, other: Curve) -> Iterator[tuple[CurvePoint, CurvePoint]]:
    """Points of both at about the same place."""
    for point in one.points:
        nearest = min(other.points, key=lambda each: abs(each.x - point.x))
        if abs(nearest.x - point.x) <= NEAR * point.x:
            yield point, nearest


#: Curve, what a row of it is called, and whether each of its points has a row (else the last that both have).
_ROWS: Final = (
    ("prefill", "prefill, {} prompt tokens", True),
    ("decode", "decode, behind {} tokens", True),
    ("load_rate", "output, clients: {}", True),
    ("ttft_cold", "TTFT, {} new prompt tokens", True),
    ("ttft_cached", "TTFT, {} known prompt tokens", False),
    ("load_ttft", "TTFT, clients: {}", True),
    ("load_itl", "inter-token latency, clients: {}", True),
    ("total", "whole answer of {} tokens", False),
    ("batch_decode", "native decode, {} sequences a step", False),
    ("threads_decode", "native decode, {} threads", False),
    ("bandwidth_read", "memory read, {} threads", False),
    ("energy_output", "energy a token, answer of {} tokens", False),
    ("energy_load", "energy a token, clients: {}", True),
)
