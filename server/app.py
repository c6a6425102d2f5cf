"""The WSGI application: finds the route, checks the API key, runs the handler; failures become OpenAI's error body.

`application` is the object a WSGI server loads. It needs gunicorn's threads, its socket in the environ, and our
worker class, which starts and closes it, so use our settings file:

    gunicorn -c server/gunicorn_settings.py server.app:application

Knows Werkzeug and exchanges; knows nothing of prompts or the engine.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING

from werkzeug.exceptions import HTTPException
from werkzeug.wrappers import Response

from llama_native import ClosedError
from server import config
from server.auth import Keys
from server.cors import Cors
from server.errors import ApiError, ClientGoneError, from_http, internal
from server.exchange import Exchange
from server.routes import ROUTES, Route, url_map
from server.service import Service

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

log = logging.getLogger("server")


class Application:
    """A WSGI callable around one `Service`."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self._urls = url_map()
        config = service.config
        self._keys = Keys(config.api_keys or (), config.api_keys_file)
        methods = sorted({route.method for route in ROUTES})
        self._cors = Cors(config.cors_origins or (), ", ".join(methods))

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request (PEP 3333)."""
        exchange = Exchange(environ, self.service.metrics, self.service.tracer)
        response = self._respond(exchange)
        response.headers["X-Request-Id"] = exchange.request_id
        self._cors.add(exchange.request, response.headers)
        if not response.is_streamed:
            response.call_on_close(exchange.finish)
        return response(environ, start_response)

    def _respond(self, exchange: Exchange) -> Response:
        request = exchange.request
        try:
            preflight = self._cors.preflight(request)
            if preflight is not None:
                exchange.route, exchange.status = "preflight", preflight.status_code
                return preflight
            rule, variables = self._urls.bind_to_environ(request.environ).match(return_rule=True)
            route: Route = rule.endpoint
            exchange.route = route.path
            if not route.open:
                self._keys.check(request.headers.get("Authorization", ""))
            response: Response = route.handler(self.service, exchange, **variables)
            return response
        except ApiError as error:
            return exchange.error(error)
        except HTTPException as error:
            return exchange.error(from_http(error, request.path, request.method))
        except ClientGoneError:
            return exchange.gone()
        except ClosedError:  # a model was freed under a request that a stop of the server overtakes
            return exchange.error(self.service.stopped())
        except Exception:
            log.exception("request %s failed", exchange.request_id)
            return exchange.error(internal(exchange.request_id))


application = Application(Service(config.current()))
