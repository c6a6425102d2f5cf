"""POST /v1/responses: OpenAI's Responses, without state: each request brings its whole conversation."""

from __future__ import annotations

import msgspec
from werkzeug.wrappers import Response

from server import generate, reply
from server.answer import Answer
from server.body import read_json
from server.exchange import Exchange
from server.message import MessageReader
from server.reasoning import ReasoningSplitter
from server.responses_reply import ResponsesReply
from server.routes import models
from server.schema.responses import NAMES, ResponsesRequest
from server.service import Service
from server.structured.plan import plan, shown_tools

_decoder = msgspec.json.Decoder(ResponsesRequest)


def create(service: Service, exchange: Exchange) -> Response:
    """Answer a Responses request."""
    loaded = service.loaded()
    generate.check_room(loaded)
    with exchange.timings.phase("parse"):
        body = read_json(service, exchange, _decoder)
        body.check()
        models.require(service, body.model)
        generate.check_count(loaded, body, 1, "input")
        messages = body.messages()
        tools = shown_tools(body.form)
    exchange.messages = messages
    with loaded.turns.take(exchange.body_bytes, exchange.timings):
        prompt = loaded.prompts.chat(messages, body.template_variables, exchange.timings, tools, param=NAMES.messages)
    thoughts = generate.opened_thoughts(loaded, prompt)
    structure = plan(loaded.engine.constraints, loaded.prompts.tool_format, body.form, thoughts)
    requests = generate.requests(
        service,
        loaded,
        exchange,
        body,
        [prompt],
        max_tokens=body.max_output_tokens,
        logprobs=None,
        structure=structure,
        param=NAMES.messages,
    )
    answer = Answer(service, loaded, exchange, requests)
    reader = MessageReader(ReasoningSplitter(thoughts), structure.reader())
    made = ResponsesReply(answer, body, service.model_names[0], reader)
    return reply.send(answer, made, stream=bool(body.stream))
