"""Batches that break a rule are refused before llama.cpp would end the process; every return code is an exception."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import llama_native as ln
from llama_native import samplers
from tests.llama_native.conftest import MakeContext, filled

N_VOCAB = 286


def edited(change: Callable[[ln.Batch], object]) -> ln.Batch:
    batch = filled([5, 6, 7], n_seq_max=2)
    change(batch)
    return batch


def set_n_seq(value: int) -> Callable[[ln.Batch], None]:
    return lambda batch: batch.n_seq_id.__setitem__(1, value)


BROKEN: list[tuple[ln.Batch, str]] = [
    (ln.Batch(4), "empty"),
    (filled(list(range(3, 70)), capacity=100), "at most 64"),
    (edited(lambda b: b.token.__setitem__(1, N_VOCAB)), "token 286 at index 1 is outside the vocabulary"),
    (edited(lambda b: b.token.__setitem__(1, -1)), "token -1"),
    (edited(lambda b: b.token.__setitem__(1, 2**31 - 1)), "token 2147483647"),
    (edited(lambda b: b.pos.__setitem__(1, -1)), "position -1"),
    (edited(lambda b: b.pos.__setitem__(2, 2**31 - 1)), "position 2147483647"),
    (edited(set_n_seq(0)), "belongs to 0 sequences"),
    (edited(set_n_seq(3)), "belongs to 3 sequences, allowed are 1 to 2"),
    (edited(set_n_seq(-5)), "belongs to -5 sequences"),
    (edited(lambda b: b.seq_id.__setitem__((1, 0), 2)), "sequence 2 at index 1 is outside 0..1"),
    (edited(lambda b: b.seq_id.__setitem__((1, 0), -1)), "sequence -1"),
    (edited(lambda b: b.pos.__setitem__(slice(3), [1, 0, 2])), "decreasing"),
    (edited(lambda b: b.pos.__setitem__(slice(3), [0, 1, 5])), "not continuous"),
    (filled([5, 6], pos0=9), "consecutive"),
]


@pytest.mark.parametrize(("batch", "message"), BROKEN, ids=[message for _, message in BROKEN])
def test_broken_batches(tiny_model: ln.Model, make_context: MakeContext, batch: ln.Batch, message: str) -> None:
    context = make_context(tiny_model, n_batch=64, n_ubatch=32, n_seq_max=2, kv_unified=True)
    context.decode(filled([5]))  # so that position 9 is not the sequence's next
    if message in ("decreasing", "not continuous"):
        context.memory.clear()
    for call in (context.decode, context.step):
        with pytest.raises(ln.InvalidBatch, match=message) as caught:
            call(batch)
        assert caught.value.code == -1
    context.memory.clear()
    context.decode(filled([5, 6, 7]))  # nothing is broken


def test_too_many_outputs(tiny_model: ln.Model, make_context: MakeContext) -> None:
    context = make_context(tiny_model, n_outputs_max=2)
    batch = filled([5, 6, 7])
    batch.output[:3] = 1
    with pytest.raises(ln.InvalidBatch, match=r"3 outputs.*at most 2"):
        context.decode(batch)
    batch.output[0] = 0
    context.decode(batch)
    embedding = make_context(tiny_model, n_outputs_max=2, embeddings=True)
    with pytest.raises(ln.InvalidBatch, match="3 outputs"):
        embedding.decode(filled([5, 6, 7]))


def test_non_causal_batches_fit_one_micro_batch(tiny_model: ln.Model, make_context: MakeContext) -> None:
    context = make_context(tiny_model, n_batch=64, n_ubatch=4, attention=ln.Attention.NON_CAUSAL)
    assert context.max_batch == 4
    with pytest.raises(ln.InvalidBatch, match="at most 4"):
        context.decode(filled([3, 4, 5, 6, 7]))
    context.decode(filled([3, 4, 5, 6]))


@pytest.mark.parametrize("unified", [False, True])
def test_a_full_cache(tiny_model: ln.Model, make_context: MakeContext, unified: bool) -> None:
    context = make_context(tiny_model, n_ctx=512, n_seq_max=2, n_batch=512, kv_unified=unified)
    tokens = [5 + i % 200 for i in range(context.n_ctx_seq)]
    context.decode(filled(tokens, capacity=512))
    with pytest.raises(ln.KVCacheFull) as caught:
        context.decode(filled([5], pos0=len(tokens)))
    assert caught.value.code == 1
    assert context.memory.pos_max(0) == len(tokens) - 1
    context.memory.remove(0, len(tokens) // 2)
    context.decode(filled([5], pos0=len(tokens) // 2))


def test_a_token_of_two_sequences(tiny_model: ln.Model, make_context: MakeContext) -> None:
    context = make_context(tiny_model, n_seq_max=2, kv_unified=True)
    batch = ln.Batch(4, n_seq_max=2)
    batch.add(5, 0, [0, 1])
    batch.add(6, 1, [0, 1], output=True)
    context.decode(batch)
    assert [context.memory.pos_max(seq) for seq in (0, 1)] == [1, 1]
    streams = make_context(tiny_model, n_seq_max=2)
    with pytest.raises(ln.InvalidBatch, match="belongs to 2 sequences, allowed are 1 to 1"):
        streams.decode(batch)  # a cell of one stream cannot belong to a sequence of another


def test_random_batches_never_end_the_process(tiny_model: ln.Model, make_context: MakeContext) -> None:
    random = np.random.default_rng(3)
    context = make_context(tiny_model, n_ctx=256, n_seq_max=3, n_batch=32, n_ubatch=8, kv_unified=True)
    outcomes = set()
    for _ in range(400):
        batch = ln.Batch(40, n_seq_max=2)
        n = int(random.integers(0, 41))
        wild = random.random() < 0.5
        batch.n_tokens = n
        batch.token[:n] = random.integers(-2 if wild else 0, N_VOCAB + 2 if wild else N_VOCAB, n)
        batch.pos[:n] = random.integers(0, 5) + np.arange(n) if random.random() < 0.7 else random.integers(-2, 300, n)
        batch.n_seq_id[:n] = random.integers(0 if wild else 1, 3, n)
        batch.seq_id[:n] = random.integers(-1 if wild else 0, 4 if wild else 3, (n, 2))
        batch.output[:n] = random.integers(0, 2, n)
        try:
            context.step(batch)
            outcomes.add("done")
        except ln.DecodeError as error:
            outcomes.add(type(error).__name__)
        if random.random() < 0.3:
            context.memory.clear()
    assert {"done", "InvalidBatch"} <= outcomes
    context.memory.clear()
    context.decode(filled([5]))


def test_step_samples_each_row(tiny_model: ln.Model, make_context: MakeContext) -> None:
    context = make_context(tiny_model, n_seq_max=3)
    batch = ln.Batch(16)
    rows = [batch.extend(tokens, 0, seq, output_last=True) for seq, tokens in enumerate([[5, 6], [9], [40, 41, 42]])]
    with ln.Sampler([samplers.greedy()]) as greedy, ln.Sampler([samplers.top_k(1), samplers.dist(1)]) as top:
        result = context.step(batch, np.array(rows, np.int32), [None, greedy, top])
    assert result.tokens == [int(np.argmax(context.logits(row))) for row in rows]
    assert result.failures == {}
    assert result.decode_seconds > 0
    assert result.sampling_seconds > 0


def test_step_with_more_rows_than_before(tiny_model: ln.Model, make_context: MakeContext) -> None:
    context = make_context(tiny_model)
    batch = filled([5 + i for i in range(40)])
    batch.output[:40] = 1
    result = context.step(batch, list(range(40)), [None] * 40)
    assert result.tokens == np.argmax(context.logits_all(40), axis=1).tolist()


def test_step_checks_its_rows_before_decoding(tiny_model: ln.Model, make_context: MakeContext) -> None:
    context = make_context(tiny_model)
    batch = filled([5, 6, 7])
    for row, message in ((1, "no output flag"), (3, "outside the batch"), (-1, "outside the batch")):
        with pytest.raises(ln.InvalidBatch, match=message):
            context.step(batch, [row], [None])
        assert context.memory.pos_max(0) == -1
    with pytest.raises(ValueError, match="1 rows need 1 samplers"):
        context.step(batch, [2], [])


def test_step_without_rows_is_decode(tiny_model: ln.Model, make_context: MakeContext) -> None:
    context = make_context(tiny_model)
    assert context.step(filled([5, 6])).tokens == []
    assert context.memory.pos_max(0) == 1


def test_a_row_that_cannot_be_sampled_does_not_hurt_the_others(tiny_model: ln.Model, make_context: MakeContext) -> None:
    context = make_context(tiny_model, n_seq_max=3)
    batch = ln.Batch(16)
    rows = [batch.extend([5, 6], 0, seq, output_last=True) for seq in range(3)]
    nothing = ln.Sampler(
        [samplers.logit_bias(tiny_model.vocab, dict.fromkeys(range(N_VOCAB), -np.inf)), samplers.greedy()]
    )
    result = context.step(batch, rows, [None, nothing, None])
    assert result.tokens[1] == -1
    assert result.tokens[0] == result.tokens[2] >= 0
    assert list(result.failures) == [1]
    assert "no token is allowed" in result.failures[1]


def test_a_closed_sampler(tiny_model: ln.Model, make_context: MakeContext) -> None:
    context = make_context(tiny_model)
    sampler = ln.Sampler([samplers.greedy()])
    sampler.close()
    with pytest.raises(ln.ClosedError, match="Sampler is closed"):
        context.step(filled([5]), [0], [sampler])
    assert context.memory.pos_max(0) == -1


def mask_of(n_vocab: int, *allowed: int) -> ln.Mask:
    mask = np.zeros(ln.mask_words(n_vocab), np.uint32)
    for token in allowed:
        mask[token // 32] |= np.uint32(1 << token % 32)
    return mask


def test_masks_leave_the_allowed_tokens_only(tiny_model: ln.Model, make_context: MakeContext) -> None:
    context = make_context(tiny_model, n_seq_max=4)
    batch = ln.Batch(4)
    for sequence in range(4):
        batch.add(7, 0, sequence, output=True)
    allowed = (3, 31, 32, 64, N_VOCAB - 1)
    mask = mask_of(N_VOCAB, *allowed)
    with (
        ln.Sampler([samplers.temp(100.0), samplers.dist(seed=5)]) as sampler,
        ln.Sampler([samplers.top_k(2), samplers.greedy()]) as greedy,
    ):
        seen = set()
        for _ in range(60):
            context.memory.clear()
            free, drawn, best, chained = context.step(
                batch, range(4), [None, sampler, None, greedy], [None, mask, mask, mask]
            ).tokens
            logits = context.logits(2)
            assert free == int(context.logits(0).argmax())
            assert best == chained == max(allowed, key=lambda token: logits[token])
            seen.add(drawn)
    assert seen == set(allowed)  # hot enough that each of five tokens comes up in 60 draws


def test_masks_that_leave_one_token_or_none(tiny_model: ln.Model, make_context: MakeContext) -> None:
    context = make_context(tiny_model, n_seq_max=4)
    batch = ln.Batch(4)
    for sequence in range(4):
        batch.add(7, 0, sequence, output=True)
    one, none = mask_of(N_VOCAB, 99), mask_of(N_VOCAB)
    with ln.Sampler([samplers.mirostat(tiny_model.vocab, seed=1)]) as first, ln.Sampler([samplers.dist()]) as second:
        result = context.step(batch, range(4), [first, None, second, None], [one, one, none, none])
    assert result.tokens == [99, 99, -1, -1]
    assert result.failures == {2: "no token is allowed", 3: "no token is allowed"}


def test_bits_beyond_the_vocabulary_are_ignored(tiny_model: ln.Model, make_context: MakeContext) -> None:
    context = make_context(tiny_model)
    mask = np.zeros(ln.mask_words(N_VOCAB), np.uint32)
    mask[-1] = 0xFFFFFFFF  # tokens 256 to 287; the vocabulary ends at 285
    with ln.Sampler([samplers.temp(1000.0), samplers.dist(seed=1)]) as sampler:
        for _ in range(200):
            context.memory.clear()
            assert 256 <= context.step(filled([5]), [0], [sampler], [mask]).tokens[0] < N_VOCAB


@pytest.mark.parametrize(
    "mask", [np.zeros(9, np.int32), np.zeros(8, np.uint32), np.zeros((9, 1), np.uint32), np.zeros(18, np.uint32)[::2]]
)
def test_masks_of_the_wrong_form(tiny_model: ln.Model, make_context: MakeContext, mask: ln.Mask) -> None:
    context = make_context(tiny_model)
    with pytest.raises(ValueError, match=r"contiguous uint32 array of shape \(9,\)"):
        context.step(filled([5]), [0], [None], [mask])
    with pytest.raises(ValueError, match="1 rows need 1 masks"):
        context.step(filled([5]), [0], [None], [None, None])
    assert context.step(filled([5]), [0], [None]).tokens[0] >= 0
