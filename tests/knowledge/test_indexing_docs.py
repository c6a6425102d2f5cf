"""docs/INDEXING.md says what the code does."""

from __future__ import annotations

import inspect
import re
from dataclasses import fields
from pathlib import Path

from knowledge import readers, settings
from knowledge.readers import sandbox
from knowledge.sqlite_store import MAX_RANKED
from knowledge.store import Recipe

#: How documents for people call what must be the same, or everything is indexed anew.
RECIPE = {
    "fingerprint": "embedding model",
    "chunk_tokens": "chunk size",
    "chunk_overlap": "overlap",
    "document_prefix": "document prefix",
    "document_weight": "`KNOWLEDGE_DOCUMENT_WEIGHT`",
    "reader": "version of this program",
}


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


def test_what_makes_a_store_anew_is_named(root: Path) -> None:
    of_the_model = {"model", "dimensions"}
    assert {field.name for field in fields(Recipe)} == RECIPE.keys() | of_the_model
    for file, begin in (("INDEXING.md", "Another embedding model"), ("KNOWLEDGE.md", "They must also have the same")):
        sentence = " ".join((root / "docs" / file).read_text().split()).partition(begin)[2].partition(". ")[0]
        assert [name for name in RECIPE.values() if name not in f"{begin}{sentence}"] == [], file
