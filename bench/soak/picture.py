"""The curves of a soak as one HTML file with everything inside, in the style of the characterisation report."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from typing import Final

from jinja2 import Environment, StrictUndefined

from bench.characterize.svg import MUTED, SERIES, canvas, style, to_svg
from bench.soak.samples import Sample
from bench.soak.verdicts import Verdict

#: Title, y axis, and the lines: figure of a sample, what it is called, what it is divided by.
_CHARTS: Final = (
    ("Resident memory", "MB", (("rss", "all", 1e6), ("anonymous", "without mapped files", 1e6))),
    ("Descriptors and threads", "", (("descriptors", "descriptors", 1), ("threads", "threads", 1))),
    ("Requests", "", (("running", "running", 1), ("waiting", "waiting", 1))),
)

_PAGE: Final = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Soak</title>
<style>{{ style }}</style>
</head>
<body>
<header><h1>Soak</h1><p class="subtitle">{{ subtitle }}</p></header>
<main>
<section><h2>Verdict</h2><div class="scroll"><table class="numbers wide">
<thead><tr><th>figure</th><th>measured</th><th>bar</th><th></th></tr></thead>
<tbody>{% for row in rows %}<tr>{% for value in row %}<td>{{ value }}</td>{% endfor %}</tr>
{% endfor %}</tbody></table></div></section>
<section><h2>Over time</h2>
<p class="intro">Sums over the server's processes. The dotted lines part the windows that are compared.</p>
<div class="charts">{% for title, svg in charts %}<figure><h3>{{ title }}</h3>{{ svg | safe }}</figure>
{% endfor %}</div></section>
</main>
<footer>python -m bench.soak soak</footer>
</body>
</html>
"""


def render(samples: Sequence[Sample], duration: float, verdicts: Sequence[Verdict], subtitle: str) -> str:
    """The page of a soak of `duration` seconds."""
    with style():
        charts = [(title, _chart(samples, duration, title, unit, lines)) for title, unit, lines in _CHARTS]
    page = Environment(autoescape=True, undefined=StrictUndefined).from_string(_PAGE)
    css = (files("bench.characterize") / "report.css").read_text("utf-8")
    return page.render(style=css, subtitle=subtitle, charts=charts, rows=[it.row() for it in verdicts])


def _chart(
    samples: Sequence[Sample], duration: float, title: str, unit: str, lines: Sequence[tuple[str, str, float]]
) -> str:
    figure, axes = canvas(5.6, 3.2)
    minutes = [it.seconds / 60 for it in samples]
    for (name, label, scale), colour in zip(lines, SERIES, strict=False):
        axes.plot(minutes, [getattr(it, name) / scale for it in samples], color=colour, label=label, linewidth=1.2)
    for third in (1, 2):
        axes.axvline(duration * third / 180, color=MUTED, linestyle=(0, (2, 2)), linewidth=1)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("minutes")
    axes.set_ylabel(unit)
    axes.legend(loc="best")
    return to_svg(figure, f"{title} over time")
