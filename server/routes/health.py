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
    """200 when the model is loaded and the engine runs; else 503 with the reason and the share loaded so far."""
    return _answer(service, exchange, service.status)


def ready(service: Service, exchange: Exchange) -> Response:
    """200 when a new request would be taken; else 503 with the reason: also while draining, and while full."""
    return _answer(service, exchange, service.readiness)


def _answer(service: Service, exchange: Exchange, status: str) -> Response:
    if status == "ok":
        return exchange.json(HealthBody(status))
    return exchange.json(HealthBody(status, service.progress), 503, _RETRY)
