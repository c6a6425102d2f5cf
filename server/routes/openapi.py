"""GET /openapi.json: the whole API as an OpenAPI 3.1 document.

Made from the table of routes and the structs that validate and encode, so it cannot say anything else than they do.
Knows JSON Schema and the table; knows nothing of what handlers do.
"""

from __future__ import annotations

import functools
import importlib.metadata
import inspect
import re
from typing import TYPE_CHECKING, Any, Final

import msgspec
from werkzeug.wrappers import Response

from server import routes
from server.errors import ErrorBody
from server.exchange import Exchange
from server.routes.health import HealthBody
from server.schema.knowledge import KnowledgeBody
from server.service import Service

if TYPE_CHECKING:
    from server.routes import Route

#: What each status of an error means, for all routes that can give it.
_ERRORS: Final = {
    "400": "The request is not valid; `param` names the parameter.",
    "401": "No API key, or none of the server's.",
    "404": "What the request names does not exist.",
    "405": "The path does not answer this method; Allow lists those that it does.",
    "408": "The request's body did not arrive in time.",
    "413": "The request's body is too large.",
    "415": "The request's body is not JSON.",
    "500": "The server failed; its log has more under the request id.",
    "503": "The server cannot answer now; Retry-After says when to try again.",
    "504": "The answer took longer than REQUEST_TIMEOUT.",
}

#: One event of a stream. OpenAPI 3.1 has no word for the items of a sequence (3.2: itemSchema); tools take it as such.
_EVENT: Final = {
    "type": "object",
    "description": "One server-sent event; its data is JSON, or [DONE].",
    "properties": {"event": {"type": "string"}, "data": {"type": "string"}},
    "required": ["data"],
}

#: A variable in a route's path: "<path:model>".
_VARIABLE: Final = re.compile(r"<(?:\w+:)?(\w+)>")


def show(service: Service, exchange: Exchange) -> Response:
    """Describe the API in OpenAPI's format."""
    keys = bool(service.config.api_keys or service.config.api_keys_file)
    exchange.status = 200
    return Response(_encoded(keys), content_type="application/json")


def document(table: tuple[Route, ...], *, keys_required: bool) -> dict[str, Any]:
    """Return the OpenAPI document for the routes of `table`. `keys_required`: those that are not open need a key."""
    structs = {struct for route in table for struct in (route.body, route.answer) if struct} | {ErrorBody}
    ordered = sorted(structs, key=lambda struct: (struct.__module__, struct.__name__))
    schemas, components = msgspec.json.schema_components(ordered, ref_template="#/components/schemas/{name}")
    references = dict(zip(ordered, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for route in table:
        path = _VARIABLE.sub(r"{\1}", route.path)
        paths.setdefault(path, {})[route.method.lower()] = _operation(route, references, keys_required)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Lucid LLM",
            "version": importlib.metadata.version("lucid-llm"),
            "description": "OpenAI's API over one GGUF model, with llama-server's extensions.",
        },
        "paths": paths,
        "components": {
            "schemas": components,
            "responses": {
                status: {"description": meaning, "content": {"application/json": {"schema": references[ErrorBody]}}}
                for status, meaning in _ERRORS.items()
            },
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
    }


@functools.cache
def _encoded(keys_required: bool) -> bytes:
    return msgspec.json.encode(document(routes.ROUTES, keys_required=keys_required))


def _operation(route: Route, references: dict[type[msgspec.Struct], Any], keys_required: bool) -> dict[str, Any]:
    """Return the description of one method of one path."""
    guarded = keys_required and not route.open
    content: dict[str, Any] = {route.media: {"schema": references[route.answer]} if route.answer else {}}
    if route.stream:
        content["text/event-stream"] = {"schema": _EVENT}
    variables = _VARIABLE.findall(route.path)
    statuses = ["401"] if guarded else []
    statuses += ["404"] if variables or route.body or route.answer is KnowledgeBody else []
    statuses += ["400", "408", "413", "415", "504"] if route.body else []
    responses: dict[str, Any] = {"200": {"description": "The answer.", "content": content}}
    for status in sorted([*statuses, "405", "500", "503"]):
        responses[status] = {"$ref": f"#/components/responses/{status}"}
    if route.answer is HealthBody:
        responses["503"] = {"description": "Why not.", "content": content}
    operation: dict[str, Any] = {
        "operationId": f"{route.handler.__module__.rpartition('.')[2]}_{route.handler.__name__}",
        "summary": (inspect.getdoc(route.handler) or "").partition("\n")[0],
        "responses": responses,
        "security": [{"key": []}] if guarded else [],
    }
    if variables:
        operation["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
            for name in variables
        ]
    if route.body:
        schema = {"application/json": {"schema": references[route.body]}}
        operation["requestBody"] = {"required": True, "content": schema}
    return operation
