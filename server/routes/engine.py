"""GET /v1/engine: the engine's own figures as JSON, for the page and for scripts that do not speak Prometheus.

Nothing is counted here; it is the snapshot that the metrics read too.
"""

from __future__ import annotations

import os

from werkzeug.wrappers import Response

from engine import clock
from server.exchange import Exchange
from server.schema.engine import EngineBody
from server.service import Service


def show(service: Service, exchange: Exchange) -> Response:
    """Describe the engine now; 503 while there is none."""
    engine = service.loaded().engine
    body = EngineBody.of(engine, service.model_names[0], service.config.model_path.name, os.getpid(), clock())
    return exchange.json(body, headers=(("Cache-Control", "no-store"),))
