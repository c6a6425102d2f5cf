"""What the client gets to see of an engine error.

Knows the engine's exception types and `ApiError`; the one place where the two meet.
"""

from __future__ import annotations

from engine import (
    ConstraintFailed,
    DeadlineExceeded,
    EngineError,
    InvalidRequest,
    PromptTooLong,
    QueueFull,
    QueueTimeout,
)
from server.errors import SERVER_ERROR, ApiError, context_length_exceeded, invalid, unavailable


def from_engine(error: EngineError) -> ApiError | None:
    """Return what the client gets to see of an engine error; None if that is a plain 500.

    What to say of `EngineStopped` depends on who stopped the engine; that is for `Service.stopped`.
    """
    match error:
        case PromptTooLong():
            return context_length_exceeded(str(error.prompt_tokens), error.limit)
        case InvalidRequest():
            return invalid(error.parameter, str(error))
        case ConstraintFailed():
            return ApiError(400, f"The form of the answer is too complex: {error}.", code="constraint_too_complex")
        case QueueFull():
            return unavailable(f"The server is at its limit: {error}.", "queue_full", error.retry_after)
        case QueueTimeout():
            return unavailable(f"The server is at its limit: {error}.", "queue_timeout", error.retry_after)
        case DeadlineExceeded():
            return ApiError(504, f"Time is up: {error}.", kind=SERVER_ERROR, code="request_timeout")
    return None
