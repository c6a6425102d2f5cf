"""Medians, percentile bands and marks for noise: how repeated values become one point of a curve."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from bench.characterize.document import CurvePoint

#: A point is noisy when its 5th to 95th percentile spans more than this share of its median ...
SPREAD: Final = 0.30
#: ... or when other processes took more than this share of the processors in half of its samples.
DISTURBED: Final = 0.15
#: The knee is the smallest load that reaches this share of the highest output rate.
KNEE_SHARE: Final = 0.90


def curve_point(
    x: float, values: Sequence[float], other_work: Sequence[float | None] = (), judged: Sequence[float] | None = None
) -> CurvePoint:
    """The values at `x` as median and band. `judged`: what noise is judged by, where the values differ by nature."""
    low, median, high = (float(value) for value in np.quantile(np.asarray(values), (0.05, 0.5, 0.95)))
    steady = np.quantile(np.asarray(values if judged is None else judged), (0.05, 0.5, 0.95))
    known = [share for share in other_work if share is not None]
    disturbed = bool(known) and float(np.median(known)) > DISTURBED
    spread = (steady[2] - steady[0]) / steady[1] if steady[1] > 0 else 0.0
    return CurvePoint(x=x, median=median, low=low, high=high, n=len(values), noisy=disturbed or bool(spread > SPREAD))
