"""Tables, JSON, bars and ceilings: shapes and arithmetic."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from bench import bars
from bench.bars import Scenario
from bench.ceiling import Ceiling, Ceilings, fastest, operating_point, work_seconds
from bench.client import Run
from bench.http import notes
from bench.outcome import Outcome, as_json, show
from bench.rates import Rates
from bench.recording import Answer
from bench.report import machine, machine_line, table, write_json
from bench.summary import Summary, summarize


def answer(prompt: int, cached: int, tokens: int, start: float = 0.0, step: float = 0.1) -> Answer:
    times = tuple(start + step * (index + 1) for index in range(tokens))
    return Answer(
        start,
        times[-1],
        200,
        times,
        prompt_tokens=prompt,
        cached_tokens=cached,
        completion_tokens=tokens,
        finish_reason="length",
    )


def summary(rate: float) -> Summary:
    return summarize(Run((answer(10, 0, 10),), wall=10 / rate, client_cpu=0.01, concurrency=1))


def test_table_lines_up_and_markdown_has_a_rule() -> None:
    plain = table(("name", "tok/s"), [["a", 1.23456], ["longer", None]]).splitlines()
    assert [line.split() for line in plain] == [["name", "tok/s"], ["------", "-----"], ["a", "1.23"], ["longer", "-"]]
    markdown = table(("name", "tok/s"), [["a", 12345.6]], markdown=True).splitlines()
    assert markdown == ["| name | tok/s |", "| ---- | ----: |", "| a    | 12346 |"]
    assert len({len(line) for line in markdown}) == 1


def test_json_names_machine_and_arguments_and_has_no_nan(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    write_json(path, "bench.test", {"model": "m"}, [{"rate": math.nan, "tokens": (1, 2)}])
    document = json.loads(path.read_text(), parse_constant=pytest.fail)
    assert document["results"] == [{"rate": None, "tokens": [1, 2]}]
    assert (document["command"], document["arguments"]) == ("bench.test", {"model": "m"})
    assert document["machine"]["cores"] >= 1
    assert document["machine"]["cpu"] in machine_line(machine())
    assert list(tmp_path.iterdir()) == [path]


def test_summary_of_nothing_but_errors() -> None:
    failed = Answer(0.0, 1.0, error="HTTP 503: busy")
    figures = summarize(Run((failed, failed), wall=1.0, client_cpu=0.1, concurrency=2))
    assert (figures.requests, figures.errors, figures.output_tokens) == (2, 2, 0)
    assert math.isnan(figures.ttft_p95)
    assert figures.first_errors == ("HTTP 503: busy",)


def test_notes_say_why_chunks_and_tokens_differ() -> None:
    same = answer(10, 0, 4)
    without_text = replace(same, completion_tokens=6)  # two tokens more than chunks with text
    assert notes([summarize(Run((same,), wall=1.0, client_cpu=0.1, concurrency=1))]) == []
    (line,) = notes([summarize(Run((same, without_text), wall=1.0, client_cpu=0.1, concurrency=1))])
    assert line.startswith("1 answers have another number of text chunks than tokens")
    assert "control tokens, which have no text" in line


def test_longest_gap_is_over_all_streams() -> None:
    run = Run((answer(9, 0, 5), answer(9, 0, 3, step=0.7)), wall=2.1, client_cpu=0.1, concurrency=2)
    figures = summarize(run)
    assert figures.itl_max == pytest.approx(0.7)
    assert figures.itl_p50 == pytest.approx(0.1)
    assert figures.output_rate == pytest.approx(8 / 2.1)


def test_bars_compare_round_by_round_and_take_the_median() -> None:
    chat = Scenario("chat", 8)
    results = {
        (chat, bars.OURS): [summary(rate) for rate in (99.0, 50.0, 120.0)],
        (chat, bars.DEFAULTS): [summary(rate) for rate in (100.0, 25.0, 100.0)],
    }
    (verdict,) = bars.judge(results)
    assert verdict.bar.peer == bars.DEFAULTS
    assert verdict.ratio == pytest.approx(1.2)
    assert verdict.text == "pass"
    results[chat, bars.DEFAULTS] = [summary(125.0)] * 3
    assert bars.judge(results)[0].text == "FAIL"


def test_hand_tuned_is_the_fastest_of_the_tuned_for_each_workload() -> None:
    chat, rag = Scenario("chat", 8), Scenario("rag", 8)
    results = {
        (scenario, name): [summary(rate)] * 3
        for scenario, rates in ((chat, (100.0, 90.0, 110.0)), (rag, (100.0, 80.0, 40.0)))
        for name, rate in zip((bars.OURS, "first", "second"), rates, strict=True)
    }
    tuned = {
        (it.bar.scenario, it.against): (round(it.ratio, 3), it.text)
        for it in bars.judge(results, ["first", "second", "not measured"])
        if it.bar.figure == bars.OUTPUT_RATE
    }
    assert tuned == {
        (chat, "second"): (0.909, "FAIL"),
        (rag, "first"): (1.25, "pass"),
    }
    assert bars.judge({key: runs for key, runs in results.items() if key[1] == bars.OURS}, ["first"]) == []


def test_the_longest_gap_has_a_bound_from_the_step_target() -> None:
    def gap(seconds: float, rate: float) -> Summary:
        return replace(summary(rate), itl_max=seconds)

    rag = Scenario("rag", 8)
    runs = [gap(0.45, 90.0), gap(0.34, 90.0), gap(9.0, 90.0)]
    found = bars.judge_step(rag, "lucid MODEL_STEP_MS=200", 0.2, runs, [summary(100.0)] * 3, [0.05, 0.06, 0.07])
    assert (found.target, found.decode_step, found.gap) == (0.2, 0.06, 0.45)
    assert found.bound == pytest.approx(0.36)
    assert found.cost == pytest.approx(0.1)
    assert found.share == pytest.approx(0.45 / 0.36), "the median gap's share, not the mean's"
    assert found.met is False
    assert bars.judge_step(rag, "lucid", 0.3, runs, runs, [0.05] * 3).met is True
    assert bars.judge_step(rag, "lucid", 0.25, [gap(math.nan, 1.0)], runs, [0.05]).met is None


@pytest.mark.parametrize(
    ("errors", "p95", "after", "met"),
    [(0, 3.0, 1020, True), (1, 3.0, 1000, False), (0, 3.1, 1000, False), (0, 3.0, 1021, False)],
)
def test_a_crowd_is_served_without_errors_starvation_and_growth(errors: int, p95: float, after: int, met: bool) -> None:
    run = replace(summary(50.0), ttft_p50=1.0, ttft_p95=p95)
    runs = [replace(run, errors=errors), run, run]
    found = bars.judge_crowd(Scenario("chat", 32), bars.OURS, runs, [(1000, after), (1000, after), (1000, 9000)], True)
    assert (found.errors, found.wait, found.growth) == (errors, p95, after / 1000)
    assert found.met is met
    silent = [replace(run, ttft_p50=math.nan)]
    assert bars.judge_crowd(found.scenario, bars.OURS, silent, [(1000, 1000)], True).met is False
    assert bars.judge_crowd(found.scenario, bars.DEFAULTS, silent, [(1000, 1000)], False).met is None


def test_times_must_be_below_their_bar() -> None:
    bar = bars.Bar(Scenario("rag", 8), bars.TTFT_P95, bars.DEFAULTS, 0.1)
    assert bar.met(0.09) is True
    assert bar.met(0.11) is False
    assert bar.met(math.nan) is None
    assert bars.Bar(bar.scenario, bar.figure, bar.peer, None).met(0.5) is None


def test_ceiling_is_prefill_of_what_was_computed_plus_decode() -> None:
    answers = [answer(500, 0, 20), answer(500, 480, 20), answer(500, 480, 20), Answer(0.0, 1.0, error="lost")]
    point = operating_point(answers, sequences=8, shared=True)
    assert (point.depth, point.generate, point.prefill) == (500, 20, (20, 500))
    rates = Rates(decode_rate=100.0, prefill_seconds={20: 0.1, 500: 1.5})
    assert work_seconds(answers, rates) == pytest.approx(1.5 + 0.1 + 0.1 + 60 / 100)
    with pytest.raises(ValueError, match="no request succeeded"):
        operating_point(answers[3:], 8, True)


def test_the_bar_is_about_the_ceiling_with_the_servers_own_kernels(capsys: pytest.CaptureFixture[str]) -> None:
    scenario = Scenario("chat", 8)
    own, plain = Ceiling(100.0, 80, 300.0, 150.0, "flash attention off, streams"), Ceiling(60.0, 80, 110.0, 70.0, "")
    for rate, missed in ((95.0, False), (92.0, True)):
        rounds = {scenario: [Ceilings((own,), (plain,))]}
        outcome = Outcome([], [], 8, {(scenario, bars.OURS): [summary(rate)]}, rounds)
        assert outcome.share(scenario) == pytest.approx(rate / 100)
        assert outcome.share_of_llama_cpp(scenario) == pytest.approx(rate / 60)
        assert outcome.failed() == missed
    (found,) = as_json(outcome)["ceilings"]
    assert (found["own"][0]["output_rate"], found["llama_cpp"][0]["output_rate"]) == (100, 60)
    assert found["counted"] == own.setting
    show(outcome, markdown=True)
    header, row = (
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in capsys.readouterr().out.splitlines()
        if "ceiling of ours" in line or "flash attention off" in line
    )
    shown = dict(zip(header, row, strict=True))
    assert (shown["ceiling tok/s"], shown["ours / ceiling"]) == ("100", "0.92")
    assert (shown["with llama.cpp's kernels: ceiling tok/s"], shown["ours / that"]) == ("60", "1.53")


def test_one_combination_of_settings_is_the_ceiling_of_all_rounds() -> None:
    """Not the luckiest of each: no server can run with two."""
    on, off = (
        [Ceiling(rate, 80, 300.0, 150.0, f"flash attention {name}") for rate in rates]
        for name, rates in (("on", (100.0, 90.0, 110.0)), ("off", (95.0, 120.0, 70.0)))
    )
    assert fastest(list(zip(off, on, strict=True))) == on
