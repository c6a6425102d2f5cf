"""What chat and text completions answer with: usage, timings, log probabilities, and the bodies that hold them.

Responses only: they are encoded, never decoded. Knows OpenAI's and llama-server's field names and the engine's
figures that go into them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, Protocol

import msgspec
from msgspec import UNSET, UnsetType

from engine import Timings, TokenLogprobs
from llama_native import Vocab
from server.schema.knowledge import Citation


class TokenCounts(Protocol):
    """Whatever knows the token counts of a finished answer."""

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the prompt, cached ones included."""

    @property
    def cached_tokens(self) -> int:
        """Tokens of the prompt that were in the KV cache."""

    @property
    def completion_tokens(self) -> int:
        """Tokens generated."""


class PromptTokensDetails(msgspec.Struct, frozen=True):
    """Of the prompt's tokens, those that were in the KV cache."""

    cached_tokens: int


class CompletionTokensDetails(msgspec.Struct, frozen=True):
    """Of the generated tokens, those of a reasoning model's thoughts, tags included."""

    reasoning_tokens: int


class Usage(msgspec.Struct, frozen=True):
    """OpenAI's token counts."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails
    completion_tokens_details: CompletionTokensDetails | UnsetType = UNSET

    @classmethod
    def of(cls, counts: TokenCounts, reasoning_tokens: int | None = None) -> Usage:
        """Return the counts of a finished answer; `reasoning_tokens` is None where thoughts are not told apart."""
        prompt, completion = counts.prompt_tokens, counts.completion_tokens
        details = UNSET if reasoning_tokens is None else CompletionTokensDetails(reasoning_tokens)
        return cls(prompt, completion, prompt + completion, PromptTokensDetails(counts.cached_tokens), details)


class TimingsBody(msgspec.Struct, frozen=True):
    """llama-server's `timings`, and every phase of the request.

    `prompt_n` counts the prompt tokens that were computed, `cache_n` those that were not. Milliseconds end in _ms,
    rates are per second; `phases` and `total_seconds` are in seconds.
    """

    cache_n: int
    prompt_n: int
    prompt_ms: float
    prompt_per_token_ms: float
    prompt_per_second: float
    predicted_n: int
    predicted_ms: float
    predicted_per_token_ms: float
    predicted_per_second: float
    phases: dict[str, float]
    total_seconds: float

    @classmethod
    def of(cls, counts: TokenCounts, timings: Timings) -> TimingsBody:
        """Return what `timings` holds now."""
        phases = dict(timings.phases)
        prompt_n = counts.prompt_tokens - counts.cached_tokens
        prompt_ms = phases.get("prefill", 0.0) * 1000
        predicted_n = counts.completion_tokens
        predicted_ms = (phases.get("decode", 0.0) + phases.get("sampling", 0.0)) * 1000
        return cls(
            cache_n=counts.cached_tokens,
            prompt_n=prompt_n,
            prompt_ms=prompt_ms,
            prompt_per_token_ms=prompt_ms / prompt_n if prompt_n else 0.0,
            prompt_per_second=1000 * prompt_n / prompt_ms if prompt_ms else 0.0,
            predicted_n=predicted_n,
            predicted_ms=predicted_ms,
            predicted_per_token_ms=predicted_ms / predicted_n if predicted_n else 0.0,
            predicted_per_second=1000 * predicted_n / predicted_ms if predicted_ms else 0.0,
            phases=phases,
            total_seconds=timings.total_seconds,
        )


class TopLogprob(msgspec.Struct, frozen=True):
    """One alternative: its text, natural log probability, and bytes (text may be part of a character)."""

    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(msgspec.Struct, frozen=True):
    """A generated token and the most probable alternatives at its place."""

    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[TopLogprob]

    @classmethod
    def of(cls, entry: TokenLogprobs, vocab: Vocab) -> TokenLogprob:
        """Return the engine's entry with text in place of token ids."""
        text, data = _token_text(entry.token, vocab)
        top = []
        for token, logprob in entry.top:
            top_text, top_data = _token_text(token, vocab)
            top.append(TopLogprob(top_text, finite(logprob), top_data))
        return cls(text, finite(entry.logprob), data, top)


class ChatLogprobs(msgspec.Struct, frozen=True):
    """`logprobs` of a chat choice."""

    content: list[TokenLogprob]
    refusal: None = None


class CalledFunction(msgspec.Struct, frozen=True):
    """What a call calls; `arguments` is JSON in a string."""

    name: str
    arguments: str


class AnswerToolCall(msgspec.Struct, frozen=True):
    """A call that the model makes."""

    id: str
    type: str
    function: CalledFunction


class AssistantMessage(msgspec.Struct, frozen=True):
    """The answer. `content` is null if there are calls and nothing else."""

    role: str
    content: str | None
    reasoning_content: str | UnsetType = UNSET
    """What a reasoning model thought first; absent if it did not."""
    refusal: None = None
    tool_calls: list[AnswerToolCall] | UnsetType = UNSET


class FunctionDelta(msgspec.Struct, frozen=True, omit_defaults=True):
    """The next characters of a call's arguments, with the function's name at the beginning."""

    arguments: str
    name: str | None = None


class ToolCallDelta(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a chunk adds to the call at place `index`. The first has `id`, `type` and the function's name."""

    index: int
    id: str | None = None
    type: str | None = None
    function: FunctionDelta = msgspec.field(default_factory=lambda: FunctionDelta(""))


class Delta(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a chunk adds to a choice's message. Absent fields add nothing."""

    role: str | None = None
    content: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[ToolCallDelta] | None = None

    def __bool__(self) -> bool:
        return self != NOTHING

    @property
    def only_content(self) -> str | None:
        """The content, if that is all there is."""
        if self.role is None and self.reasoning_content is None and self.tool_calls is None:
            return self.content
        return None

    def parts(self) -> Iterable[Delta]:
        """Yield it as chunks have it: arguments of a call that begins here come in a chunk behind its beginning."""
        if not any(call.id and call.function.arguments for call in self.tool_calls or ()):
            yield self
            return
        calls = self.tool_calls or []
        begun = [ToolCallDelta(c.index, c.id, c.type, FunctionDelta("", c.function.name)) if c.id else c for c in calls]
        yield msgspec.structs.replace(self, tool_calls=begun)
        yield Delta(
            tool_calls=[
                ToolCallDelta(c.index, function=FunctionDelta(c.function.arguments))
                for c in calls
                if c.id and c.function.arguments
            ]
        )


NOTHING: Final = Delta()


class ChatChoice(msgspec.Struct, frozen=True):
    """One answer and why it ended."""

    index: int
    message: AssistantMessage
    logprobs: ChatLogprobs | None
    finish_reason: str


class ChatCompletion(msgspec.Struct, frozen=True):
    """The body of a chat completion that is not streamed."""

    id: str
    object: str
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    timings: TimingsBody
    citations: list[Citation] | msgspec.UnsetType = msgspec.UNSET


def _token_text(token: int, vocab: Vocab) -> tuple[str, list[int]]:
    data = vocab.token_bytes(token, special=True)
    return data.decode("utf-8", "replace"), list(data)


def finite(logprob: float) -> float:
    """JSON has no infinity; OpenAI writes -9999.0 for tokens that could not have been chosen."""
    return max(logprob, -9999.0)
