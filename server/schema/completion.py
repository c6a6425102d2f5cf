"""The bodies of POST /v1/completions: text or token ids in, their continuation out.

Knows OpenAI's legacy completions, whose log probabilities have a shape of their own. `check` refuses, by name, what is
declared here and not supported.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from engine.request import MAX_LOGPROBS
from server.errors import invalid
from server.schema.answer import TimingsBody, Usage
from server.schema.sampling import SamplingFields, unsupported

TokenId = Annotated[int, Meta(ge=0, le=2**31 - 1)]


class CompletionRequest(SamplingFields, kw_only=True, frozen=True):
    """A completion request."""

    prompt: str | Annotated[list[str | TokenId | list[TokenId]], Meta(min_length=1)]
    max_tokens: Annotated[int, Meta(ge=0, le=2**31 - 1)] | None = None
    logprobs: Annotated[int, Meta(ge=0, le=MAX_LOGPROBS)] | None = None
    echo: bool | None = None
    suffix: str | None = None
    best_of: int | None = None

    def check(self) -> None:
        """Raise `ApiError` for combinations and features that are not supported."""
        super().check()
        if self.suffix:
            raise unsupported("suffix", "filling in before a suffix is not supported")
        if self.best_of is not None and self.best_of != self.choices:
            raise unsupported("best_of", "only as many as n are made")
        if self.max_tokens == 0 and not self.echo:
            raise invalid("max_tokens", "must be at least 1 unless echo is true")
        if isinstance(self.prompt, list) and len({type(item) for item in self.prompt}) > 1:
            raise invalid("prompt", "a list holds either strings, or token ids, or lists of token ids")

    @property
    def prompts(self) -> list[str | list[int]]:
        """Each prompt, as text or as token ids."""
        prompt = self.prompt
        if isinstance(prompt, str):
            return [prompt]
        tokens = [item for item in prompt if isinstance(item, int)]
        return [tokens] if tokens else [item for item in prompt if not isinstance(item, int)]


class TextLogprobs(msgspec.Struct, frozen=True):
    """`logprobs` of a completion: for each token its text, its log probability, the likeliest tokens and theirs.

    The first token of a prompt has none of the latter two. `text_offset` is where in `text` a token begins, in
    characters.
    """

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class TextChoice(msgspec.Struct, frozen=True):
    """One continuation, or in a stream what comes next in it."""

    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: str | None


class TextCompletion(msgspec.Struct, frozen=True):
    """The body of a completion that is not streamed."""

    id: str
    object: str
    created: int
    model: str
    choices: list[TextChoice]
    usage: Usage
    timings: TimingsBody
