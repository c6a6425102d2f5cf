"""Requests that cannot be right are refused on creation, naming the parameter."""

from __future__ import annotations

import math

import numpy as np
import pytest

from engine import InvalidRequest, Request, SamplingParams


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -0.1),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("top_k", -1),
        ("top_p", 1.1),
        ("min_p", -0.1),
        ("typical_p", 2.0),
        ("seed", -1),
        ("seed", 2**32 - 1),
        ("repeat_penalty", 0.0),
        ("repeat_last_n", -2),
        ("frequency_penalty", math.inf),
        ("presence_penalty", math.nan),
        ("dry_base", 0.5),
        ("xtc_probability", 1.5),
        ("mirostat", 3),
        ("logprobs", 21),
        ("logit_bias", ((1, math.nan),)),
        ("logit_bias", ((1, math.inf),)),
    ],
)
def test_sampling_out_of_range(name: str, value: object) -> None:
    with pytest.raises(InvalidRequest) as caught:
        SamplingParams(**{name: value})  # type: ignore[arg-type]
    assert caught.value.parameter == name
    assert name in str(caught.value) or name == "logit_bias"


def test_forbidding_a_token_is_allowed() -> None:
    SamplingParams(logit_bias=((1, -math.inf),))


@pytest.mark.parametrize(
    ("change", "parameter"),
    [
        ({"prompt": np.array([], dtype=np.int32)}, "prompt"),
        ({"prompt": np.zeros((2, 2), dtype=np.int32)}, "prompt"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"prompt_logprobs": 21}, "prompt_logprobs"),
        ({"stop": ("a", "")}, "stop"),
        ({"timeout": 0.0}, "timeout"),
        ({"timeout": math.nan}, "timeout"),
    ],
)
def test_request_out_of_range(change: dict[str, object], parameter: str) -> None:
    fields: dict[str, object] = {"prompt": np.array([1], dtype=np.int32), "max_tokens": 1}
    with pytest.raises(InvalidRequest) as caught:
        Request(**{**fields, **change})  # type: ignore[arg-type]
    assert caught.value.parameter == parameter
