"""The table of routes: one module per resource, one line per route.

A handler takes the service, the exchange and the URL's variables, and returns a Werkzeug response or raises
`ApiError`. docs/API.md is checked against this table.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from werkzeug.routing import Map, Rule
from werkzeug.wrappers import Response

from server.routes import chat, engine, health, models, page

Handler = Callable[..., Response]


class Route(NamedTuple):
    """A method and path, and what answers there: `handler(service, exchange, **variables)`."""

    method: str
    path: str
    handler: Handler


ROUTES = (
    Route("POST", "/v1/chat/completions", chat.create),
    Route("GET", "/v1/models", models.index),
    Route("GET", "/v1/models/<path:model>", models.show),
    Route("GET", "/v1/engine", engine.show),
    Route("GET", "/health", health.show),
    Route("GET", "/", page.index),
    Route("GET", "/page/<name>", page.show),
)


def url_map() -> Map:
    """Return Werkzeug's matcher for the table."""
    rules = [Rule(route.path, methods=[route.method], endpoint=route.handler) for route in ROUTES]
    return Map(rules, strict_slashes=False, merge_slashes=False)
