"""The report's charts: one function a subject, each giving a picture, a caption that says what one sees, and a table.

Medians are lines with a marker for each measured point, bands go from the 5th to the 95th percentile, and a noisy
point is hollow. A comparison draws the same charts with a line for each side.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from matplotlib.axes import Axes

from bench.characterize.document import Curve, CurvePoint, Figures, Footprint
from bench.characterize.svg import MUTED, SERIES, SURFACE, canvas, mark_sizes, plain_numbers, to_svg
from bench.characterize.units import amount, show

#: Seconds are drawn in milliseconds, bytes in gigabytes.
SCALES: Final = {"s": (1e3, "ms"), "bytes/s": (1e-9, "GB/s")}


#: Inches of a chart that shares its row with one other, and with two.
LARGE: Final = (5.6, 3.2)
SMALL: Final = (4.2, 3.0)
_UNDER_LOAD: Final = ("load-rate", "load-latency", "load-itl")
_THREE_A_ROW: Final = (*_UNDER_LOAD, "batch", "threads")


@dataclass(frozen=True, slots=True)
class Chart:
    """A chart ready for the page. `rows` are the numbers behind it, as text under `header`."""

    key: str
    title: str
    svg: str
    caption: str
    header: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Side:
    """One characterisation in a chart: its figures, the contexts whose memory was read, in a comparison its name."""

    figures: Figures
    footprint: Footprint | None = None
    name: str = ""

    def label(self, what: str) -> str:
        """`what`, with the side's name before it in a comparison."""
        return f"{self.name}: {what}" if self.name else what


@dataclass(frozen=True, slots=True)
class Line:
    """A curve as it is drawn."""

    curve: Curve
    label: str
    colour: str
    dashed: bool = False


def curve_charts(sides: Sequence[Side]) -> Iterator[Chart]:
    """Every chart that draws curves against what was varied, for one characterisation or several."""
    for key, title, names, logarithmic, caption in _CURVES:
        lines = _lines(sides, names)
        if lines:
            yield _chart(key, title, lines, caption, logarithmic=logarithmic, sides=sides)


def _lines(sides: Sequence[Side], names: Sequence[str]) -> list[Line]:
    """The named curves of every side: one colour a curve, or, in a comparison, a side; then further curves dashed."""
    lines = []
    several = len(sides) > 1
    for place, side in enumerate(sides):
        for index, name in enumerate(names):
            if curve := side.figures.curves.get(name):
                label = side.label(curve.title) if len(names) > 1 else side.name or curve.title
                colour = SERIES[place if several else index]
                lines.append(Line(curve, label, colour, dashed=several and index > 0))
    return lines


def _chart(
    key: str, title: str, lines: Sequence[Line], caption: str, *, logarithmic: bool, sides: Sequence[Side]
) -> Chart:
    figure, axes = canvas(*(SMALL if key in _THREE_A_ROW else LARGE))
    unit = lines[0].curve.unit
    for line in lines:
        _draw(axes, line)
    _, shown = SCALES.get(unit, (1.0, unit))
    sizes = sorted({point.x for line in lines for point in line.curve.points})
    mark_sizes(axes, _spaced(sizes))
    if logarithmic:
        axes.set_yscale("log")
        plain_numbers(axes, y=True)
    else:
        axes.set_ylim(bottom=0)
    axes.set_xlabel(lines[0].curve.x_label)
    axes.set_ylabel(shown)
    if key in _UNDER_LOAD:
        _mark_knees(axes, sides)
    if len(lines) > 1 or lines[0].label != lines[0].curve.title:
        axes.legend(loc="best")
    return Chart(key, title, to_svg(figure, f"{title}: {caption}"), caption, *_table(lines))


def _draw(axes: Axes, line: Line) -> None:
    points = line.curve.points
    scale, _ = SCALES.get(line.curve.unit, (1.0, ""))
    x = [point.x for point in points]
    axes.fill_between(
        x, [p.low * scale for p in points], [p.high * scale for p in points], color=line.colour, alpha=0.16, linewidth=0
    )
    style = (0, (4, 2)) if line.dashed else "-"
    axes.plot(x, [p.median * scale for p in points], color=line.colour, linestyle=style, label=line.label)
    for noisy in (False, True):
        chosen = [p for p in points if p.noisy is noisy]
        axes.plot(
            [p.x for p in chosen],
            [p.median * scale for p in chosen],
            "o",
            color=line.colour,
            markerfacecolor=SURFACE if noisy else line.colour,
            markeredgewidth=1.4,
        )


def _mark_knees(axes: Axes, sides: Sequence[Side]) -> None:
    for place, side in enumerate(sides):
        knee = side.figures.knee
        if knee is not None and knee.reached:
            colour = SERIES[place] if len(sides) > 1 else MUTED
            axes.axvline(knee.clients, color=colour, linestyle=(0, (2, 2)), linewidth=1.2)
            axes.annotate(
                f"knee: {knee.clients}",
                (knee.clients, 0.04 + 0.08 * place),
                xycoords=("data", "axes fraction"),
                xytext=(5, 0),
                textcoords="offset points",
                color=colour,
            )


def _spaced(sizes: list[float]) -> list[float]:
    """Sizes far enough apart on a logarithmic axis for their labels."""
    kept: list[float] = []
    for value in sizes:
        if not kept or value >= 1.25 * kept[-1]:
            kept.append(value)
    return kept


def _table(lines: Sequence[Line]) -> tuple[tuple[str, ...], Sequence[tuple[str, ...]]]:
    """What was drawn, in numbers."""
    header = (lines[0].curve.x_label, "", "median", "p5", "p95", "values", "")
    rows = [
        (amount(point.x), line.label, *_values(point, line.curve.unit), str(point.n), "noisy" if point.noisy else "")
        for line in lines
        for point in line.curve.points
    ]
    return header, rows


def _values(point: CurvePoint, unit: str) -> tuple[str, str, str]:
    return show(point.median, unit), show(point.low, unit), show(point.high, unit)


#: Key, title, curves drawn together, whether the y axis is logarithmic, caption.
_CURVES: Final[tuple[tuple[str, str, tuple[str, ...], bool, str], ...]] = (
    (
        "ttft",
        "Time to first token against prompt length",
        ("ttft_cold", "ttft_cached"),
        True,
        "One client on an idle machine. A new prompt is computed whole; the same prompt sent again is found in the KV "
        "cache. The distance between the lines is what a cached prefix saves.",
    ),
    (
        "prefill",
        "Prefill rate against prompt length",
        ("prefill",),
        False,
        "Prompt tokens computed per second. Short prompts pay the fixed cost of a step, long ones pay for attention "
        "over what came before.",
    ),
    (
        "decode",
        "Decode rate against depth",
        ("decode",),
        False,
        "Tokens per second of one stream behind so many tokens of context. The deeper, the more keys and values every "
        "token reads.",
    ),
    (
        "output",
        "Time of a whole answer against its length",
        ("total",),
        True,
        "One client, short prompt. A straight line means that every token costs the same.",
    ),
    (
        "load-rate",
        "Output against load",
        ("load_rate",),
        False,
        "Closed loop: every client asks again as soon as it is answered; no two prompts share a prefix. The knee is "
        "the smallest load with 90% of the highest rate.",
    ),
    (
        "load-latency",
        "Waiting against load",
        ("load_ttft", "load_total"),
        True,
        "Time to the first token and to the end of the answer, over all requests of all rounds. Beyond the knee they "
        "grow with the number of clients and nothing is gained.",
    ),
    (
        "load-itl",
        "Inter-token latency against load",
        ("load_itl",),
        True,
        "Time between two tokens of one stream. The band's upper edge is what a reader notices as stutter; prefill of "
        "other requests makes it.",
    ),
    (
        "batch",
        "Decode against sequences in a step (native loop)",
        ("batch_decode",),
        False,
        "No scheduler, no HTTP: all sequences decode one token a step. Where the line rises, weights read once serve "
        "all sequences; where it is flat, arithmetic is the limit.",
    ),
    (
        "threads",
        "Rates against threads (native loop)",
        ("threads_decode", "threads_prefill"),
        False,
        "Prefill is arithmetic and grows with cores; decode stops growing when memory or waiting for each other sets "
        "the pace.",
    ),
    (
        "energy-output",
        "Energy a token against the answer's length",
        ("energy_output",),
        False,
        "One client, short prompt: energy of processor packages and GPUs over the tokens generated, prefill and idle "
        "power included.",
    ),
    (
        "energy-load",
        "Energy a token against load",
        ("energy_load",),
        False,
        "The same with several clients: idle power and weights that are read once are shared by all that run.",
    ),
)
