"""The request fields that say how tokens are chosen, shared by every route that generates.

Names, ranges and defaults are OpenAI's where OpenAI has them, llama-server's otherwise. Knows JSON and the engine's
`SamplingParams`; knows nothing of messages or prompts.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from engine import SamplingParams
from server.errors import ApiError, invalid

MAX_STOPS: Final = 16
MAX_STOP_CHARACTERS: Final = 1024

Share = Annotated[float, Meta(ge=0, le=1)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
Count = Annotated[int, Meta(ge=1, le=2**31 - 1)]
#: Text at which DRY takes repetitions to begin anew.
Breaker = Annotated[str, Meta(min_length=1, max_length=40, pattern="^[^\\x00]*$")]
Stop = Annotated[str, Meta(max_length=MAX_STOP_CHARACTERS)]


class StreamOptions(msgspec.Struct, frozen=True):
    """Options of a streamed response."""

    include_usage: bool | None = None


class SamplingFields(msgspec.Struct, kw_only=True, frozen=True):
    """What chat and text completions have in common. None means the default, as an absent field does."""

    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, Meta(ge=1, le=128)] | None = None
    max_tokens: Count | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    top_p: Share | None = None
    seed: int | None = None
    stop: Stop | Annotated[list[Stop], Meta(max_length=MAX_STOPS)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    logit_bias: dict[int, Annotated[float, Meta(ge=-100, le=100)]] | None = None
    # llama-server's extensions
    top_k: Annotated[int, Meta(ge=-1, le=2**31 - 1)] | None = None
    min_p: Share | None = None
    typical_p: Share | None = None
    top_n_sigma: Annotated[float, Meta(ge=-1, le=100)] | None = None
    repeat_penalty: Annotated[float, Meta(ge=0.01, le=100)] | None = None
    repeat_last_n: Annotated[int, Meta(ge=-1, le=2**20)] | None = None
    dry_multiplier: Annotated[float, Meta(ge=0, le=100)] | None = None
    dry_base: Annotated[float, Meta(ge=1, le=100)] | None = None
    dry_allowed_length: Annotated[int, Meta(ge=0, le=2**20)] | None = None
    dry_penalty_last_n: Annotated[int, Meta(ge=-1, le=2**20)] | None = None
    dry_sequence_breakers: Annotated[list[Breaker], Meta(max_length=MAX_STOPS)] | None = None
    xtc_probability: Share | None = None
    xtc_threshold: Share | None = None
    mirostat: Annotated[int, Meta(ge=0, le=2)] | None = None
    mirostat_tau: Annotated[float, Meta(ge=0, le=100)] | None = None
    mirostat_eta: Share | None = None
    grammar: str | None = None
    ignore_eos: bool | None = None
    cache_prompt: bool | None = None

    #: Accepted and ignored: they do not change the answer.
    user: Any = None

    def check(self) -> None:
        """Raise `ApiError` for combinations and features that are not supported."""
        if self.grammar:
            raise unsupported("grammar", "GBNF grammars are not supported")

    @property
    def choices(self) -> int:
        """How many answers to each prompt are wanted."""
        return self.n or 1

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop strings; empty ones stop nothing and are dropped."""
        stop = self.stop
        if stop is None:
            return ()
        return tuple(text for text in ([stop] if isinstance(stop, str) else stop) if text)

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with a chunk that carries `usage`."""
        return bool(self.stream_options and self.stream_options.include_usage)

    def sampling(self, logprobs: int | None, n_vocab: int) -> SamplingParams:
        """Return the engine's parameters; `logprobs` alternatives per token, or None. `n_vocab` bounds token ids.

        Raises `ApiError` for token ids that the model does not have, and `InvalidRequest` for what the engine refuses.
        """
        given = {name: value for name in _SAME_NAME if (value := getattr(self, name)) is not None}
        if given.get("top_k") == -1:
            given["top_k"] = 0
        if "dry_sequence_breakers" in given:
            given["dry_sequence_breakers"] = tuple(given["dry_sequence_breakers"])
        if "seed" in given:
            given["seed"] %= 2**32 - 1  # the largest 32-bit seed means "random" to llama.cpp
        bias = self.logit_bias or {}
        for token in bias:
            if not 0 <= token < n_vocab:
                raise invalid("logit_bias", f"{token} is not a token of this model, whose ids are 0 to {n_vocab - 1}")
        return SamplingParams(**given, logit_bias=tuple(bias.items()), logprobs=logprobs)


def unsupported(param: str, reason: str) -> ApiError:
    """Return the 400 for a feature that this server does not have."""
    return invalid(param, reason, "unsupported_value")


#: Fields whose name and meaning are those of `SamplingParams`.
_SAME_NAME = (frozenset(SamplingFields.__struct_fields__) - {"logit_bias", "grammar"}) & {
    f.name for f in fields(SamplingParams)
}
