"""Every failure a client can see, as OpenAI's error body and an HTTP status.

`ApiError` is what handlers raise; what others raise is turned into it by functions here and in `server.refusals`. Knows
status codes and the fields of the body; knows nothing of sockets. Imports nothing of the engine, because gunicorn's
master process, which must not load libllama before it forks, uses it.
"""

from __future__ import annotations

import math
import re

import msgspec
from werkzeug.exceptions import HTTPException, MethodNotAllowed, NotFound

INVALID_REQUEST = "invalid_request_error"
SERVER_ERROR = "server_error"

#: The status that stands for "the client went away" in logs and metrics (nginx's convention); it is never received.
CLIENT_CLOSED_REQUEST = 499


class ErrorDetail(msgspec.Struct, frozen=True):
    """The object under `error` in every error body."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(msgspec.Struct, frozen=True):
    """The body of every error response."""

    error: ErrorDetail


class ApiError(Exception):
    """A failure with its HTTP status, OpenAI's `type` (here `kind`), `param` and `code`, and extra response headers."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = INVALID_REQUEST,
        param: str | None = None,
        code: str | None = None,
        headers: tuple[tuple[str, str], ...] = (),
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body = ErrorBody(ErrorDetail(message, kind, param, code))
        self.headers = headers


class ClientGoneError(Exception):
    """The client closed its connection before it had the whole answer."""


def invalid(param: str, reason: str, code: str = "invalid_value") -> ApiError:
    """Return the 400 for a parameter that cannot be used, for a reason that completes "param: ..."."""
    return ApiError(400, f"{param}: {reason}.", param=param, code=code)


def missing(param: str) -> ApiError:
    """Return the 400 for a parameter that must be there."""
    return ApiError(400, f"Missing required parameter: {param}.", param=param, code="missing_required_parameter")


def unavailable(message: str, code: str, retry_after: float) -> ApiError:
    """Return a 503 that tells the client to come back after `retry_after` seconds."""
    seconds = str(max(1, math.ceil(retry_after)))
    return ApiError(503, message, kind=SERVER_ERROR, code=code, headers=(("Retry-After", seconds),))


def shutting_down() -> ApiError:
    """Return the 503 for requests that a stop of the server overtakes."""
    return unavailable("The server is shutting down.", "shutting_down", 5)


def engine_failed() -> ApiError:
    """Return the 503 for requests that a failure of the whole engine overtakes."""
    return unavailable("The engine failed; the server starts it anew.", "engine_failed", 5)


def internal(request_id: str) -> ApiError:
    """Return the 500 for a failure of ours; it names the request id under which the log has the rest."""
    return ApiError(
        500, f"The server failed to handle the request; its log has more under {request_id}.", kind=SERVER_ERROR
    )


def context_length_exceeded(prompt_tokens: str, limit: int, param: str = "messages") -> ApiError:
    """Return the 400 for a prompt of `prompt_tokens` tokens (a count, perhaps with words) where `limit` would fit.

    The first sentence is OpenAI's: clients such as LiteLLM tell by it that a model with a larger context would do.
    """
    subject = "the messages have" if param == "messages" else f"{param} has"
    return ApiError(
        400,
        f"This model's maximum context length is {limit + 1} tokens. "
        f"A prompt takes at most {limit} tokens, but {subject} {prompt_tokens} tokens. Please shorten it.",
        param=param,
        code="context_length_exceeded",
    )


def from_http(error: HTTPException, path: str, method: str) -> ApiError:
    """Return the error body for what Werkzeug found wrong with a request."""
    if isinstance(error, NotFound):
        return ApiError(404, f"There is no route {path}.", code="unknown_url")
    if isinstance(error, MethodNotAllowed):
        allowed = ", ".join(sorted(error.valid_methods or ()))
        return ApiError(
            405,
            f"{path} does not answer {method}, only {allowed}.",
            code="method_not_allowed",
            headers=(("Allow", allowed),),
        )
    status = error.code or 400
    return ApiError(status, error.description or error.name, kind=INVALID_REQUEST if status < 500 else SERVER_ERROR)


#: msgspec's messages end in the place of the failure: "... - at `$.messages[0].role`".
_PLACE = re.compile(r"(?: - at (?:`key` in )?`\$\.?(?P<path>[^`]*)`)?$")


def from_validation(error: msgspec.ValidationError) -> ApiError:
    """Return the 400 for a body that is JSON of the wrong shape, naming the parameter."""
    text = str(error)
    place = _PLACE.search(text)
    param = (place["path"] or None) if place else None
    reason = text[: place.start()] if place else text
    if absent := re.fullmatch(r"Object missing required field `(\w+)`", reason):
        param = f"{param}.{absent[1]}" if param else absent[1]
        return missing(param)
    prefix = f"{param}: " if param else ""
    return ApiError(400, f"{prefix}{reason.replace('`', chr(39))}.", param=param, code="invalid_value")
