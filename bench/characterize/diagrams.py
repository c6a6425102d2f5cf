"""The report's charts that are no curves: phases as stacked bars, KV memory beside theory, roofline, energy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from bench.characterize.charts import LARGE, SMALL, Chart
from bench.characterize.document import Document, Figures, Memory, PhaseBar, Roofline
from bench.characterize.figures import OTHER
from bench.characterize.svg import INK, MUTED, SERIES, SURFACE, canvas, plain_numbers, to_svg
from bench.characterize.units import amount, duration, percent, size
from engine import PHASES

#: Phases that take less than this share of every bar are drawn together.
NEGLIGIBLE: Final = 0.005
AROUND: Final = "all others"


def diagrams(document: Document, figures: Figures) -> Iterator[Chart]:
    """Those that the figures allow."""
    if figures.phases:
        yield _phases(figures.phases)
    if figures.memory is not None and document.footprint is not None:
        yield _memory(figures.memory, document.footprint.rows)
    if figures.roofline is not None:
        yield _roofline(figures.roofline)
    if figures.energy:
        yield _energy(figures.energy)


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


def _memory(memory: Memory, rows: list[tuple[int, int]]) -> Chart:
    figure, axes = canvas(*LARGE)
    cells = [row[0] for row in rows]
    axes.plot(cells, [used / 1e6 for _, used in rows], "o", color=SERIES[0], label="measured (private memory)")
    ends = [0, max(cells)]
    axes.plot(ends, [end * memory.theory / 1e6 for end in ends], color=SERIES[1], label="theory (KV cache alone)")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("cells of the context (tokens)")
    axes.set_ylabel("MB")
    axes.legend(loc="upper left")
    caption = (
        f"Memory of a context against its size: {size(memory.measured)} a token measured, {size(memory.theory)} by the "
        f"formula ({percent(memory.measured / memory.theory)}), and {size(memory.fixed)} whatever the size."
    )
    table = [(amount(count), size(used), size(count * memory.theory)) for count, used in rows]
    title = "Memory of the KV cache"
    return Chart("memory", title, to_svg(figure, caption), caption, ("cells", "measured", "theory"), table)


def _roofline(roof: Roofline) -> Chart:
    figure, axes = canvas(*SMALL)
    axes.set_xscale("log")
    axes.set_yscale("log")
    low = min(point.intensity for point in roof.points) / 2
    high = max(max(point.intensity for point in roof.points), roof.flops / roof.bandwidth) * 2
    ridge = roof.flops / roof.bandwidth
    axes.plot(
        [low, ridge, high],
        [low * roof.bandwidth / 1e9, roof.flops / 1e9, roof.flops / 1e9],
        color=MUTED,
        linewidth=1.4,
        label="bound by memory, by arithmetic",
    )
    for name, colour in (("decode", SERIES[0]), ("prefill", SERIES[1])):
        points = [point for point in roof.points if point.name == name]
        what = "sequences" if name == "decode" else "prompt tokens"
        axes.plot(
            [p.intensity for p in points],
            [p.flops / 1e9 for p in points],
            "o-",
            color=colour,
            linewidth=0.9,
            label=f"{name}, {what} a step",
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
    plain_numbers(axes, x=True, y=True)
    axes.set_xlabel("arithmetic intensity: operations per byte read")
    axes.set_ylabel("billion operations per second")
    axes.margins(y=0.15)
    axes.legend(loc="lower right")
    caption = (
        f"The slope is what memory feeds ({size(roof.bandwidth)}/s), the level the highest arithmetic rate this model "
        "reached here. A point at the slope waits for memory, one at the level for arithmetic; decode of one sequence "
        f"uses {percent(roof.decode_share)} of the bandwidth."
    )
    table = [
        (f"{point.name} {point.tokens}", f"{point.intensity:.3g}", f"{point.flops / 1e9:.3g}") for point in roof.points
    ]
    header = ("tokens a step", "operations per byte", "billion operations/s")
    return Chart("roofline", "Roofline", to_svg(figure, caption), caption, header, table)


def _energy(energy: dict[str, float]) -> Chart:
    figure, axes = canvas(5.6, 0.35 * len(energy) + 0.9)
    names = list(reversed(energy))
    axes.barh(names, [energy[name] for name in names], color=SERIES[0], height=0.6)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("joules a generated token")
    caption = "Energy of processor packages and GPUs over the tokens generated, prefill and idle power included."
    table = [(name, f"{joules:.3g} J") for name, joules in energy.items()]
    return Chart("energy", "Energy a token", to_svg(figure, caption), caption, ("work", "joules a token"), table)
