"""POST /v1/chat/completions: messages in, the assistant's answer out, whole or as a stream of events."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Iterator

import msgspec
from werkzeug.wrappers import Response
from werkzeug.wsgi import ClosingIterator

from engine import EngineError, Piece, Request, clock
from server import sse
from server.answer import FAILED, Answer
from server.body import read_json
from server.errors import ApiError, ClientGoneError, internal
from server.exchange import Exchange
from server.refusals import from_engine
from server.routes import models
from server.schema.answer import (
    AssistantMessage,
    ChatChoice,
    ChatCompletion,
    ChatLogprobs,
    TimingsBody,
    TokenLogprob,
    Usage,
)
from server.schema.chat import ChatRequest
from server.service import Loaded, Service

log = logging.getLogger("server.chat")

_decoder = msgspec.json.Decoder(ChatRequest)


def create(service: Service, exchange: Exchange) -> Response:
    """Answer a chat completion request."""
    loaded = service.loaded()
    with exchange.timings.phase("parse"):
        body = read_json(exchange.request, _decoder, service.config.max_body_bytes)
        body.check()
        models.require(service, body.model)
    answer = Answer(service, loaded, exchange, _engine_request(service, loaded, exchange, body))
    completion_id = f"chatcmpl-{uuid.uuid4().hex}"
    created = int(time.time())
    try:
        if not body.stream:
            return _whole(answer, completion_id, created, service.model_names[0])
        pieces = iter(answer)
        first = next(pieces)
    except BaseException:
        answer.close()
        raise
    renderer = sse.ChunkRenderer(completion_id, created, service.model_names[0], include_usage=body.include_usage)
    exchange.status = 200
    events = _events(answer, first, pieces, renderer)
    return Response(
        ClosingIterator(events, [answer.close, exchange.finish]),
        headers=sse.HEADERS,
        content_type=sse.CONTENT_TYPE,
        direct_passthrough=True,
    )


def _engine_request(service: Service, loaded: Loaded, exchange: Exchange, body: ChatRequest) -> Request:
    """Return `body` as the engine's request; raises `ApiError`."""
    config, timings = service.config, exchange.timings
    prompt = loaded.prompts.chat(body.messages, body.chat_template_kwargs, timings)
    try:
        return Request(
            prompt=prompt,
            max_tokens=body.answer_limit or config.model_max_token,
            sampling=body.sampling(body.alternatives, loaded.vocab.n_tokens),
            stop=body.stops,
            ignore_eos=bool(body.ignore_eos),
            timeout=config.request_timeout or None,
            cache_prompt=body.cache_prompt is not False,
            timings=timings,
        )
    except EngineError as error:
        raise from_engine(error) or error from error


def _whole(answer: Answer, completion_id: str, created: int, model: str) -> Response:
    """Return the response that holds the complete answer."""
    texts: list[str] = []
    logprobs: list[TokenLogprob] = []
    finish_reason = ""
    for piece in answer:
        texts.append(piece.text)
        if piece.logprobs:
            logprobs.extend(TokenLogprob.of(entry, answer.vocab) for entry in piece.logprobs)
        finish_reason = piece.finish_reason or ""
    answer.close()
    wanted = answer.generation.request.sampling.logprobs is not None
    choice = ChatChoice(
        index=0,
        message=AssistantMessage("assistant", "".join(texts)),
        logprobs=ChatLogprobs(logprobs) if wanted else None,
        finish_reason=finish_reason,
    )
    return answer.exchange.json(
        ChatCompletion(
            id=completion_id,
            object="chat.completion",
            created=created,
            model=model,
            choices=[choice],
            usage=Usage.of(answer.generation),
            timings=TimingsBody.of(answer.generation),
        )
    )


def _events(answer: Answer, first: Piece, rest: Iterator[Piece], renderer: sse.ChunkRenderer) -> Iterator[bytes]:
    """Yield the events of a streamed answer, one for each piece of text.

    gunicorn writes each to the client before it asks for the next, so the time at a `yield` is the time of the write.
    """
    exchange, timings = answer.exchange, answer.exchange.timings

    def written(data: bytes) -> Iterator[bytes]:
        begin = clock()
        yield data
        timings.add("write", clock() - begin)

    try:
        yield from written(renderer.role())
        piece: Piece | None = first
        while piece is not None:
            if piece.text or piece.logprobs:
                yield from written(renderer.text(piece.text, _logprobs(answer, piece)))
            if piece.finish_reason:
                usage, figures = Usage.of(answer.generation), TimingsBody.of(answer.generation)
                yield from written(renderer.last(piece.finish_reason, usage, figures))
            piece = next(rest, None)
    except ClientGoneError:
        return
    except ApiError as error:
        yield sse.error_event(error.body)
    except Exception:
        log.exception("request %s failed while streaming", exchange.request_id)
        exchange.finish_reason = FAILED
        yield sse.error_event(internal(exchange.request_id).body)


def _logprobs(answer: Answer, piece: Piece) -> ChatLogprobs | None:
    if piece.logprobs is None:
        return None
    return ChatLogprobs([TokenLogprob.of(entry, answer.vocab) for entry in piece.logprobs])
