"""The fields of a chat request that say what form the answer has: `tools`, `tool_choice`, `response_format`.

Knows OpenAI's JSON of them, and what other routes call the same; what they mean is `server.structured.plan`'s business.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, NamedTuple

import msgspec
from msgspec import Meta

#: OpenAI's rule for the names of functions.
FunctionName = Annotated[str, Meta(pattern="^[a-zA-Z0-9_-]{1,64}$")]


class FunctionDefinition(msgspec.Struct, frozen=True, omit_defaults=True):
    """A function that the model may call. `parameters` is a JSON schema; without one it takes no arguments."""

    name: FunctionName
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(msgspec.Struct, frozen=True):
    """A tool; `function` is the only type supported."""

    type: str
    function: FunctionDefinition | None = None


class NamedFunction(msgspec.Struct, frozen=True):
    """A function, by its name."""

    name: str


class ToolReference(msgspec.Struct, frozen=True):
    """One of the request's tools."""

    type: str
    function: NamedFunction | None = None


class AllowedTools(msgspec.Struct, frozen=True):
    """Those of the request's tools that may be called now."""

    mode: Literal["auto", "required"]
    tools: list[ToolReference]


class ToolChoice(msgspec.Struct, frozen=True):
    """A choice that names functions: `type` is "function" or "allowed_tools"."""

    type: str
    function: NamedFunction | None = None
    allowed_tools: AllowedTools | None = None


class JsonSchema(msgspec.Struct, frozen=True):
    """The schema of an answer. Names, descriptions and `strict` make no difference: it is always followed."""

    name: str | None = None
    description: str | None = None
    schema: dict[str, Any] | bool | None = None
    strict: bool | None = None


class ResponseFormat(msgspec.Struct, frozen=True):
    """The form that the answer must have. `regex` goes with the type of that name, which OpenAI has not."""

    type: str
    json_schema: JsonSchema | None = None
    regex: str | None = None


class FieldNames(NamedTuple):
    """What a route calls the fields that errors name. The defaults are chat's."""

    messages: str = "messages"
    schema: str = "response_format.json_schema.schema"
    function: str = ".function"
    """Where in a tool its function's fields are; empty if they are the tool's own."""


class AnswerForm(NamedTuple):
    """All that a request says of the form of its answer, as chat has it."""

    tools: list[Tool] | None = None
    choice: str | ToolChoice | None = None
    parallel: bool = True
    """Whether more than one call may be made."""
    response_format: ResponseFormat | None = None
    names: FieldNames = FieldNames()
