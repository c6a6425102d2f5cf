"""Two characterisations side by side: their ratios, charts and names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from samples import GIGABYTE, asked, document, load, sample

from bench.characterize.compare import names_of, ratios
from bench.characterize.document import Document, Figures, Footprint
from bench.characterize.figures import compute
from bench.characterize.page import render_comparison
from bench.characterize.plan import ROUNDS


def test_ratios_need_a_difference_beyond_the_bands() -> None:
    def figures(rate: float, spread: float) -> Figures:
        values = [rate - spread, rate, rate + spread]
        samples = [
            sample("load/2", [load(asked(0.1, tokens=100), wall=100 / value)], round_)
            for round_, value in enumerate(values)
        ]
        return compute(document([*samples, sample("load/4", [load(asked(0.1))])]))

    def verdict(first: Figures, second: Figures) -> str:
        return next(row.verdict for row in ratios(first, second) if row.name == "output, clients: 2")

    assert verdict(figures(100, 1), figures(120, 1)) == "better"
    assert verdict(figures(120, 1), figures(100, 1)) == "worse"
    assert verdict(figures(100, 15), figures(120, 15)) == "same"


def test_a_comparison_draws_all_that_both_have() -> None:
    def side(speed: float) -> Document:
        samples = [
            sample("load/1", [load(asked(0.1 / speed), joules=22.0 / speed)]),
            sample("load/2", [load(asked(0.1 / speed), asked(0.2 / speed), joules=33.0 / speed)]),
            sample("batch/1", [], decode=5.0 * speed), sample("bandwidth/2", [], read=10e9, copy=12e9),
        ]  # fmt: skip
        made = document(samples, GIGABYTE)
        made.footprint = Footprint(rows=[(512, 10**9), (1024, 2 * 10**9)])
        made.plan.rounds = dict.fromkeys(ROUNDS, 1)
        made.figures = compute(made)
        return made

    page, found = render_comparison(side(1.0), side(2.0), ("old", "new"))
    drawn = re.findall(r'id="chart-([a-z-]+)"', page)
    assert {"phases", "memory", "roofline", "energy-load", "load-rate"} <= set(drawn)
    assert "old: 1 client" in page and "new: 1 client" in page
    rows = {row.name: row for row in found}
    energy = rows["energy a token, clients: 1"]
    assert (energy.first, energy.second, energy.ratio, energy.verdict) == ("2 J", "1 J", "0.50", "better")
    without = side(1.0)
    without.figures.roofline = None
    page, _ = render_comparison(side(1.0), without, ("old", "new"))
    assert 'id="chart-roofline"' not in page and 'id="chart-memory"' in page


@pytest.mark.parametrize(
    ("first", "second", "names"),
    [
        ("a.json", "b.json", ("a", "b")),
        ("old/c.json", "new/c.json", ("old/c", "new/c")),
        ("old/x/c.json", "new/x/c.json", ("old/x/c", "new/x/c")),
        ("c.json", "c.json", ("c (A)", "c (B)")),
    ],
)
def test_files_of_a_comparison_are_told_apart(first: str, second: str, names: tuple[str, str]) -> None:
    assert names_of(Path(first), Path(second)) == names
