"""The embedding model written by model/fetch.py gives the same tokens and vectors as the original."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llama_native import Batch, Context, ContextParams, Model, ModelParams

REFERENCE: dict[str, Any] = json.loads(Path(__file__).with_name("reference.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def model(embedding_model_path: Path) -> Iterator[Model]:
    with Model(embedding_model_path, ModelParams()) as model:
        yield model


@pytest.fixture(scope="module")
def context(model: Model) -> Iterator[Context]:
    with Context(model, ContextParams(n_ctx=512, n_batch=512, n_ubatch=512, embeddings=True)) as context:
        yield context


@pytest.mark.parametrize("entry", REFERENCE["entries"], ids=lambda entry: entry["text"][:20].strip())
def test_vector_equals_original(model: Model, context: Context, entry: dict[str, Any]) -> None:
    tokens = model.vocab.tokenize(entry["text"], add_special=True)
    assert tokens.tolist() == entry["tokens"]

    batch = Batch(len(tokens))
    batch.extend(tokens, 0, 0)
    context.encode(batch)
    vector = np.array(context.embeddings_seq(0), dtype=np.float64)

    original = np.array(entry["vector"])
    cosine = float(vector @ original / (np.linalg.norm(vector) * np.linalg.norm(original)))
    assert cosine >= 0.999


def test_unrelated_texts_differ() -> None:
    """The bar above means something: the reference vectors of different texts are far apart."""
    vectors = np.array([entry["vector"] for entry in REFERENCE["entries"]])
    cosines = vectors @ vectors.T
    assert float(np.max(cosines - np.eye(len(vectors)) * 2)) < 0.9
