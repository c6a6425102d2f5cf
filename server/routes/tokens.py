"""POST /tokenize, /detokenize and /apply-template, as llama-server has them: the steps around a generation, alone."""

from __future__ import annotations

from typing import Final

import msgspec
from werkzeug.wrappers import Response

from llama_native import Vocab
from server.body import read_json
from server.errors import invalid
from server.exchange import Exchange
from server.routes import models
from server.schema.tokens import (
    ApplyTemplateBody,
    ApplyTemplateRequest,
    DetokenizeBody,
    DetokenizeRequest,
    TokenizeBody,
    TokenizeRequest,
    TokenPiece,
)
from server.service import Service

#: Longest text that is tokenized, in bytes of UTF-8. A megabyte takes seconds.
MAX_TEXT_BYTES: Final = 2**20

_tokenize = msgspec.json.Decoder(TokenizeRequest)
_detokenize = msgspec.json.Decoder(DetokenizeRequest)
_apply_template = msgspec.json.Decoder(ApplyTemplateRequest)


def tokenize(service: Service, exchange: Exchange) -> Response:
    """Turn text into the model's tokens."""
    loaded = service.loaded()
    vocab = loaded.vocab
    with exchange.timings.phase("parse"):
        body = read_json(service, exchange, _tokenize)
    parts = [body.content] if isinstance(body.content, str) else body.content
    with loaded.turns.take(exchange.body_bytes, exchange.timings), exchange.timings.phase("tokenize"):
        tokens = _tokens(
            parts, vocab, add_special=bool(body.add_special), parse_special=body.parse_special is not False
        )
        if not body.with_pieces:
            return exchange.json(TokenizeBody(list(tokens)))
        pieces: list[int | TokenPiece] = [TokenPiece(token, _piece(vocab.token_bytes(token, True))) for token in tokens]
        return exchange.json(TokenizeBody(pieces))


def detokenize(service: Service, exchange: Exchange) -> Response:
    """Turn the model's tokens into text."""
    loaded = service.loaded()
    vocab = loaded.vocab
    with exchange.timings.phase("parse"):
        body = read_json(service, exchange, _detokenize)
    with loaded.turns.take(exchange.body_bytes, exchange.timings), exchange.timings.phase("detokenize"):
        for index, token in enumerate(body.tokens):
            check_token(token, vocab, f"tokens[{index}]")
        content = b"".join(vocab.token_bytes(token, True) for token in body.tokens)
    return exchange.json(DetokenizeBody(content.decode("utf-8", "replace")))


def apply_template(service: Service, exchange: Exchange) -> Response:
    """Write a conversation as the prompt that the model would get."""
    loaded = service.loaded()
    with exchange.timings.phase("parse"):
        body = read_json(service, exchange, _apply_template)
        models.require(service, body.model)
    with loaded.turns.take(exchange.body_bytes, exchange.timings), exchange.timings.phase("template"):
        prompt = loaded.prompts.text(body.messages, body.chat_template_kwargs)
    return exchange.json(ApplyTemplateBody(prompt))


def check_token(token: int, vocab: Vocab, place: str) -> None:
    """Raise a 400 that names parameter `place` if `vocab` has no such token."""
    if not 0 <= token < vocab.n_tokens:
        raise invalid(place, f"{token} is not a token of this model, whose ids are 0 to {vocab.n_tokens - 1}")


def check_length(text: str, place: str) -> None:
    """Raise a 400 that names parameter `place` if `text` is longer than what is tokenized."""
    size = len(text.encode())
    if size > MAX_TEXT_BYTES:
        raise invalid(place, f"the text has {size} bytes; at most {MAX_TEXT_BYTES} are tokenized at once")


def _tokens(parts: list[str] | list[str | int], vocab: Vocab, *, add_special: bool, parse_special: bool) -> list[int]:
    """Return the tokens of `parts`: texts, and token ids as they are. Special tokens are added to a first text."""
    check_length("".join(part for part in parts if isinstance(part, str)), "content")
    tokens: list[int] = []
    for index, part in enumerate(parts):
        if isinstance(part, str):
            special = add_special and index == 0
            tokens += vocab.tokenize(part, add_special=special, parse_special=parse_special).tolist()
        else:
            check_token(part, vocab, f"content[{index}]")
            tokens.append(part)
    return tokens


def _piece(data: bytes) -> str | list[int]:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return list(data)
