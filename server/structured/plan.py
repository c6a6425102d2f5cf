"""What one request asks of the form of its answer, worked out before anything is computed.

Compiles the grammar in the HTTP thread, so that a costly one delays nobody else. Knows the request's fields and the
model's format for calls; knows nothing of prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from engine import Constraint, Constraints, InvalidRequest
from server.errors import invalid, missing
from server.schema.tools import AnswerForm, FunctionDefinition, JsonSchema, ResponseFormat, ToolChoice
from server.structured import grammar
from server.structured.formats import ToolFormat
from server.structured.limits import check_size
from server.structured.reader import ToolCallReader

#: Most tools of a request; their schemas are bounded together too.
MAX_TOOLS: Final = 128

#: Longest regular expression, in characters.
MAX_REGEX: Final = 10_000

#: Arguments of a function without parameters.
_NO_ARGUMENTS: Final[dict[str, Any]] = {"type": "object", "properties": {}, "additionalProperties": False}


@dataclass(frozen=True, slots=True)
class Structure:
    """The form of an answer."""

    constraint: Constraint | None = None
    visible: frozenset[int] = frozenset()
    """Control tokens whose text the reader needs to see."""
    reader: Callable[[], ToolCallReader | None] = lambda: None
    """Makes the reader that finds calls in one choice's text; None where there can be none."""


#: No form at all.
ANY_TEXT: Final = Structure()


def plan(constraints: Constraints, calls: ToolFormat, form: AnswerForm, thoughts: str | None = None) -> Structure:
    """Return the form that a request asks for. Raises `ApiError` for what cannot be done, naming the parameter.

    `calls` is how the model writes calls. `thoughts` is the tag that ends the thoughts that the prompt has opened; the
    form applies behind it.
    """
    response_format, names = form.response_format, form.names
    rule = None if response_format is None else answer_rule(response_format, names.schema)
    functions = _functions(form)
    required, callable_ = _choose(form.choice, functions)
    if not callable_:
        if rule is None:
            return ANY_TEXT
        source = grammar.answer(rule, constraints.special, thoughts)
        return Structure(_compile(constraints, source, _param(response_format, names.schema)))
    schemas = {name: function.parameters or _NO_ARGUMENTS for name, function in callable_.items()}
    check_size(list(schemas.values()), "tools")
    for index, name in enumerate(functions):
        if name in schemas:
            param = f"tools[{index}]{names.function}.parameters"
            if schemas[name].get("type") != "object":
                raise invalid(param, "the schema of arguments needs the type 'object'")
            _compile(constraints, grammar.answer(grammar.json_rule(schemas[name]), constraints.special), param)
    source = grammar.tool_calls(
        calls,
        schemas,
        constraints.special,
        required=required,
        parallel=form.parallel,
        otherwise=rule,
        thoughts=thoughts,
    )
    markers = (constraints.special(text) for text in (calls.trigger, calls.between))
    return Structure(
        constraint=_compile(constraints, source, "tools"),
        visible=frozenset(token for token in markers if token is not None),
        reader=lambda: ToolCallReader(calls, schemas),
    )


def shown_tools(form: AnswerForm) -> list[dict[str, Any]] | None:
    """Return what the prompt says of tools; None where none may be called. Raises `ApiError` as `plan` does."""
    functions = _functions(form)
    _, callable_ = _choose(form.choice, functions)
    if not callable_:
        return None
    return [{"type": "function", "function": msgspec.to_builtins(function)} for function in functions.values()]


def answer_rule(response_format: ResponseFormat, schema_param: str) -> str | None:
    """Return the right-hand side of a grammar's rule for a `response_format`; None for plain text."""
    match response_format.type:
        case "text":
            return None
        case "json_object":
            return grammar.json_rule({"type": "object"})
        case "json_schema":
            return _schema_rule(response_format.json_schema, schema_param)
        case "regex":
            return _regex_rule(response_format.regex)
    raise invalid(
        "response_format.type",
        f"{response_format.type!r} is not supported; there are 'text', 'json_object', 'json_schema' and 'regex'",
        "unsupported_value",
    )


def _schema_rule(given: JsonSchema | None, param: str) -> str:
    if given is None or given.schema is None:
        raise missing("response_format.json_schema" if given is None else param)
    check_size(given.schema, param)
    return grammar.json_rule(given.schema)


def _regex_rule(regex: str | None) -> str:
    param = "response_format.regex"
    if regex is None:
        raise missing(param)
    if len(regex) > MAX_REGEX:
        raise invalid(param, f"the regular expression has more than {MAX_REGEX} characters")
    return grammar.regex_rule(regex)


def _functions(form: AnswerForm) -> dict[str, FunctionDefinition]:
    """Return the functions by name, in their order."""
    tools, place = form.tools or [], form.names.function
    if len(tools) > MAX_TOOLS:
        raise invalid("tools", f"there are {len(tools)} tools; at most {MAX_TOOLS} are supported")
    functions: dict[str, FunctionDefinition] = {}
    for index, tool in enumerate(tools):
        if tool.type != "function":
            raise invalid(
                f"tools[{index}].type", f"{tool.type!r} is not supported, only 'function'", "unsupported_value"
            )
        if tool.function is None:
            raise missing(f"tools[{index}]{place or '.name'}")
        if tool.function.name in functions:
            raise invalid(f"tools[{index}]{place}.name", f"there are two functions named {tool.function.name!r}")
        functions[tool.function.name] = tool.function
    return functions


def _choose(
    choice: str | ToolChoice | None, functions: Mapping[str, FunctionDefinition]
) -> tuple[bool, Mapping[str, FunctionDefinition]]:
    """Return whether a function must be called, and those that may be."""
    if choice is None or choice == "auto":
        return False, functions
    if choice == "none":
        return False, {}
    if not functions:
        raise invalid("tool_choice", "there are no tools to choose from")
    if isinstance(choice, str):  # required
        return True, functions
    if choice.type == "function" and choice.function is not None:
        return True, {name: functions[name] for name in _known([choice.function.name], functions)}
    if choice.type == "allowed_tools" and choice.allowed_tools is not None:
        allowed = [tool.function.name for tool in choice.allowed_tools.tools if tool.function is not None]
        chosen = set(_known(allowed, functions))
        required = choice.allowed_tools.mode == "required"
        if required and not chosen:
            raise invalid("tool_choice", "there are no tools to choose from")
        return required, {name: function for name, function in functions.items() if name in chosen}
    raise invalid("tool_choice", "an object is of the type 'function' and names one, or of the type 'allowed_tools'")


def _known(names: list[str], functions: Mapping[str, FunctionDefinition]) -> list[str]:
    for name in names:
        if name not in functions:
            raise invalid("tool_choice", f"there is no function named {name!r} among the tools")
    return names


def _param(response_format: ResponseFormat | None, schema_param: str) -> str:
    """Return what to name in an error about a `response_format`."""
    kind = None if response_format is None else response_format.type
    return {
        "json_schema": schema_param,
        "regex": "response_format.regex",
    }.get(kind or "", "response_format")


def _compile(constraints: Constraints, source: str, param: str) -> Constraint:
    try:
        return constraints.compile(source)
    except InvalidRequest as error:
        raise invalid(param, f"this is not supported: {error}", "unsupported_value") from error
