"""GET /health and GET /ready: whether this process lives, and whether it takes new requests."""

from __future__ import annotations

import msgspec
from werkzeug.wrappers import Response

from server.exchange import Exchange
from server.service import Service

_RETRY = (("Retry-After", "2"),)


class HealthBody(msgspec.Struct, frozen=True, omit_defaults=True):
    """How the server is: "ok" or the reason why not, and the share of the model that is loaded while it loads."""

    status: str
    progress: float | None = None


def show(service: Service, exchange: Exchange) -> Response:
    """200 while the process lives, also while it loads the model; 503 when loading or the engine has failed."""
    return _answer(service, exchange, service.status, good=service.alive)


def ready(service: Service, exchange: Exchange) -> Response:
    """200 when a new request would be taken; else 503 with the reason: while loading, draining and full, too."""
    readiness = service.readiness
    return _answer(service, exchange, readiness, good=readiness == "ok")


def _answer(service: Service, exchange: Exchange, status: str, *, good: bool) -> Response:
    body = HealthBody(status, service.progress if status == "loading model" else None)
    return exchange.json(body) if good else exchange.json(body, 503, _RETRY)
