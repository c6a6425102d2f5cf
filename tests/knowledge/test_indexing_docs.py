"""docs/INDEXING.md says what the code does."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

from knowledge import readers, settings
from knowledge.readers import sandbox
from knowledge.sqlite_store import MAX_RANKED


def test_variables_suffixes_and_numbers(root: Path) -> None:
    text = (root / "docs" / "INDEXING.md").read_text()
    read = set(re.findall(r'"(KNOWLEDGE_\w+)"', inspect.getsource(settings.from_environment)))
    elsewhere = {"KNOWLEDGE_TOP_K", "KNOWLEDGE_MODE"}
    assert set(re.findall(r"KNOWLEDGE_\w+", text)) == read - elsewhere | {"KNOWLEDGE_WATCH"}
    for suffix in readers._PARSERS.keys() - {".ndjson"}:
        assert f"`{suffix}`" in text
    assert f"({settings.KnowledgeSettings().file_bytes >> 20} MiB)" in text
    assert f"more than {sandbox.TIME_LIMIT:g} s or {sandbox.MEMORY_LIMIT >> 30} GiB" in text
    assert f"{MAX_RANKED:,}" in text
