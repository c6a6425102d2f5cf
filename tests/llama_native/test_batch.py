"""Batches: arrays that C and numpy share, and their bounds."""

from __future__ import annotations

import gc

import numpy as np
import pytest

from llama_native import Batch
from llama_native.ffi import ffi


def test_add_and_extend_fill_the_arrays_that_c_sees() -> None:
    batch = Batch(8, n_seq_max=3)
    assert batch.add(11, 5, 1) == 0
    assert batch.add(12, 6, [0, 2], output=True) == 1
    assert batch.extend([21, 22, 23], 10, 2, output_last=True) == 4
    assert len(batch) == batch.n_tokens == batch._c.n_tokens == 5
    c = batch._c
    assert [c.token[i] for i in range(5)] == [11, 12, 21, 22, 23]
    assert [c.pos[i] for i in range(5)] == [5, 6, 10, 11, 12]
    assert [[c.seq_id[i][k] for k in range(c.n_seq_id[i])] for i in range(5)] == [[1], [0, 2], [2], [2], [2]]
    assert [c.logits[i] for i in range(5)] == [0, 1, 0, 0, 1]


def test_numpy_views_are_the_c_memory() -> None:
    batch = Batch(4, n_seq_max=2)
    batch.token[:] = [1, 2, 3, 4]
    batch.seq_id[3] = [1, 0]
    batch.n_seq_id[3] = 2
    batch.n_tokens = 4
    assert [batch._c.token[i] for i in range(4)] == [1, 2, 3, 4]
    assert (batch._c.seq_id[3][0], batch._c.seq_id[3][1]) == (1, 0)
    assert ffi.cast("uintptr_t", batch._c.token) == ffi.cast("uintptr_t", ffi.from_buffer(batch.token))


def test_a_view_outlives_its_batch() -> None:
    batch = Batch(1000)
    batch.token[:] = 7
    view = batch.token
    del batch
    gc.collect()
    assert (view == 7).all()


def test_extend_takes_arrays_of_other_types_and_slices() -> None:
    batch = Batch(10)
    batch.extend(np.arange(20, dtype=np.int64)[::5], 0, 0)
    batch.extend(np.arange(20, dtype=np.int32)[::-5], 4, 0)
    assert batch.token[:8].tolist() == [0, 5, 10, 15, 19, 14, 9, 4]


def test_clear_and_reuse() -> None:
    batch = Batch(2)
    for _ in range(3):
        batch.clear()
        batch.extend([1, 2], 0, 0, output_last=True)
        assert len(batch) == 2
    batch.clear()
    batch.extend([3], 0, 0)
    assert batch.output[0] == 0  # nothing is left of the last use


def test_bounds() -> None:
    for sizes in ((0, 1), (-1, 1), (1, 0), (1, 257), (1 << 25, 1)):
        with pytest.raises(ValueError, match="out of range"):
            Batch(*sizes)
    batch = Batch(2)
    batch.add(1, 0, 0)
    with pytest.raises(ValueError, match="do not fit"):
        batch.extend([1, 2], 0, 0)
    with pytest.raises(ValueError, match="do not fit"):
        batch.extend([], 0, 0)
    assert len(batch) == 1
    batch.add(1, 0, 0)
    with pytest.raises(ValueError, match="full"):
        batch.add(1, 0, 0)
    for n in (-1, 3):
        with pytest.raises(ValueError, match="do not fit"):
            batch.n_tokens = n
    batch.clear()
    for seqs in ([], [0, 1]):
        with pytest.raises(ValueError, match="sequences for one token"):
            batch.add(1, 0, seqs)
