"""matplotlib figures as SVG that lives inside the page: its colours are the page's, so they follow dark and light.

Artists are drawn in stand-in colours, one a role; the SVG then gets the page's CSS variables in their place. Texts stay
texts in the page's font. Nothing in the result points outside of it.
"""

from __future__ import annotations

import html
import io
import re
from contextlib import AbstractContextManager
from typing import Final

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

#: Roles of colours; the page's style sheet defines --ROLE for each.
ROLES: Final = ("ink", "muted", "grid", "surface", *(f"series{i}" for i in range(1, 10)))
COLOURS: Final = {role: f"#0000{index + 16:02x}" for index, role in enumerate(ROLES)}

INK, MUTED, GRID, SURFACE = (COLOURS[role] for role in ("ink", "muted", "grid", "surface"))
SERIES: Final = tuple(COLOURS[role] for role in ROLES if role.startswith("series"))

_STYLE: Final = {
    "svg.fonttype": "none",
    "svg.hashsalt": "lucid",
    "font.family": "sans-serif",
    "font.size": 9.0,
    "axes.labelsize": 9.0,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "legend.fontsize": 8.5,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": GRID,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "lines.markersize": 5.0,
    "lines.solid_capstyle": "round",
}


def style() -> AbstractContextManager[None]:
    """What all drawing is done in: matplotlib's settings are ours until it is left."""
    return mpl.rc_context(_STYLE)  # type: ignore[arg-type]


def canvas(width: float, height: float) -> tuple[Figure, Axes]:
    """An empty figure of so many inches with one pair of axes."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def to_svg(figure: Figure, label: str) -> str:
    """The figure as an <svg> element to be put into a page; `label` is what a screen reader says."""
    buffer = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(buffer, format="svg", metadata=nothing)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<style type=\"text/css\">.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r'<g id="[^"]*"', "<g", text)  # every figure has an axes_1; what is referred to are paths
    text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", text)
    text = re.sub(
        r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', rf'<svg viewBox="\1" role="img" aria-label="{html.escape(label)}">', text
    )
    text = re.sub(r"(font: [\d.]+px) [^;\"]*", r"\1 var(--font)", text)
    for role, colour in COLOURS.items():
        text = text.replace(colour, f"var(--{role})")
    return re.sub(r"\n\s*", "\n", text)


def plain_numbers(axis_of: Axes, *, x: bool = False, y: bool = False) -> None:
    """Write a logarithmic axis's ticks as plain numbers, at 1, 2 and 5 of every decade."""
    for wanted, axis in ((x, axis_of.xaxis), (y, axis_of.yaxis)):
        if wanted:
            axis.set_major_locator(LogLocator(base=10, subs=(1, 2, 5), numticks=12))
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axis.set_minor_formatter(NullFormatter())
            axis.set_tick_params(which="minor", length=0)


def mark_sizes(axes: Axes, sizes: list[float]) -> None:
    """Put the x axis's ticks, on a base-2 logarithmic scale, at the sizes that were measured."""
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_locator(mpl.ticker.FixedLocator(sizes))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0f}"))
    axes.xaxis.set_minor_locator(mpl.ticker.NullLocator())
