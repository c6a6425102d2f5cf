"""POST /v1/completions: raw prompts in, their continuations out. Evaluation harnesses score texts with it."""

from __future__ import annotations

import msgspec
import numpy as np
from werkzeug.wrappers import Response

from engine import Timings
from server import generate, reply
from server.answer import Answer
from server.body import read_json
from server.completion_reply import CompletionReply
from server.errors import invalid
from server.exchange import Exchange
from server.prompt import Tokens
from server.routes import models
from server.schema.chat import Message
from server.schema.completion import CompletionRequest
from server.service import Loaded, Service

_decoder = msgspec.json.Decoder(CompletionRequest)


def create(service: Service, exchange: Exchange) -> Response:
    """Answer a completion request."""
    loaded = service.loaded()
    generate.check_room(loaded)
    with exchange.timings.phase("parse"):
        body = read_json(service, exchange, _decoder)
        body.check()
        models.require(service, body.model)
    generate.check_count(loaded, body, len(body.prompts), "prompt")
    with loaded.turns.take(exchange.body_bytes, exchange.timings):
        prompts = [_tokens(loaded, prompt, exchange.timings) for prompt in body.prompts]
    requests = generate.requests(
        service,
        loaded,
        exchange,
        body,
        prompts,
        max_tokens=body.max_tokens,
        logprobs=body.logprobs,
        score_prompts=bool(body.echo and body.logprobs is not None),
        param="prompt",
    )
    if exchange.answered is not None:
        exchange.messages = [Message("user", _text(loaded, *pair)) for pair in zip(body.prompts, prompts, strict=True)]
    answer = Answer(service, loaded, exchange, requests, body.choices)
    completion = CompletionReply(answer, body, service.model_names[0])
    return reply.send(answer, completion, stream=bool(body.stream))


def _tokens(loaded: Loaded, prompt: str | list[int], timings: Timings) -> Tokens:
    """Return the ids of a prompt: of a text with BOS where the model wants it, of a list as they are."""
    if isinstance(prompt, str):
        tokens = loaded.prompts.completion(prompt, timings)
    else:
        if unknown := [token for token in prompt if token >= loaded.vocab.n_tokens]:
            last = loaded.vocab.n_tokens - 1
            raise invalid("prompt", f"{unknown[0]} is not a token of this model, whose ids are 0 to {last}")
        tokens = np.array(prompt, dtype=np.int32)
    if tokens.size == 0:
        raise invalid("prompt", "must hold at least one token")
    return tokens


def _text(loaded: Loaded, prompt: str | list[int], tokens: Tokens) -> str:
    """Return a prompt as text."""
    return prompt if isinstance(prompt, str) else loaded.vocab.detokenize(tokens, unparse_special=True)
