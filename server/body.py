"""Reads a request's JSON body into a struct.

Knows content types, the size limit and msgspec; every way in which a body can be wrong becomes an `ApiError`.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec
from werkzeug.wrappers import Request

from server.errors import ApiError, from_validation

T = TypeVar("T")

#: A client that sends nothing of its body, or takes nothing of its answer, for this many seconds is given up.
CLIENT_TIMEOUT = 60.0


def read_json(request: Request, decoder: msgspec.json.Decoder[T], max_bytes: int) -> T:
    """Return the body decoded and validated by `decoder`.

    Raises `ApiError` (400, 408, 415) and `werkzeug.exceptions.RequestEntityTooLarge`.
    """
    _check_content_type(request)
    request.max_content_length = max_bytes
    request.environ["gunicorn.socket"].settimeout(CLIENT_TIMEOUT)
    try:
        data = request.get_data(cache=False)
    except TimeoutError as error:
        raise ApiError(408, "The request body did not arrive in time.", code="request_timeout") from error
    try:
        return decoder.decode(data)
    except msgspec.ValidationError as error:
        raise from_validation(error) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ApiError(400, f"The request body is not valid JSON: {error}.", code="invalid_json") from error
    except RecursionError as error:
        raise ApiError(400, "The request body is nested too deeply.", code="invalid_json") from error


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
