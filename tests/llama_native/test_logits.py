"""Arithmetic on logits against numpy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from llama_native import SamplingError, argmax, top_logprobs

ROWS = arrays(np.float32, st.integers(1, 100), elements=st.floats(-1e3, 1e3, width=32))


@given(ROWS)
def test_argmax(row: np.ndarray[tuple[int], np.dtype[np.float32]]) -> None:
    assert argmax(row) == int(np.argmax(row))


@given(ROWS, st.data())
def test_top_logprobs(row: np.ndarray[tuple[int], np.dtype[np.float32]], data: st.DataObject) -> None:
    token, k = data.draw(st.integers(0, len(row) - 1)), data.draw(st.integers(0, len(row)))
    wide = row.astype(np.float64)
    expected = wide - wide.max() - np.log(np.exp(wide - wide.max()).sum())
    logprob, ids, logprobs = top_logprobs(row, token, k)
    assert logprob == pytest.approx(expected[token], abs=1e-3)
    assert ids.tolist() == np.argsort(-row, kind="stable")[:k].tolist()
    np.testing.assert_allclose(logprobs, expected[ids], atol=1e-3)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_not_finite(bad: float) -> None:
    for at in range(100):
        row = np.zeros(100, np.float32)
        row[at] = bad
        with pytest.raises(SamplingError, match="finite"):
            argmax(row)
        with pytest.raises(SamplingError, match="finite"):
            top_logprobs(row, 0, 3)


@pytest.mark.parametrize("size", [1, 31, 32, 33, 64, 1024, 1025, 1055])
def test_the_largest_is_found_wherever_it_is(size: int) -> None:
    for at in range(size):
        row = np.full(size, -7, np.float32)
        row[at] = -5
        assert argmax(row) == at


def test_minus_infinity_is_a_logit() -> None:
    row = np.full(50, -np.inf, np.float32)
    with pytest.raises(SamplingError):
        argmax(row)
    row[7] = -5
    assert argmax(row) == 7
    logprob, ids, logprobs = top_logprobs(row, 7, 2)
    assert (logprob, ids[0], logprobs[1]) == (0.0, 7, -np.inf)


def test_arguments_out_of_range() -> None:
    row = np.zeros(10, np.float32)
    for token, k in ((-1, 1), (10, 1), (0, -1), (0, 11)):
        with pytest.raises(ValueError, match="out of range"):
            top_logprobs(row, token, k)
    for shape in ((0,), (2, 5)):
        with pytest.raises(ValueError, match="flat"):
            argmax(np.zeros(shape, np.float32))
