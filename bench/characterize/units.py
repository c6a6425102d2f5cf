"""Numbers as people read them: three digits at most, a unit that fits."""

from __future__ import annotations


def duration(seconds: float) -> str:
    """Seconds as "12 µs", "3.4 ms", "2.1 s"."""
    for factor, unit in ((1e6, "µs"), (1e3, "ms")):
        if abs(seconds) * factor < 999.5:
            return f"{_digits(seconds * factor)} {unit}"
    return f"{_digits(seconds)} s"


def size(count: float) -> str:
    """Bytes in powers of 1000: "22.5 kB", "98 MB", "13 GB"."""
    for factor, unit in ((1, "B"), (1e3, "kB"), (1e6, "MB"), (1e9, "GB")):
        if abs(count) / factor < 999.5:
            return f"{_digits(count / factor)} {unit}"
    return f"{_digits(count / 1e12)} TB"


def rate(per_second: float) -> str:
    """A rate without its unit."""
    return _digits(per_second)


def amount(count: float) -> str:
    """A whole number."""
    return f"{count:.0f}"


def percent(share: float) -> str:
    """A share of 1 in percent."""
    value = 100 * share
    return f"{value:.1f}%" if 0 < abs(value) < 9.95 else f"{value:.0f}%"


def times(ratio: float) -> str:
    """A ratio: "2.3×"."""
    return f"{_digits(ratio)}×"


def show(value: float, unit: str) -> str:
    """A value in the unit of its curve."""
    if unit == "s":
        return duration(value)
    if unit == "bytes/s":
        return f"{size(value)}/s"
    return f"{_digits(value)} {unit}".strip()


def _digits(value: float) -> str:
    if value == 0:
        return "0"
    return f"{value:.0f}" if abs(value) >= 99.95 else f"{value:.3g}"
