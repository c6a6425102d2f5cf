"""POST /v1/embeddings: texts or token ids in, their vectors out, as OpenAI has it."""

from __future__ import annotations

import base64
import socket
from typing import Final

import msgspec
import numpy as np
from werkzeug.wrappers import Response

from knowledge.embedder import Embedder
from llama_native.arrays import Floats, Tokens
from server.body import read_json
from server.errors import SERVER_ERROR, ApiError, ClientGoneError, invalid
from server.exchange import Exchange
from server.routes import models
from server.routes.tokens import check_length, check_token
from server.schema.embeddings import Embedding, EmbeddingsBody, EmbeddingsRequest, EmbeddingsUsage
from server.service import Service

#: Inputs that are embedded before it is asked again whether the client is still there.
SLICE: Final = 32

_decoder = msgspec.json.Decoder(EmbeddingsRequest)


def create(service: Service, exchange: Exchange) -> Response:
    """Embed texts or token ids."""
    embedder = _embedder(service)
    with exchange.timings.phase("parse"):
        body = read_json(service, exchange, _decoder)
        models.require_embedding(service, body.model)
        if body.dimensions not in (None, embedder.dimensions):
            raise invalid("dimensions", f"this model's vectors have {embedder.dimensions} dimensions, no fewer or more")
    with service.loaded().turns.take(exchange.body_bytes, exchange.timings), exchange.timings.phase("tokenize"):
        inputs = [_tokens(item, index, embedder) for index, item in enumerate(body.inputs)]
    exchange.prompt_tokens = count = sum(map(len, inputs))
    service.take_slot()
    try:
        with exchange.timings.phase("embed"):
            vectors = _embed(service, exchange, embedder, inputs)
    finally:
        service.slots.give_back()
    service.vitals.answered = True
    as_base64 = body.encoding_format == "base64"
    data = [Embedding(index=i, embedding=_base64(v) if as_base64 else v.tolist()) for i, v in enumerate(vectors)]
    return exchange.json(
        EmbeddingsBody(data=data, model=service.embedding_names[0], usage=EmbeddingsUsage(count, count))
    )


def _embedder(service: Service) -> Embedder:
    """Return the embedding model; raises a 404 that names EMBEDDING_MODEL if there is none."""
    embedder = service.loaded().embedder
    if embedder is None:
        path = str(service.config.embedding_model)
        raise ApiError(
            404,
            f"This server has no embedding model: EMBEDDING_MODEL={path!r} does not exist.",
            param="model",
            code="model_not_found",
        )
    return embedder


def _tokens(item: str | list[int], index: int, embedder: Embedder) -> Tokens:
    """Return the tokens of input `index`. Raises a 400 if it is empty, too long, or has tokens that are none."""
    place = f"input[{index}]"
    if not item:
        raise invalid("input", f"input {index} is empty")
    if isinstance(item, str):
        check_length(item, place)
        tokens = embedder.tokenize(item)
    else:
        for at, token in enumerate(item):
            check_token(token, embedder.vocab, f"{place}[{at}]")
        tokens = np.array(item, np.int32)
    if len(tokens) > embedder.max_tokens:
        raise invalid(
            place,
            f"the embedding model takes at most {embedder.max_tokens} tokens, but this input has {len(tokens)}",
            "context_length_exceeded",
        )
    return tokens


def _embed(service: Service, exchange: Exchange, embedder: Embedder, inputs: list[Tokens]) -> Floats:
    """Return the vectors, (len(inputs), dimensions), unless the client goes away or the time is up before that."""
    gone = False

    def on_gone() -> None:
        nonlocal gone
        gone = True

    sock: socket.socket = exchange.request.environ["gunicorn.socket"]
    watch = service.watcher.watch(sock, on_gone)
    limit = service.config.request_timeout
    parts = []
    # Inputs of similar length share decodes best, so slices are made in order of length.
    order = sorted(range(len(inputs)), key=lambda i: len(inputs[i]))
    try:
        for start in range(0, len(inputs), SLICE):
            if gone:
                raise ClientGoneError
            service.loaded()
            if limit and exchange.timings.total_seconds > limit:
                raise ApiError(
                    504, f"Time is up: {limit:g} seconds have passed.", kind=SERVER_ERROR, code="request_timeout"
                )
            parts.append(embedder.embed([inputs[i] for i in order[start : start + SLICE]]))
    finally:
        service.watcher.unwatch(watch)
    vectors = np.empty((len(inputs), embedder.dimensions), np.float32)
    vectors[order] = np.concatenate(parts)
    return vectors


def _base64(vector: Floats) -> str:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()
