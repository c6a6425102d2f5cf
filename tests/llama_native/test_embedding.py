"""Embeddings of the demo embedding model, alone and packed."""

from __future__ import annotations

import numpy as np
import pytest

import llama_native as ln
from tests.llama_native.conftest import MakeContext, filled

SENTENCES = [
    "A printer that prints wooden screws.",
    "A machine which makes screws out of wood.",
    "The weather in Lisbon is mild in spring.",
    "x",
    "Thom Rhubarb built the first one in his shed, " * 4,
]


def tokens(model: ln.Model) -> list[np.ndarray[tuple[int], np.dtype[np.int32]]]:
    return [model.vocab.tokenize(sentence, add_special=True) for sentence in SENTENCES]


def test_meaning_and_shape(embedding_model: ln.Model, make_context: MakeContext) -> None:
    context = make_context(embedding_model, embeddings=True, n_seq_max=4)
    vectors = ln.embed(context, tokens(embedding_model))
    assert vectors.shape == (5, 384)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    similar = vectors @ vectors.T
    assert similar[0, 1] > 0.7 > similar[0, 2] + 0.3


def test_packing_does_not_change_the_vectors(embedding_model: ln.Model, make_context: MakeContext) -> None:
    inputs = tokens(embedding_model)
    alone = ln.embed(make_context(embedding_model, embeddings=True), inputs)
    for n_seq_max, n_batch in ((2, 512), (8, 512), (8, 64)):
        context = make_context(embedding_model, embeddings=True, n_seq_max=n_seq_max, n_batch=n_batch)
        assert context.max_batch <= n_batch
        np.testing.assert_allclose(ln.embed(context, inputs), alone, atol=2e-3)


def test_encode_and_decode_are_the_same_here(embedding_model: ln.Model, make_context: MakeContext) -> None:
    context = make_context(embedding_model, embeddings=True)
    batch = ln.Batch(64)
    batch.extend(tokens(embedding_model)[0], 0, 0)
    context.encode(batch)
    encoded = context.embeddings_seq(0).copy()
    context.decode(batch)
    np.testing.assert_array_equal(context.embeddings_seq(0), encoded)


def test_a_generating_model_can_pool(tiny_model: ln.Model, make_context: MakeContext) -> None:
    context = make_context(tiny_model, embeddings=True, pooling=ln.Pooling.MEAN, n_seq_max=2, kv_unified=True)
    inputs = [np.arange(3, 3 + n, dtype=np.int32) for n in (1, 5, 9)]
    vectors = ln.embed(context, inputs, normalize=False)
    again = ln.embed(context, inputs[::-1], normalize=False)
    np.testing.assert_allclose(vectors, again[::-1], atol=1e-3)
    assert np.abs(np.linalg.norm(vectors, axis=1) - 1).max() > 0.1


def test_what_would_pool_wrongly_is_refused(tiny_model: ln.Model, make_context: MakeContext) -> None:
    with pytest.raises(ln.ContextError, match="needs kv_unified"):
        make_context(tiny_model, embeddings=True, pooling=ln.Pooling.MEAN, n_seq_max=2)
    context = make_context(tiny_model, embeddings=True, pooling=ln.Pooling.MEAN, n_ubatch=8)
    with pytest.raises(ln.InvalidBatch, match="at most 8"):
        context.decode(filled(list(range(3, 12))))  # micro-batches would pool one after the other


def test_no_inputs(embedding_model: ln.Model, make_context: MakeContext) -> None:
    assert ln.embed(make_context(embedding_model, embeddings=True), []).shape == (0, 384)


def test_inputs_that_do_not_fit(embedding_model: ln.Model, tiny_model: ln.Model, make_context: MakeContext) -> None:
    context = make_context(embedding_model, embeddings=True, n_batch=64)
    for bad in ([], [5] * 65):
        with pytest.raises(ln.InvalidBatch, match=r"input 1 has .* tokens, allowed are 1 to 64"):
            ln.embed(context, [[5, 6], bad])
    for wrong in (make_context(tiny_model), make_context(tiny_model, embeddings=True)):
        with pytest.raises(ln.ContextError, match="does not pool"):
            ln.embed(wrong, [[5]])
