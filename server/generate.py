"""From a validated body to the engine's requests: what every route that generates has in common.

Knows the shared request fields, the configuration's limits and the engine's `Request`; knows nothing of messages.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from engine import EngineError, Request, SamplingParams
from server.errors import context_length_exceeded, invalid
from server.exchange import Exchange
from server.prompt import Tokens
from server.reasoning import opened_by
from server.refusals import from_engine
from server.schema.sampling import SamplingFields
from server.service import Loaded, Service
from server.structured.plan import ANY_TEXT, Structure

#: Seeds run from 0 to below this: the largest 32-bit seed means "random" to llama.cpp.
SEEDS: Final = 2**32 - 1

#: So many of a prompt's last tokens show whether it ends in an opened tag.
TAIL: Final = 16


def check_count(loaded: Loaded, body: SamplingFields, prompts: int, param: str) -> None:
    """Refuse, before any work is done, more answers than this server can take ever, or now. Raises `ApiError`."""
    count, most = body.choices * prompts, loaded.engine.most_at_once
    if count > most:
        asked = "n" if prompts == 1 else param
        raise invalid(asked, f"{count} answers in one request; this server takes at most {most}", "unsupported_value")
    check_room(loaded, count)


def check_room(loaded: Loaded, count: int = 1) -> None:
    """Refuse `count` answers that this server cannot take now: one before its body is read. Raises `ApiError` (503)."""
    try:
        loaded.engine.check_room(count)
    except EngineError as error:
        raise from_engine(error) or error from error


def requests(
    service: Service,
    loaded: Loaded,
    exchange: Exchange,
    body: SamplingFields,
    prompts: Sequence[Tokens],
    *,
    max_tokens: int | None,
    logprobs: int | None,
    structure: Structure = ANY_TEXT,
    score_prompts: bool = False,
    param: str = "messages",
) -> list[Request]:
    """Return `body.choices` requests for each of `prompts`, next to each other.

    `max_tokens` is the longest answer (None: the configured default), `logprobs` the alternatives wanted for each
    token (None: no log probabilities), for those of the prompts too with `score_prompts`, `structure` the form that
    every answer must have. Choices differ in their seed. `param` is the field that the prompts come from. Raises
    `ApiError`.
    """
    config = service.config
    for prompt in prompts:
        if prompt.size >= loaded.engine.context_size:
            raise context_length_exceeded(str(prompt.size), loaded.engine.context_size - 1, param)
    try:
        sampling = body.sampling(logprobs, loaded.vocab.n_tokens)
        return [
            Request(
                prompt=prompt,
                max_tokens=config.model_max_token if max_tokens is None else max_tokens,
                sampling=_choice(sampling, index),
                stop=body.stops,
                ignore_eos=bool(body.ignore_eos),
                visible=loaded.tag_tokens | structure.visible,
                constraint=structure.constraint,
                timeout=config.request_timeout or None,
                cache_prompt=body.cache_prompt is not False,
                prompt_logprobs=logprobs if score_prompts else None,
                timings=exchange.timings,
            )
            for prompt in prompts
            for index in range(body.choices)
        ]
    except EngineError as error:
        raise from_engine(error) or error from error


def opened_thoughts(loaded: Loaded, prompt: Tokens) -> str | None:
    """Return the closing tag of the thoughts that the end of a chat `prompt` opens, if it does."""
    return opened_by(loaded.vocab.detokenize(prompt[-TAIL:], unparse_special=True))


def _choice(sampling: SamplingParams, index: int) -> SamplingParams:
    """Return the parameters of choice `index`: with a seed of its own where the request fixes one."""
    if index == 0 or sampling.seed is None:
        return sampling
    return replace(sampling, seed=(sampling.seed + index) % SEEDS)
