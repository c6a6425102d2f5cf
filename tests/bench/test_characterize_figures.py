"""Figures of a characterisation, from samples written by hand: what they say is known exactly."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
from samples import GIGABYTE, asked, document, load, sample

from bench.characterize.bands import curve_point
from bench.characterize.charts import Side, curve_charts
from bench.characterize.document import Asked, Figures, Finding, Sample
from bench.characterize.energy import EnergyMeter
from bench.characterize.figures import compute
from bench.characterize.options import parse_arguments
from bench.characterize.svg import style
from bench.workloads import passage

#: A dashed line straight up in a chart; the group is its x.
UPRIGHT = r'<path d="M ([\d.]+) [\d.]+\s+L \1 [\d.]+\s+" [^>]*stroke-dasharray'


def test_medians_and_bands() -> None:
    point = curve_point(8, [1.0, 2.0, 3.0, 4.0, 5.0])
    assert (point.x, point.median, point.n) == (8, 3.0, 5)
    assert point.low == pytest.approx(1.2) and point.high == pytest.approx(4.8)


@pytest.mark.parametrize(
    ("values", "others", "noisy"),
    [
        ([1.0, 1.01, 0.99], [0.0, 0.0, 0.0], False),
        ([1.0, 1.5, 0.7], [0.0, 0.0, 0.0], True),
        ([1.0, 1.01, 0.99], [0.3, 0.3, 0.0], True),
        ([1.0, 1.01, 0.99], [0.3, 0.0, 0.0], False),
        ([1.0, 1.01, 0.99], [None, None, None], False),
    ],
)
def test_noise_is_marked(values: list[float], others: list[float | None], noisy: bool) -> None:
    assert curve_point(1, values, others).noisy is noisy


def test_rates_of_one_client() -> None:
    cold, again = asked(0.5, tokens=2), asked(0.02, cached=99)
    curves = compute(document([sample("prompt/100", [load(cold), load(again)])])).curves
    assert curves["ttft_cold"].at(100).median == 0.5  # type: ignore[union-attr]
    assert curves["ttft_cached"].at(100).median == 0.02  # type: ignore[union-attr]
    assert curves["prefill"].at(100).median == pytest.approx(200)  # type: ignore[union-attr]
    assert curves["decode"].at(100).median == pytest.approx(100)  # type: ignore[union-attr]


def test_the_knee_is_the_smallest_load_with_nine_tenths_of_the_best() -> None:
    rates = {1: 50.0, 2: 80.0, 4: 95.0, 8: 100.0, 16: 97.0}
    samples = [
        sample(f"load/{clients}", [load(*[asked(0.1, tokens=10)] * 10, wall=100 / rate)])
        for clients, rate in rates.items()
    ]
    figures = compute(document(samples))
    assert figures.knee is not None
    assert (figures.knee.clients, figures.knee.reached) == (4, True)
    assert any(finding.title == "The knee is at 4 clients" for finding in figures.findings)
    growing = compute(document(samples[:3]))
    assert growing.knee is not None and growing.knee.clients == 4 and not growing.knee.reached
    with style():
        charts = {chart.key: chart.svg for chart in curve_charts([Side(figures)])}
        unmarked = [chart.svg for chart in curve_charts([Side(growing)])]
    for key in ("load-rate", "load-latency", "load-itl"):
        (x,) = re.findall(UPRIGHT, charts[key])
        assert "knee: 4" in charts[key]
        assert re.search(rf'<use [^>]*x="{x}"', charts[key]), "the line goes through the markers of four clients"
    assert not any(re.search(UPRIGHT, svg) for svg in unmarked)


def test_noisy_points_give_doubt_and_no_advice() -> None:
    def advice(*one_thread: float) -> str:
        samples = [
            sample(f"threads/{count}", [], round_, decode=rate)
            for count, rates in ((1, one_thread), (2, (50.0, 50.5, 49.5)))
            for round_, rate in enumerate(rates)
        ]
        findings = compute(document(samples)).findings
        return next(finding.advice for finding in findings if finding.title == "Decode is fastest with 1 thread")

    assert advice(100.0, 101.0, 99.0).startswith("Set MODEL_THREADS=1")
    assert "measure again" in advice(60.0, 100.0, 140.0)


def test_failed_requests_make_no_figures() -> None:
    failed = Asked(
        ttft=None, total=1.0, prompt_tokens=0, cached_tokens=0, completion_tokens=0, gaps=[], error="HTTP 400"
    )
    bad = Sample(point="prompt/9000", round=0, seconds=1.0, loads=[load(failed), load(failed)], error="HTTP 400")
    assert compute(document([bad])) == Figures()


def test_the_knee_says_which_loads_failed() -> None:
    def at(clients: int, rate: float) -> Sample:
        return sample(f"load/{clients}", [load(*[asked(0.1, tokens=10)] * 10, wall=100 / rate)])

    def lost(clients: int, error: str) -> Sample:
        return Sample(point=f"load/{clients}", round=0, seconds=1.0, error=error)

    def told(*samples: Sample) -> list[Finding]:
        return [it for it in compute(document(list(samples))).findings if "knee" in it.title.lower()]

    once = (at(1, 50.0), at(2, 80.0), lost(2, "HTTP 503: busy"))
    assert "failed" not in told(*once)[0].text, "another round of two clients was well"
    (found,) = told(*once, lost(4, "HTTP 503: full"), lost(8, "HTTP 503: busy"))
    assert found.title == "No knee up to 2 clients"
    assert "Requests of 4 and 8 clients failed: HTTP 503: busy" in found.text
    assert not found.advice
    (found,) = told(at(1, 50.0), lost(2, "HTTP 503: busy"))
    assert (found.title, "2 clients failed" in found.text) == ("The knee is not known", True)


def test_roofline_counts_weights_and_keys() -> None:
    """At 128 tokens of context one sequence reads 1.128 GB a step, four 1.512 GB."""
    samples = [
        sample("batch/1", [], decode=5.0), sample("batch/4", [], decode=16.0),
        sample("bandwidth/2", [], read=10e9, copy=12e9),
    ]  # fmt: skip
    roof = compute(document(samples, GIGABYTE)).roofline
    assert roof is not None
    assert roof.decode_bytes_per_second == pytest.approx(5.0 * 1.128e9)
    assert roof.decode_share == pytest.approx(0.564)
    four = roof.points[1]
    assert four.intensity == pytest.approx(4 * 2e9 / 1.512e9)
    assert four.flops == roof.flops == pytest.approx(32e9)


def test_phases_and_what_none_of_them_covers() -> None:
    slow = Asked(
        ttft=0.5, total=2.0, prompt_tokens=10, cached_tokens=0, completion_tokens=8, gaps=[0.1] * 7,
        phases={"prefill": 0.5, "decode": 1.0},
    )  # fmt: skip
    (bar,) = compute(document([sample("load/1", [load(slow)])])).phases
    assert bar.seconds == {"prefill": 0.5, "decode": 1.0, "other": 0.5}
    assert bar.total == 2.0


def test_gpus_count_only_where_layers_are_on_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.characterize.energy.nvidia_gpus", lambda: [SimpleNamespace(joules=lambda: 7.0)])
    assert EnergyMeter(tmp_path).joules() is None
    assert EnergyMeter(tmp_path, gpus=True).joules() == 7.0


def test_energy_of_a_token(tmp_path: Path) -> None:
    package, core = tmp_path / "intel-rapl:0", tmp_path / "intel-rapl:0:0"
    for zone, name in ((package, "package-0"), (core, "core")):
        zone.mkdir()
        (zone / "name").write_text(f"{name}\n")
        (zone / "max_energy_range_uj").write_text("10000000\n")
        (zone / "energy_uj").write_text("9000000\n")
    meter = EnergyMeter(tmp_path)
    meter.start()
    (package / "energy_uj").write_text("2000000\n")  # wrapped around
    assert meter.joules() == pytest.approx(3.0)
    assert EnergyMeter(tmp_path / "nothing").missing
    figures = compute(document([sample("output/11", [load(asked(0.1), joules=5.5)])]))
    assert figures.curves["energy_output"].at(11).median == pytest.approx(0.5)  # type: ignore[union-attr]
    assert figures.findings[-1].title == "A token costs 0.5 to 0.5 joules"


def test_passages_differ_by_seed_and_have_their_length() -> None:
    texts = {passage(50, str(seed)) for seed in range(20)}
    assert len(texts) == 20
    assert {len(text.split()) for text in texts} == {50}
    assert passage(50, "1") == passage(50, "1")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--prompts", "0"],
        ["--rounds", "0"],
        ["--minutes", "0"],
        ["--outputs", "1"],
        ["--batches", "300"],
        ["--compare", "a.json"],
        ["--compare", "a.json", "b.json", "--url", "http://127.0.0.1:1"],
    ],
)
def test_wrong_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse_arguments(arguments)
    assert ended.value.code == 2
    assert "error" in capsys.readouterr().err
