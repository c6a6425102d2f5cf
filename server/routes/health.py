"""GET /health: whether this process can answer requests."""

from __future__ import annotations

from werkzeug.wrappers import Response

from server.exchange import Exchange
from server.service import Service


def show(service: Service, exchange: Exchange) -> Response:
    """200 when the model is loaded and the engine runs; else 503 with the reason and the share loaded so far."""
    status = service.status
    if status == "ok":
        return exchange.json({"status": "ok"})
    return exchange.json({"status": status, "progress": service.progress}, 503, (("Retry-After", "2"),))
