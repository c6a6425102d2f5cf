"""The table of routes: one module per resource, one line per route.

A handler takes the service, the exchange and the URL's variables, and returns a Werkzeug response or raises
`ApiError`. docs/API.md and GET /openapi.json are made from, or checked against, this table.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import msgspec
from werkzeug.routing import Map, Rule
from werkzeug.wrappers import Response

from server.routes import (
    chat,
    completions,
    embeddings,
    engine,
    health,
    knowledge,
    models,
    openapi,
    page,
    responses,
    tokens,
)
from server.schema.answer import ChatCompletion
from server.schema.chat import ChatRequest
from server.schema.completion import CompletionRequest, TextCompletion
from server.schema.embeddings import EmbeddingsBody, EmbeddingsRequest
from server.schema.engine import EngineBody
from server.schema.knowledge import KnowledgeBody, SearchBody, SearchRequest
from server.schema.responses import ResponsesRequest
from server.schema.tokens import (
    ApplyTemplateBody,
    ApplyTemplateRequest,
    DetokenizeBody,
    DetokenizeRequest,
    TokenizeBody,
    TokenizeRequest,
)

Handler = Callable[..., Response]


class Route(NamedTuple):
    """A method and path, and what answers there: `handler(service, exchange, **variables)`.

    The first line of the handler's docstring is the route's summary in /openapi.json.
    """

    method: str
    path: str
    handler: Handler
    body: type[msgspec.Struct] | None = None
    """What the request's JSON body is decoded into."""
    answer: type[msgspec.Struct] | None = None
    """What a JSON answer holds."""
    stream: bool = False
    """The answer can be a stream of events instead."""
    media: str = "application/json"
    """The content type of a whole answer."""
    open: bool = False
    """Answers without an API key even where keys are required."""


ROUTES = (
    Route("POST", "/v1/chat/completions", chat.create, ChatRequest, ChatCompletion, stream=True),
    Route("POST", "/v1/completions", completions.create, CompletionRequest, TextCompletion, stream=True),
    Route("POST", "/v1/responses", responses.create, ResponsesRequest, stream=True),
    Route("POST", "/v1/embeddings", embeddings.create, EmbeddingsRequest, EmbeddingsBody),
    Route("GET", "/v1/models", models.index, answer=models.ModelList),
    Route("GET", "/v1/models/<path:model>", models.show, answer=models.ModelBody),
    Route("POST", "/tokenize", tokens.tokenize, TokenizeRequest, TokenizeBody),
    Route("POST", "/detokenize", tokens.detokenize, DetokenizeRequest, DetokenizeBody),
    Route("POST", "/apply-template", tokens.apply_template, ApplyTemplateRequest, ApplyTemplateBody),
    Route("GET", "/v1/engine", engine.show, answer=EngineBody),
    Route("GET", "/v1/knowledge", knowledge.show, answer=KnowledgeBody),
    Route("POST", "/v1/knowledge/search", knowledge.search, SearchRequest, SearchBody),
    Route("GET", "/health", health.show, answer=health.HealthBody, open=True),
    Route("GET", "/ready", health.ready, answer=health.HealthBody, open=True),
    Route("GET", "/openapi.json", openapi.show, open=True),
    Route("GET", "/", page.index, media="text/html", open=True),
    Route("GET", "/page/<name>", page.show, media="*/*", open=True),
)


def url_map() -> Map:
    """Return Werkzeug's matcher for the table."""
    rules = [Rule(route.path, methods=[route.method], endpoint=route) for route in ROUTES]
    return Map(rules, strict_slashes=False, merge_slashes=False)
