"""GET /v1/knowledge and POST /v1/knowledge/search: what documents there are, and what they say about a query."""

from __future__ import annotations

import logging

import msgspec
from werkzeug.wrappers import Response

from knowledge.knowledge import Knowledge
from knowledge.store import StoreError
from server import grounding
from server.body import read_json
from server.errors import ApiError, unavailable
from server.exchange import Exchange
from server.schema.knowledge import Indexing, KnowledgeBody, KnowledgeOptions, SearchBody, SearchRequest, SearchTimings
from server.service import Service

log = logging.getLogger("server.knowledge")

_decoder = msgspec.json.Decoder(SearchRequest)


def show(service: Service, exchange: Exchange) -> Response:
    """Describe the documents: how many there are, with which model they are searched, what the indexer does."""
    try:
        stats = _knowledge(service).stats()
    except StoreError as error:
        log.warning("documents cannot be counted: %s", error)
        message = f"The documents cannot be reached now, and are tried again: {error}"
        raise unavailable(message, "knowledge_unavailable", 5) from error
    body = KnowledgeBody(
        files=stats.store.n_files,
        skipped_files=stats.store.n_skipped,
        chunks=stats.store.n_chunks,
        tokens=stats.store.n_tokens,
        bytes=stats.store.n_bytes,
        model=stats.model,
        dimensions=stats.dimensions,
        store=stats.location,
        indexing=Indexing(stats.state, stats.progress, stats.error),
    )
    return exchange.json(body)


def search(service: Service, exchange: Exchange) -> Response:
    """Answer with the passages that fit a query."""
    knowledge = _knowledge(service)
    with exchange.timings.phase("parse"):
        body = read_json(service, exchange, _decoder)
    options = KnowledgeOptions(body.top_k, body.threshold, body.mode)
    hits = grounding.search(knowledge, exchange, body.query, options)
    timings = SearchTimings(dict(exchange.timings.phases), exchange.timings.total_seconds)
    return exchange.json(SearchBody(data=[grounding.cite(hit) for hit in hits], timings=timings))


def _knowledge(service: Service) -> Knowledge:
    service.loaded()
    if service.knowledge is None:
        raise ApiError(404, "This server has no documents; its log says why.", code="no_knowledge")
    return service.knowledge
