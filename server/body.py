"""Reads a request's JSON body into a struct.

Knows content types, the limits on size and msgspec; every way in which a body can be wrong becomes an `ApiError`.
"""

from __future__ import annotations

import contextlib
import socket
from typing import TYPE_CHECKING, Final, TypeVar

import msgspec
from gunicorn.http.errors import ParseException
from werkzeug.wrappers import Request

from engine import clock
from server.errors import ApiError, ClientGoneError, from_validation, unavailable
from server.exchange import Exchange

if TYPE_CHECKING:
    from server.service import Service

T = TypeVar("T")

#: Bytes that the bodies of all requests may take together. The first piece of each counts for nothing: threads bound
#: these, and so a chat finds room whatever others send.
BODIES: Final = 128 << 20

#: So many bytes of a body are read at once.
PIECE: Final = 1 << 16

#: How long the rest of a body that is too large is read and thrown away, in seconds.
LINGER: Final = 5.0

#: A client that sends nothing for this many seconds waits for its answer.
QUIET: Final = 0.5


def read_json(service: Service, exchange: Exchange, decoder: msgspec.json.Decoder[T]) -> T:
    """Return the body decoded and validated by `decoder`; `exchange` learns its size.

    Until the exchange is over it counts among `service.bodies`. Raises `ApiError` (400, 408, 413, 415, 503), and
    `ClientGoneError` if the body breaks off.
    """
    request = exchange.request
    _check_content_type(request)
    try:
        data = _read(service, exchange)
    except TimeoutError as error:
        raise ApiError(408, "The request body did not arrive in time.", code="request_timeout") from error
    except ParseException as error:
        raise ApiError(400, f"The request body is not framed properly: {error}", code="malformed_http") from error
    except OSError as error:
        raise ClientGoneError from error
    exchange.body_bytes = len(data)
    try:
        return decoder.decode(data)
    except msgspec.ValidationError as error:
        raise from_validation(error) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ApiError(400, f"The request body is not valid JSON: {error}.", code="invalid_json") from error
    except RecursionError as error:
        raise ApiError(400, "The request body is nested too deeply.", code="invalid_json") from error


def _read(service: Service, exchange: Exchange) -> bytearray:
    """Return the whole body; raises `ApiError` (413, 503) if it, or with it all bodies together, would be too large."""
    request, max_bytes = exchange.request, service.config.max_body_bytes
    stream = request.environ["wsgi.input"]
    declared = request.content_length or 0
    data = bytearray()
    held = 0

    def give_back() -> None:
        service.bodies.give_back(held)

    exchange.give_back = give_back
    while declared <= max_bytes and len(data) <= max_bytes and (piece := stream.read(PIECE)):
        if data:  # what came counts, not what was announced: that would cost nothing to claim
            if not service.bodies.take(len(piece)):
                _throw_away_rest(request)
                raise unavailable("The server is at its limit: other requests are too large.", "too_many_requests", 1)
            held += len(piece)
        data += piece
    if declared > max_bytes or len(data) > max_bytes:
        _throw_away_rest(request)
        raise ApiError(413, f"The request body has more than {max_bytes} bytes.", code="request_too_large")
    if len(data) < declared:
        raise ClientGoneError
    return data


def _throw_away_rest(request: Request) -> None:
    """Read what the client is still sending: it would get a reset, not the answer, if the connection closed before."""
    sock: socket.socket = request.environ["gunicorn.socket"]
    patience = sock.gettimeout()
    sock.settimeout(QUIET)
    deadline = clock() + LINGER
    with contextlib.suppress(TimeoutError):
        while clock() < deadline and request.environ["wsgi.input"].read(65536):
            pass
    sock.settimeout(patience)


def _check_content_type(request: Request) -> None:
    """Raise 415 unless the body is declared to be JSON, or not declared at all.

    `curl -d` calls its data a form unless told otherwise, so that is read as JSON too, but not from a browser: a page
    of any site can send a form (with an Origin header) without asking, but not JSON.
    """
    mimetype = request.mimetype
    if not mimetype or request.is_json:
        return
    if mimetype == "application/x-www-form-urlencoded" and "Origin" not in request.headers:
        return
    raise ApiError(415, f"The request body must be application/json, not {mimetype}.", code="unsupported_media_type")
