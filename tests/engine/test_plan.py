"""What the plan takes for granted about attention, where nothing is measured."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from engine import EngineSettings
from engine.plan import ATTENTION_TILE, grain, has_own_attention, make_plan
from llama_native import GgmlType, Model, ModelParams, build_info

sys.path.append(str(Path(__file__).parent.parent / "llama_native"))
import tiny

pytestmark = pytest.mark.skipif(not build_info()["kernels"], reason="no kernels of our own on this processor")


def test_flash_attention_is_the_default_where_it_is_our_own(small: Model) -> None:
    plan = make_plan(small, EngineSettings())
    assert plan.flash_attention
    assert grain(small, plan) == 1
    other = make_plan(small, EngineSettings(kv_type="f32"))
    assert not other.flash_attention
    assert grain(small, replace(other, flash_attention=True)) == ATTENTION_TILE


def test_models_that_our_attention_does_not_take(tmp_path: Path) -> None:
    with Model(tiny.llama(tmp_path / "odd.gguf", n_head_dimensions=20)) as odd:
        assert not has_own_attention(odd, GgmlType.F16)
    with Model(tiny.llama(tmp_path / "plain.gguf"), ModelParams(kernels=False)) as told:
        assert not has_own_attention(told, GgmlType.F16)
        assert not make_plan(told, EngineSettings()).flash_attention
