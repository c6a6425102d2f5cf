"""Fixtures of the knowledge tests: the demo embedding model, loaded once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from knowledge.embedder import Embedder


@pytest.fixture(scope="session")
def embedder(embedding_model_path: Path) -> Iterator[Embedder]:
    with Embedder(embedding_model_path) as embedder:
        yield embedder
