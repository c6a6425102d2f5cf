"""What can go wrong with a request in the engine, one exception type per cause.

Knows the figures a caller needs to explain the failure (token counts, seconds to wait). Knows nothing of HTTP: the
server maps these types to status codes.
"""

from __future__ import annotations

import math


class EngineError(Exception):
    """Base of every error the engine raises."""


class InvalidRequest(EngineError):
    """A request that cannot be carried out as it stands.

    `parameter` names the offending field of `Request` or `SamplingParams`.
    """

    def __init__(self, parameter: str, message: str) -> None:
        super().__init__(message)
        self.parameter = parameter


class PromptTooLong(EngineError):
    """The prompt leaves no room for an answer in the context of one request.

    `prompt_tokens` and `limit` are token counts; `limit` is the longest prompt accepted.
    """

    def __init__(self, prompt_tokens: int, limit: int) -> None:
        super().__init__(f"the prompt has {prompt_tokens} tokens, at most {limit} fit this model's context")
        self.prompt_tokens = prompt_tokens
        self.limit = limit


class QueueFull(EngineError):
    """Too many requests wait already. `retry_after` is the engine's estimate, in seconds, of when to try again."""

    def __init__(self, waiting: int, retry_after: float) -> None:
        super().__init__(f"{waiting} requests are waiting already; try again in {math.ceil(retry_after)} s")
        self.waiting = waiting
        self.retry_after = retry_after


class QueueTimeout(EngineError):
    """The request waited longer than allowed for a sequence. `retry_after` is in seconds."""

    def __init__(self, waited: float, retry_after: float) -> None:
        super().__init__(f"no sequence came free within {waited:.0f} s; try again in {math.ceil(retry_after)} s")
        self.waited = waited
        self.retry_after = retry_after


class DeadlineExceeded(EngineError):
    """The request's own time limit passed before its answer was complete. `timeout` is in seconds."""

    def __init__(self, timeout: float) -> None:
        super().__init__(f"the request did not finish within its time limit of {timeout:g} s")
        self.timeout = timeout


class EngineStopped(EngineError):
    """The engine is closed or its thread died; nothing can be generated any more."""


class EngineStuck(EngineError):
    """The engine thread did not come round although there was work: a call of llama.cpp does not return."""


class GenerationFailed(EngineError):
    """llama.cpp could not compute this request's step; the engine goes on with the others."""


class ConstraintFailed(EngineError):
    """The answer's grammar became too complex to follow; the engine goes on with the others."""
