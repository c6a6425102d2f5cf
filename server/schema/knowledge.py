"""What requests say about documents, and what answers say of them.

Knows the JSON of the field `knowledge`, of citations and of /v1/knowledge; searches nothing.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

Mode = Literal["hybrid", "dense", "lexical"]
#: Longest query, in characters: what is longer is no question, and looking for its words takes time.
MAX_QUERY: Final = 32_768

TopK = Annotated[int, Meta(ge=1, le=100)]
Threshold = Annotated[float, Meta(ge=-1, le=1)]


class KnowledgeOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How to search for one request; what is absent is as configured."""

    top_k: TopK | None = None
    threshold: Threshold | None = None
    mode: Mode | None = None


class SearchRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The body of POST /v1/knowledge/search."""

    query: Annotated[str, Meta(min_length=1, max_length=MAX_QUERY)]
    top_k: TopK | None = None
    threshold: Threshold | None = None
    mode: Mode | None = None


class Citation(msgspec.Struct, frozen=True):
    """A passage that was found: its file, relative to DATA_PATH, its place in it, how well it fits, and its text."""

    file: str
    chunk: int
    score: float
    text: str


class SearchTimings(msgspec.Struct, frozen=True):
    """Seconds by phase, and in all."""

    phases: dict[str, float]
    total_seconds: float


class SearchBody(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a search, best passage first."""

    object: str = "list"
    data: list[Citation]
    timings: SearchTimings


class Indexing(msgspec.Struct, frozen=True):
    """What the indexer does (see `knowledge.knowledge.KnowledgeStats`): state, share that is done, last failure."""

    state: str
    progress: float | None
    error: str | None


class KnowledgeBody(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of the documents."""

    object: str = "knowledge"
    files: int
    skipped_files: int
    chunks: int
    tokens: int
    bytes: int
    model: str
    dimensions: int
    store: str
    indexing: Indexing
