"""Calibration measures what is open, remembers it, obeys explicit settings, and never keeps a server from starting."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from engine import (
    Engine,
    EngineSettings,
    EngineStopped,
    InvalidRequest,
    Layout,
    Request,
    SamplingParams,
    Switch,
    calibration,
    make_plan,
)
from engine.calibration import ATTENTION_MARGIN, THREADS_MARGIN, Candidate, cache_key, calibrate, choose, layout_choices
from engine.calibration_cache import path_for
from engine.host_load import OtherWork
from llama_native import ContextError, Model, build_info

sys.path.append(str(Path(__file__).parent.parent / "llama_native"))
import tiny


@pytest.fixture(autouse=True)
def cache_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A cache folder of this test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "lucid-llm" / "calibration"


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    with Model(tiny.llama(tmp_path_factory.mktemp("tiny") / "llama.gguf")) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def recurrent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    with Model(tiny.mamba(tmp_path_factory.mktemp("tiny") / "mamba.gguf")) as loaded:
        yield loaded


def answers(engine: Engine) -> bool:
    """Whether a started engine generates."""
    request = Request(np.array([5, 6, 7], dtype=np.int32), 3, SamplingParams(temperature=0.0), ignore_eos=True)
    return sum(len(piece.tokens) for piece in engine.submit(request)) == 3


@pytest.mark.parametrize(
    "settings",
    [
        EngineSettings(),
        EngineSettings(context=64),
        EngineSettings(context=256, parallel=1),
        EngineSettings(context=300, parallel=3),
        EngineSettings(kv_layout=Layout.UNIFIED, kv_cells=512, context=512),
        EngineSettings(kv_type="f32"),
        EngineSettings(flash_attention=Switch.ON, threads=1),
    ],
    ids=str,
)
@pytest.mark.parametrize("kind", ["small", "recurrent"])
def test_every_engine_starts_calibrated_and_answers(
    kind: str, settings: EngineSettings, request: pytest.FixtureRequest
) -> None:
    engine = Engine(request.getfixturevalue(kind), settings)
    engine.start()
    try:
        assert answers(engine)
    finally:
        engine.close()


def test_a_second_start_remembers(small: Model, cache_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "DISTURBED", 1.0)  # whatever else this host does
    settings = EngineSettings(parallel=2, context=256)
    plan = make_plan(small, settings)
    first = calibrate(small, settings, plan)
    assert first is not None
    assert not first.cached
    assert len({(c.flash_attention, c.unified) for c in first.candidates}) == 3
    tie = (1 + ATTENTION_MARGIN) / (1 - THREADS_MARGIN)
    assert first.chosen.cost <= min(candidate.cost for candidate in first.candidates) * tie
    (file,) = cache_home.glob("*.json")
    again = calibrate(small, settings, plan)
    assert again is not None
    assert again.cached
    assert again.chosen == first.chosen
    file.write_text("{ damaged")
    third = calibrate(small, settings, plan)
    assert third is not None
    assert not third.cached
    file.write_text(json.dumps({"chosen": {}}))
    assert calibrate(small, settings, plan) is not None


def test_explicit_settings_win(small: Model) -> None:
    settings = EngineSettings(flash_attention=Switch.ON, kv_layout=Layout.UNIFIED, threads=1, parallel=2)
    found = calibrate(small, settings, make_plan(small, settings))
    assert found is not None
    assert {(c.flash_attention, c.unified, c.threads, c.threads_batch) for c in found.candidates} == {
        (True, True, 1, 1)
    }


def test_one_sequence_has_no_layout_to_choose(small: Model) -> None:
    settings = EngineSettings(parallel=1)
    assert layout_choices(settings, make_plan(small, settings)) == [False]


def test_other_settings_have_an_answer_of_their_own() -> None:
    assert path_for({"a": 1}) != path_for({"a": 2})


def test_other_kernels_have_an_answer_of_their_own(small: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = EngineSettings(parallel=2, context=256)
    plan = make_plan(small, settings)
    path = path_for(cache_key(small, settings, plan))
    assert path_for(cache_key(small, settings, plan)) == path
    monkeypatch.setattr(calibration, "build_info", lambda: build_info() | {"kernels_version": "0" * 12})
    assert path_for(cache_key(small, settings, plan)) != path


def test_without_a_home_nothing_is_kept(small: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("HOME", raising=False)
    assert path_for({"a": 1}) is None
    settings = EngineSettings(parallel=2, context=256)
    assert calibrate(small, settings, make_plan(small, settings)) is not None


def test_it_can_be_stopped(small: Model) -> None:
    with pytest.raises(EngineStopped):
        Engine(small, EngineSettings(), should_stop=lambda: True)


def test_a_kv_cache_larger_than_the_machine_is_refused_before_measuring(small: Model) -> None:
    with pytest.raises(ContextError, match="GiB"):
        make_plan(small, EngineSettings(context=2**26, parallel=16))


def test_by_default_more_cores_compute_more_at_once(small: Model) -> None:
    chosen = [make_plan(small, EngineSettings(threads=threads)).parallel for threads in (1, 2, 8, 12, 64)]
    assert chosen == [8, 8, 8, 12, 32]
    assert make_plan(small, EngineSettings(threads=64, parallel=2)).parallel == 2
    assert make_plan(small, EngineSettings(threads=64, memory=0)).parallel == 1


def test_by_default_as_many_wait_as_are_computed(small: Model) -> None:
    assert make_plan(small, EngineSettings(parallel=3)).max_queue == 9
    assert make_plan(small, EngineSettings(parallel=3, max_queue=0)).max_queue == 0


@pytest.mark.parametrize(
    ("settings", "parameter"),
    [
        ({"context": 63}, "context"),
        ({"context": -1}, "context"),
        ({"parallel": 257}, "parallel"),
        ({"step_ms": float("inf")}, "step_ms"),
        ({"step_ms": float("nan")}, "step_ms"),
        ({"queue_timeout": 0}, "queue_timeout"),
        ({"kv_type": "q9_9"}, "kv_type"),
        ({"kv_type": "q8_0", "flash_attention": Switch.OFF}, "kv_type"),
        ({"kv_cells": 4096}, "kv_cells"),
        ({"kv_cells": 64, "context": 128, "kv_layout": Layout.UNIFIED}, "kv_cells"),
    ],
)
def test_settings_that_cannot_be_right(small: Model, settings: dict[str, object], parameter: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        make_plan(small, EngineSettings(**settings))  # type: ignore[arg-type]
    assert caught.value.parameter == parameter


def test_other_work_is_noticed() -> None:
    """A busy child process is other work to this one."""
    watched = OtherWork()
    code = "import time\nwhile time.process_time() < 0.6: pass"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert watched.share() > 0.4 / len(os.sched_getaffinity(0))


def test_a_slow_model_is_compared_by_little(small: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Time is up from the start: only flash attention, which has no default that is good everywhere, is compared."""
    monkeypatch.setattr(calibration, "ENOUGH", 0.0)
    settings = EngineSettings(parallel=2, context=256)
    plan = make_plan(small, settings)
    found = calibrate(small, settings, plan, remembered=False)
    assert found is not None
    assert {(c.flash_attention, c.unified) for c in found.candidates} == {(False, False), (True, False)}
    assert found.chosen.chunk == calibration.CHUNK


def test_other_work_decides_neither_layout_nor_threads(small: Model) -> None:
    plan = make_plan(small, EngineSettings(threads=2, parallel=2))

    def candidate(flash: bool, unified: bool, threads: int, seconds: float) -> Candidate:
        return Candidate(flash, unified, threads, threads, 64, seconds, seconds, seconds, 2)

    usual = [candidate(flash, plan.unified, 2, seconds) for flash, seconds in ((False, 1.0), (True, 0.9))]
    odd = [candidate(True, not plan.unified, 2, 0.8), candidate(True, plan.unified, 1, 0.5)]
    assert choose([*usual, *odd], plan, disturbed=False) == odd[1]
    assert choose([*usual, *odd], plan, disturbed=True) == usual[1]
    assert choose(odd, plan, disturbed=True) == odd[1]


@pytest.mark.parametrize("default", [False, True])
def test_other_work_does_not_switch_flash_attention_off(small: Model, default: bool) -> None:
    plan = replace(make_plan(small, EngineSettings(threads=2, parallel=2)), flash_attention=default)
    off, on = (
        Candidate(flash, plan.unified, 2, 2, 64, seconds, seconds, seconds, 2)
        for flash, seconds in ((False, 0.5), (True, 1.0))
    )
    assert choose([off, on], plan, disturbed=False) == off
    assert choose([off, on], plan, disturbed=True) == (on if default else off)


def test_streams_are_kept_in_a_near_tie(small: Model) -> None:
    plan = make_plan(small, EngineSettings(threads=2, parallel=2))
    streams, unified, faster = (
        Candidate(True, layout, 2, 2, 64, seconds, seconds, seconds, 2)
        for layout, seconds in ((False, 1.0), (True, 0.99), (True, 0.9))
    )
    assert choose([unified, streams], plan, disturbed=False) == streams
    assert choose([streams, faster], plan, disturbed=False) == faster
