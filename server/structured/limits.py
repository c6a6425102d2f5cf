"""What a JSON schema of a request may be, before any work is done on it.

llguidance bounds its own work (see `engine.constraint`); these are the bounds of what would take it seconds to refuse.
OpenAI has such bounds too, and similar ones. Knows JSON only.
"""

from __future__ import annotations

from typing import Any, Final

from server.errors import invalid

#: Nested values of the schema itself, each object and list counted.
MAX_DEPTH: Final = 64
#: Properties of all objects together, and values of all enumerations.
MAX_PROPERTIES: Final = 1000
MAX_ENUM_VALUES: Final = 1000
#: Alternatives of one anyOf or oneOf, and parts of one allOf.
MAX_ALTERNATIVES: Final = 100
#: Objects, lists, strings and numbers of the schema.
MAX_VALUES: Final = 20_000
#: Characters of all strings together.
MAX_CHARACTERS: Final = 120_000


def check_size(schema: Any, param: str) -> None:
    """Raise `ApiError`, naming `param`, for a schema that is too large to be used."""
    properties = enum_values = values = characters = 0
    level = [schema]
    depth = 0
    while level:
        depth += 1
        inner: list[Any] = []
        for value in level:
            values += 1
            if isinstance(value, str):
                characters += len(value)
            elif isinstance(value, list):
                inner += value
            elif isinstance(value, dict):
                inner += value.values()
                characters += sum(map(len, value))
                properties += _size(value.get("properties"))
                enum_values += _size(value.get("enum"))
                for key in ("anyOf", "oneOf", "allOf"):
                    _bound(_size(value.get(key)), MAX_ALTERNATIVES, f"entries in one {key}", param)
        _bound(depth, MAX_DEPTH, "levels", param)
        _bound(values, MAX_VALUES, "values", param)
        _bound(characters, MAX_CHARACTERS, "characters", param)
        _bound(properties, MAX_PROPERTIES, "properties", param)
        _bound(enum_values, MAX_ENUM_VALUES, "enum values", param)
        level = inner


def _size(value: Any) -> int:
    return len(value) if isinstance(value, (dict, list)) else 0


def _bound(count: int, most: int, what: str, param: str) -> None:
    if count > most:
        raise invalid(param, f"the schema has more than {most} {what}", code="schema_too_large")
