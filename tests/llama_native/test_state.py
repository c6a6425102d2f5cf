"""Saved state comes back exactly, and data that is not right is refused without touching anything."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

import llama_native as ln
from tests.llama_native import tiny
from tests.llama_native.conftest import PROMPT, MakeContext, filled

TOKENS = [20 + i for i in range(10)]


def next_logits(context: ln.Context, seq: int, pos: int = 10) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    context.decode(filled([77], pos, seq))
    result = context.logits(-1).copy()
    context.memory.remove(seq, pos)
    return result


def test_a_sequence_moves_to_another_context(chat_model: ln.Model, make_context: MakeContext) -> None:
    tokens = chat_model.vocab.tokenize(PROMPT, parse_special=True).tolist()
    source = make_context(chat_model)
    source.decode(filled(tokens))
    wanted = next_logits(source, 0, len(tokens))
    data = source.sequence_state(0)
    target = make_context(chat_model, n_ctx=1024, n_seq_max=2, kv_unified=True)
    target.decode(filled([1, 2, 3], seq=1))
    target.restore_sequence(1, data)
    assert target.memory.pos_max(1) == len(tokens) - 1
    np.testing.assert_allclose(next_logits(target, 1, len(tokens)), wanted, atol=1e-3)


@pytest.mark.parametrize("unified", [True, False])
def test_sequences_and_whole_contexts(tiny_model: ln.Model, make_context: MakeContext, unified: bool) -> None:
    context = make_context(tiny_model, n_seq_max=2, kv_unified=unified)
    context.decode(filled(TOKENS, seq=0))
    context.decode(filled(TOKENS[::-1], seq=1))
    wanted = [next_logits(context, seq) for seq in (0, 1)]
    one, everything = context.sequence_state(0), context.state()
    context.memory.clear()
    context.restore_sequence(1, one)
    np.testing.assert_allclose(next_logits(context, 1), wanted[0], atol=1e-4)
    context.restore_state(everything)
    for seq in (0, 1):
        np.testing.assert_allclose(next_logits(context, seq), wanted[seq], atol=1e-4)


def test_an_empty_sequence(tiny_model: ln.Model, make_context: MakeContext) -> None:
    context = make_context(tiny_model)
    data = context.sequence_state(0)
    context.decode(filled(TOKENS))
    context.restore_sequence(0, data)
    assert context.memory.pos_max(0) in (-1, 9)
    context.memory.clear()
    context.decode(filled([5]))


def test_a_recurrent_state(mamba_model: ln.Model, make_context: MakeContext) -> None:
    context = make_context(mamba_model, n_seq_max=2)
    context.decode(filled(TOKENS))
    data = context.sequence_state(0)
    context.decode(filled([77], 10))
    wanted = context.logits(-1).copy()
    context.restore_sequence(1, data)
    context.decode(filled([77], 10, seq=1))
    np.testing.assert_allclose(context.logits(-1), wanted, atol=1e-4)


def test_files(tiny_model: ln.Model, make_context: MakeContext, tmp_path: Path) -> None:
    context = make_context(tiny_model)
    context.decode(filled(TOKENS))
    wanted = next_logits(context, 0)
    path = tmp_path / "sequence.state"
    context.save_sequence(path, 0, TOKENS)
    assert [p.name for p in tmp_path.iterdir()] == ["sequence.state"]
    context.memory.clear()
    assert context.load_sequence(path, 0).tolist() == TOKENS
    np.testing.assert_array_equal(next_logits(context, 0), wanted)
    with pytest.raises(ln.StateError, match="No such file"):
        context.load_sequence(tmp_path / "missing", 0)
    with pytest.raises(ln.StateError, match="directory"):
        context.save_sequence(tmp_path / "no" / "where", 0, TOKENS)


def test_damage_is_found(tiny_model: ln.Model, make_context: MakeContext) -> None:
    context = make_context(tiny_model)
    context.decode(filled(TOKENS))
    wanted = next_logits(context, 0)
    data = context.sequence_state(0)
    chance = random.Random(1)
    damaged = [data[:n] for n in (0, 3, 20, 43, 44, 45, 100, len(data) - 1)] + [data + b"x"]
    for _ in range(300):
        copy = bytearray(data)
        copy[chance.randrange(len(copy))] ^= 1 << chance.randrange(8)
        damaged.append(bytes(copy))
    for item in damaged:
        with pytest.raises(ln.StateError):
            context.restore_sequence(0, item)
    np.testing.assert_array_equal(next_logits(context, 0), wanted)


def test_state_of_something_else(tiny_model: ln.Model, make_context: MakeContext, tmp_path: Path) -> None:
    context = make_context(tiny_model)
    context.decode(filled(TOKENS))
    data = context.sequence_state(0)
    with pytest.raises(ln.StateError, match="single sequence"):
        context.restore_state(data)
    with pytest.raises(ln.StateError, match="whole context"):
        context.restore_sequence(0, context.state())
    with pytest.raises(ln.StateError, match="another layout"):
        make_context(tiny_model, type_k=ln.GgmlType.F32).restore_sequence(0, data)
    with pytest.raises(ln.StateError, match="another layout"):
        make_context(tiny_model, n_seq_max=2).restore_sequence(0, data)  # two streams instead of one
    with ln.Model(tiny.mamba(tmp_path / "mamba.gguf")) as other, pytest.raises(ln.StateError, match="another model"):
        make_context(other).restore_sequence(0, data)
    for seq in (-1, 1):
        with pytest.raises(ln.SequenceError):
            context.sequence_state(seq)
        with pytest.raises(ln.SequenceError):
            context.restore_sequence(seq, data)


def test_state_that_does_not_fit(tiny_model: ln.Model, make_context: MakeContext) -> None:
    large = make_context(tiny_model, n_ctx=512, n_batch=512)
    large.decode(filled([5 + i % 200 for i in range(400)], capacity=512))
    small = make_context(tiny_model, n_ctx=256)
    with pytest.raises(ln.StateError, match="could not be restored"):
        small.restore_sequence(0, large.sequence_state(0))
    small.memory.clear()
    small.decode(filled([5]))
