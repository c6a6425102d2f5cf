"""POST /v1/chat/completions: messages in, the assistant's answer out, whole or as a stream of events."""

from __future__ import annotations

import msgspec
from werkzeug.wrappers import Response

from server import generate, grounding, reply
from server.answer import Answer
from server.body import read_json
from server.chat_reply import ChatReply
from server.exchange import Exchange
from server.message import MessageReader
from server.prompt import Grounds, Tokens
from server.reasoning import ReasoningSplitter
from server.routes import models
from server.schema.chat import ChatRequest
from server.service import Service
from server.structured.plan import plan, shown_tools

_decoder = msgspec.json.Decoder(ChatRequest)


def create(service: Service, exchange: Exchange) -> Response:
    """Answer a chat completion request."""
    loaded = service.loaded()
    generate.check_room(loaded)
    with exchange.timings.phase("parse"):
        body = read_json(service, exchange, _decoder)
        body.check()
        models.require(service, body.model)
        generate.check_count(loaded, body, 1, "messages")
        tools = shown_tools(body.form)
    exchange.messages = body.messages

    def build(grounds: Grounds) -> Tokens:
        return loaded.prompts.chat(body.messages, body.template_variables, exchange.timings, tools, grounds)

    prompt, citations = grounding.prompt(
        service, loaded, exchange, body.messages, body.knowledge, body.answer_limit, build
    )
    thoughts = generate.opened_thoughts(loaded, prompt)
    structure = plan(loaded.engine.constraints, loaded.prompts.tool_format, body.form, thoughts)
    requests = generate.requests(
        service,
        loaded,
        exchange,
        body,
        [prompt],
        max_tokens=body.answer_limit,
        logprobs=body.alternatives,
        structure=structure,
    )
    answer = Answer(service, loaded, exchange, requests, body.choices)
    splits = body.reasoning_format != "none"
    readers = [MessageReader(ReasoningSplitter(thoughts) if splits else None, structure.reader()) for _ in requests]
    chat = ChatReply(answer, service.model_names[0], readers, include_usage=body.include_usage, citations=citations)
    return reply.send(answer, chat, stream=bool(body.stream))
