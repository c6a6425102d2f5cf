"""Operations on a context's memory: what they do, and that no argument ends the process."""

from __future__ import annotations

import numpy as np
import pytest

import llama_native as ln
from tests.llama_native.conftest import MakeContext, filled

TOKENS = [20 + i for i in range(10)]


def positions(context: ln.Context) -> list[tuple[int, int]]:
    memory = context.memory
    return [(memory.pos_min(seq), memory.pos_max(seq)) for seq in range(context.n_seq_max)]


def test_remove(tiny_model: ln.Model, make_context: MakeContext) -> None:
    context = make_context(tiny_model, n_seq_max=2)
    context.decode(filled(TOKENS))
    assert positions(context) == [(0, 9), (-1, -1)]
    assert context.memory.remove(0, 6)
    assert positions(context)[0] == (0, 5)
    assert context.memory.remove(0, -1, 2)
    assert positions(context)[0] == (2, 5)
    assert context.memory.remove(0)
    assert context.memory.remove(1)
    assert positions(context) == [(-1, -1)] * 2


def test_remove_and_decode_again_gives_the_same_logits(tiny_model: ln.Model, make_context: MakeContext) -> None:
    context = make_context(tiny_model)
    context.decode(filled(TOKENS))
    wanted = context.logits(-1).copy()
    context.memory.remove(0, 5)
    context.decode(filled([99, 98], 5))
    context.memory.remove(0, 5)
    context.decode(filled(TOKENS[5:], 5))
    np.testing.assert_allclose(context.logits(-1), wanted, atol=1e-3)


@pytest.mark.parametrize("unified", [True, False])
def test_copy_shares_a_prefix(tiny_model: ln.Model, make_context: MakeContext, unified: bool) -> None:
    context = make_context(tiny_model, n_seq_max=3, kv_unified=unified)
    context.decode(filled(TOKENS))
    context.decode(filled([77], 10))
    wanted = context.logits(-1).copy()
    context.memory.remove(0, 10)
    context.memory.copy(0, 2)
    assert positions(context)[2] == (0, 9)
    context.decode(filled([77], 10, seq=2))
    np.testing.assert_allclose(context.logits(-1), wanted, atol=1e-3)
    context.memory.remove(0)
    assert positions(context) == [(-1, -1), (-1, -1), (0, 10)]


def test_copy_of_a_part(tiny_model: ln.Model, make_context: MakeContext) -> None:
    unified = make_context(tiny_model, n_seq_max=2, kv_unified=True)
    unified.decode(filled(TOKENS))
    unified.memory.copy(0, 1, -1, 4)
    assert positions(unified)[1] == (0, 3)
    streams = make_context(tiny_model, n_seq_max=2)
    streams.decode(filled(TOKENS))
    for p0, p1 in ((3, -1), (-1, 4), (2, 4)):
        with pytest.raises(ln.SequenceError, match="whole sequence"):
            streams.memory.copy(0, 1, p0, p1)
    for p0, p1 in ((0, -1), (-1, 10), (0, 500)):
        streams.memory.copy(0, 1, p0, p1)
        assert positions(streams)[1] == (0, 9)
    streams.memory.copy(0, 0)


def test_keep(tiny_model: ln.Model, make_context: MakeContext) -> None:
    for unified in (True, False):
        context = make_context(tiny_model, n_seq_max=3, kv_unified=unified)
        for seq in range(3):
            context.decode(filled(TOKENS, seq=seq))
        context.memory.keep(1)
        assert positions(context) == [(-1, -1), (0, 9), (-1, -1)]


def test_shift(tiny_model: ln.Model, make_context: MakeContext) -> None:
    context = make_context(tiny_model)
    assert context.memory.can_shift
    context.decode(filled(TOKENS))
    context.memory.remove(0, 0, 4)
    context.memory.shift(0, 4, -1, -4)
    assert positions(context) == [(0, 5)]
    context.decode(filled([77], 6))
    shifted = context.logits(-1).copy()
    context.memory.clear()
    context.decode(filled(TOKENS[4:]))
    context.decode(filled([77], 6))
    # Keys of the second layer still know the removed tokens, so it is close but not equal.
    assert np.corrcoef(shifted, context.logits(-1))[0, 1] > 0.5


def test_divide(tiny_model: ln.Model, make_context: MakeContext) -> None:
    context = make_context(tiny_model)
    context.decode(filled(TOKENS))
    context.memory.divide(0, 0, -1, 2)
    assert positions(context) == [(0, 4)]
    context.decode(filled([77], 5))


def test_clear(tiny_model: ln.Model, make_context: MakeContext) -> None:
    context = make_context(tiny_model)
    for data in (True, False):
        context.decode(filled(TOKENS))
        context.memory.clear(data)
        assert positions(context) == [(-1, -1)]


@pytest.mark.parametrize("unified", [True, False])
def test_arguments_out_of_range(tiny_model: ln.Model, make_context: MakeContext, unified: bool) -> None:
    memory = make_context(tiny_model, n_seq_max=2, kv_unified=unified).memory
    for seq in (-1, 2, 300, -(2**31)):
        for call in (memory.pos_min, memory.pos_max, memory.keep):
            with pytest.raises(ln.SequenceError, match=r"outside 0\.\.1"):
                call(seq)
        for source, target in ((seq, 0), (0, seq)):
            with pytest.raises(ln.SequenceError):
                memory.copy(source, target)
        for move in (memory.shift, memory.divide):
            with pytest.raises(ln.SequenceError):
                move(seq, 0, 1, 1)
        if seq != -1:  # -1 means all sequences
            with pytest.raises(ln.SequenceError):
                memory.remove(seq)
    for divisor in (0, -2):
        with pytest.raises(ln.SequenceError, match="divided"):
            memory.divide(0, 0, 5, divisor)
    with pytest.raises(ln.SequenceError, match="shift by"):
        memory.shift(0, 0, 5, 2**31 - 1)


def test_ranges_of_any_kind(tiny_model: ln.Model, make_context: MakeContext) -> None:
    numbers = [-(2**31), -5, -1, 0, 3, 9, 10, 11, 2**31 - 1]
    for unified in (True, False):
        context = make_context(tiny_model, n_seq_max=2, kv_unified=unified)
        for p0 in numbers:
            for p1 in numbers:
                context.memory.clear()
                context.decode(filled(TOKENS))
                try:
                    context.memory.copy(0, 1, p0, p1)
                except ln.SequenceError:
                    assert not unified
                context.memory.shift(0, p0, p1, 1)
                context.memory.remove(0, p0, p1)
                context.memory.remove(1, p0, p1)
        context.memory.clear()
        context.decode(filled(TOKENS))


def test_a_shift_below_zero_forgets(tiny_model: ln.Model, make_context: MakeContext) -> None:
    context = make_context(tiny_model)
    context.decode(filled(TOKENS))
    context.memory.shift(0, 0, -1, -6)
    assert positions(context) == [(0, 3)]
    context.decode(filled([77], 4))


def test_a_recurrent_memory_cannot_be_cut(mamba_model: ln.Model, make_context: MakeContext) -> None:
    context = make_context(mamba_model, n_seq_max=2)
    context.decode(filled(TOKENS))
    assert not context.memory.remove(0, 5)
    assert positions(context)[0][1] == 9
    with pytest.raises(ln.SequenceError):
        context.memory.copy(0, 1, -1, 5)
    context.memory.copy(0, 1)
    assert positions(context)[1][1] == 9
    assert context.memory.remove(0)
    context.decode(filled([77], 10, seq=1))


def fill(
    context: ln.Context, tokens: list[int], pos0: int = 0, seq: int = 0
) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    batch = ln.Batch(context.n_batch)
    for start in range(0, len(tokens), batch.capacity):
        batch.clear()
        batch.extend(tokens[start : start + batch.capacity], pos0 + start, seq, output_last=True)
        context.decode(batch)
    return context.logits(-1).copy()


@pytest.mark.parametrize("unified", [True, False])
def test_a_sliding_window_cannot_be_cut_behind_it(
    window_model: ln.Model, make_context: MakeContext, unified: bool
) -> None:
    tokens = [3 + i % 250 for i in range(400)]
    context = make_context(window_model, n_ctx=1024, n_seq_max=2, n_batch=32, n_ubatch=32, kv_unified=unified)
    memory = context.memory
    wanted = fill(context, tokens)
    first = memory.pos_min(0)
    assert first > 100
    outcomes = set()
    for cut in range(1, 400, 21):
        memory.clear()
        fill(context, tokens)
        possible = memory.can_continue(0, cut)
        outcomes.add(possible)
        assert memory.remove(0, cut) == possible
        assert memory.pos_max(0) == (cut - 1 if possible else 399)
        if possible:
            np.testing.assert_allclose(fill(context, tokens[cut:], cut), wanted, atol=1e-3)
        elif unified:
            with pytest.raises(ln.SequenceError, match="does not hold"):
                memory.copy(0, 1, -1, cut)
    assert outcomes == {True, False}
    assert memory.remove(0)


def test_swa_full_can_be_cut_anywhere(window_model: ln.Model, make_context: MakeContext) -> None:
    tokens = [3 + i % 250 for i in range(400)]
    context = make_context(window_model, n_batch=32, n_ubatch=32, swa_full=True)
    wanted = fill(context, tokens)
    for cut in (1, 20, 200, 399):
        assert context.memory.can_continue(0, cut)
        assert context.memory.remove(0, cut)
        np.testing.assert_allclose(fill(context, tokens[cut:], cut), wanted, atol=1e-3)


def test_swa_full_can_lose_cells_to_another_sequence(window_model: ln.Model, make_context: MakeContext) -> None:
    """In a unified cache llama.cpp gives cells behind a window to others before free ones."""
    tokens = [3 + i % 250 for i in range(200)]
    # in 16 bits, how a processor's instructions round would decide on the tolerance
    exact = {"type_k": ln.GgmlType.F32, "type_v": ln.GgmlType.F32}
    context = make_context(window_model, n_ctx=512, n_seq_max=3, kv_unified=True, swa_full=True, **exact)
    memory = context.memory
    fill(context, tokens[:10], seq=1)
    wanted = fill(context, tokens)
    memory.remove(1)
    fill(context, tokens[:60], seq=2)  # ten free cells, then cells of sequence 0
    assert memory.pos_min(0) > 0
    outcomes = set()
    for cut in (20, 180, 100):
        possible = memory.can_continue(0, cut)
        outcomes.add(possible)
        assert memory.remove(0, cut) == possible
        if possible:
            np.testing.assert_allclose(fill(context, tokens[cut:], cut), wanted, atol=1e-3)
    assert outcomes == {True, False}


def test_can_continue(tiny_model: ln.Model, mamba_model: ln.Model, make_context: MakeContext) -> None:
    for model, inside in ((tiny_model, True), (mamba_model, False)):
        memory = make_context(model).memory
        assert memory.can_continue(0, 0)
        memory._context.decode(filled(TOKENS))
        assert [memory.can_continue(0, pos) for pos in (0, 5, 10, 11, -1)] == [True, inside, True, False, False]


def test_a_model_without_memory(embedding_model: ln.Model, make_context: MakeContext) -> None:
    context = make_context(embedding_model, n_seq_max=2, embeddings=True)
    memory = context.memory
    assert not memory.exists
    assert not memory.can_shift
    assert memory.pos_max(0) == -1
    memory.copy(0, 1)
    memory.remove(0)
    memory.clear()
