"""The report's charts that are no curves: phases as stacked bars, KV memory beside theory, roofline.

A comparison draws what both sides have: their bars one below the other, the rest in a colour for each side.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from matplotlib.axes import Axes
from msgspec import structs

from bench.characterize.charts import LARGE, SMALL, Chart, Side
from bench.characterize.document import Memory, PhaseBar, Roofline
from bench.characterize.figures import OTHER
from bench.characterize.svg import INK, MUTED, SERIES, SURFACE, canvas, plain_numbers, to_svg
from bench.characterize.units import amount, duration, percent, size
from engine import PHASES

#: Phases that take less than this share of every bar are drawn together.
NEGLIGIBLE: Final = 0.005
AROUND: Final = "all others"


def diagrams(sides: Sequence[Side]) -> Iterator[Chart]:
    """Those that the figures of all sides allow."""
    if bars := _bars(sides):
        yield _phases(bars)
    memories = [
        (side, side.figures.memory, side.footprint.rows) for side in sides if side.figures.memory and side.footprint
    ]
    if len(memories) == len(sides):
        yield _memory(memories)
    roofs = [(side, side.figures.roofline) for side in sides if side.figures.roofline]
    if len(roofs) == len(sides):
        yield _roofline(roofs)


def _bars(sides: Sequence[Side]) -> list[PhaseBar]:
    """The bars that all sides have, those of the same requests below each other."""
    found = [{bar.name: bar for bar in side.figures.phases} for side in sides]
    return [
        structs.replace(bars[name], name=side.label(name))
        for name in found[0]
        if all(name in bars for bars in found)
        for side, bars in zip(sides, found, strict=True)
    ]


def _phases(bars: list[PhaseBar]) -> Chart:
    names = [name for name in (*PHASES, OTHER) if any(bar.seconds.get(name) for bar in bars)]
    large = [name for name in names if any(bar.seconds.get(name, 0.0) > NEGLIGIBLE * bar.total for bar in bars)]
    drawn = [*large, AROUND] if set(names) - set(large) else large
    figure, axes = canvas(11.6, 0.42 * len(bars) + 1.0)
    rows = list(reversed(bars))
    left = [0.0] * len(rows)
    order = ["prefill", "decode", "queue", *(name for name in drawn if name not in ("prefill", "decode", "queue"))]
    for name in drawn:
        seconds = [_drawn_seconds(bar, name, large) for bar in rows]
        widths = [100 * value / sum(bar.seconds.values()) for value, bar in zip(seconds, rows, strict=True)]
        colour = SERIES[order.index(name) % len(SERIES)]
        axes.barh([bar.name for bar in rows], widths, left=left, color=colour, label=name, height=0.62)
        for place, width in enumerate(widths):
            if width >= 7:
                axes.text(
                    left[place] + width / 2, place, f"{width:.0f}%", ha="center", va="center", color=SURFACE, fontsize=8
                )
        left = [begin + width for begin, width in zip(left, widths, strict=True)]
    for place, bar in enumerate(rows):
        axes.text(101, place, duration(bar.total), va="center", color=INK, fontsize=8.5)
    axes.set_xlim(0, 107)
    axes.set_xlabel("share of the request in %; on the right its mean time")
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.legend(loc="lower center", bbox_to_anchor=(0.47, 1.0), ncols=len(drawn), handlelength=1.0, columnspacing=1.4)
    caption = (
        "Where a request's time goes, as a mean over requests. prefill and decode are the model's work, queue is "
        "waiting for a place; other is what no phase covers (the network and the client, mostly)."
    )
    table = [
        (bar.name, name, duration(bar.seconds[name]), percent(bar.seconds[name] / bar.total))
        for bar in bars
        for name in names
        if name in bar.seconds
    ]
    header = ("request", "phase", "mean time", "share")
    return Chart("phases", "Share of each phase", to_svg(figure, caption), caption, header, table)


def _drawn_seconds(bar: PhaseBar, name: str, large: list[str]) -> float:
    """Seconds of a phase, or of all that are not drawn apart."""
    if name == AROUND:
        return sum(seconds for phase, seconds in bar.seconds.items() if phase not in large)
    return bar.seconds.get(name, 0.0)


def _memory(sides: Sequence[tuple[Side, Memory, list[tuple[int, int]]]]) -> Chart:
    figure, axes = canvas(*LARGE)
    told, table = [], []
    for place, (side, memory, rows) in enumerate(sides):
        measured, theory = _colours(place, len(sides))
        cells = [row[0] for row in rows]
        axes.plot(cells, [used / 1e6 for _, used in rows], "o", color=measured, label=side.label("measured"))
        ends = [0, max(cells)]
        axes.plot(ends, [end * memory.theory / 1e6 for end in ends], color=theory, label=side.label("theory"))
        told.append(
            side.label(
                f"{size(memory.measured)} a token measured, {size(memory.theory)} by the formula "
                f"({percent(memory.measured / memory.theory)}), and {size(memory.fixed)} whatever the size"
            )
        )
        table += [(side.label(amount(count)), size(used), size(count * memory.theory)) for count, used in rows]
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("cells of the context (tokens)")
    axes.set_ylabel("MB")
    axes.legend(loc="upper left")
    caption = (
        "Private memory of a context against its size, beside what theory says of the KV cache alone. "
        f"{'; '.join(told)}."
    )
    title = "Memory of the KV cache"
    return Chart("memory", title, to_svg(figure, caption), caption, ("cells", "measured", "theory"), table)


def _colours(place: int, sides: int) -> tuple[str, str]:
    """Of two things in one chart: a colour each or, in a comparison, the side's."""
    return (SERIES[0], SERIES[1]) if sides == 1 else (SERIES[place], SERIES[place])


def _roofline(sides: Sequence[tuple[Side, Roofline]]) -> Chart:
    figure, axes = canvas(*(SMALL if len(sides) == 1 else LARGE))
    axes.set_xscale("log")
    axes.set_yscale("log")
    every = [point.intensity for _, roof in sides for point in roof.points]
    ridges = [roof.flops / roof.bandwidth for _, roof in sides]
    low, high = min(every) / 2, max(*every, *ridges) * 2
    told, table = [], []
    for place, (side, roof) in enumerate(sides):
        ridge = roof.flops / roof.bandwidth
        colours = _colours(place, len(sides))
        axes.plot(
            [low, ridge, high],
            [low * roof.bandwidth / 1e9, roof.flops / 1e9, roof.flops / 1e9],
            color=MUTED if len(sides) == 1 else colours[0],
            linewidth=1.4,
            linestyle="-" if len(sides) == 1 else (0, (4, 2)),
            label=side.name or "bound by memory, by arithmetic",
        )
        _roofline_points(axes, side, roof, colours)
        told.append(side.label(f"memory feeds {size(roof.bandwidth)}/s, and decode of one sequence uses "
                               f"{percent(roof.decode_share)} of it"))  # fmt: skip
        table += [
            (side.label(f"{point.name} {point.tokens}"), f"{point.intensity:.3g}", f"{point.flops / 1e9:.3g}")
            for point in roof.points
        ]
    plain_numbers(axes, x=True, y=True)
    axes.set_xlabel("arithmetic intensity: operations per byte read")
    axes.set_ylabel("billion operations per second")
    axes.margins(y=0.15)
    axes.legend(loc="lower right")
    caption = (
        "The slope is what memory feeds, the level the highest arithmetic rate this model reached here. A point at the "
        "slope waits for memory, one at the level for arithmetic; round ones are decode with so many sequences a step, "
        f"square ones prefill with so many prompt tokens. {'; '.join(told)}."
    )
    header = ("tokens a step", "operations per byte", "billion operations/s")
    return Chart("roofline", "Roofline", to_svg(figure, caption), caption, header, table)


def _roofline_points(axes: Axes, side: Side, roof: Roofline, colours: tuple[str, str]) -> None:
    for name, marker, colour in (("decode", "o-", colours[0]), ("prefill", "s-", colours[1])):
        points = [point for point in roof.points if point.name == name]
        what = "sequences" if name == "decode" else "prompt tokens"
        axes.plot(
            [p.intensity for p in points],
            [p.flops / 1e9 for p in points],
            marker,
            color=colour,
            linewidth=0.9,
            label=None if side.name else f"{name}, {what} a step",
        )
        for index, point in enumerate(points):
            below = name == "decode" or index % 2
            axes.annotate(
                str(point.tokens),
                (point.intensity, point.flops / 1e9),
                xytext=(0, -11 if below else 6),
                textcoords="offset points",
                ha="center",
                color=colour,
                fontsize=8,
            )
