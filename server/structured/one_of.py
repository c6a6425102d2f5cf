"""Rewrites `oneOf` as `anyOf` where both mean the same, because llguidance has `oneOf` for few schemas only.

They do where a property tells the parts apart: every part is an object that requires it, with values that no other
part allows. Discriminated unions, as pydantic writes them, are such. Knows JSON schemas only.
"""

from __future__ import annotations

import json
from typing import Any


def rewritten(schema: Any) -> Any:
    """Return `schema` with such a `oneOf` replaced wherever it occurs. Other schemas are left for llguidance."""
    return _rewrite(schema, schema)


def _rewrite(value: Any, root: Any) -> Any:
    if isinstance(value, list):
        return [_rewrite(item, root) for item in value]
    if not isinstance(value, dict):
        return value
    result = {key: item if key in ("const", "enum") else _rewrite(item, root) for key, item in value.items()}
    parts = result.get("oneOf")
    if isinstance(parts, list) and "anyOf" not in result and _exclusive([_resolved(part, root) for part in parts]):
        result["anyOf"] = result.pop("oneOf")
    return result


def _exclusive(parts: list[Any]) -> bool:
    """Whether one property tells all the parts apart."""
    if not parts or not all(isinstance(part, dict) and part.get("type") == "object" for part in parts):
        return False
    return any(_tells_apart(name, parts) for name in _values_of(parts[0]))


def _tells_apart(name: str, parts: list[dict[str, Any]]) -> bool:
    seen: set[str] = set()
    for part in parts:
        values = _values_of(part).get(name)
        if values is None or values & seen:
            return False
        seen |= values
    return True


def _values_of(part: dict[str, Any]) -> dict[str, set[str]]:
    """Return the values, as JSON, of each property that is required and has a fixed set of them."""
    required, properties = part.get("required"), part.get("properties")
    if not isinstance(required, list) or not isinstance(properties, dict):
        return {}
    found = {}
    for name, schema in properties.items():
        if name in required and isinstance(schema, dict):
            values = [schema["const"]] if "const" in schema else schema.get("enum")
            # Numbers are left out: 1 and 1.0 are one value in two spellings.
            if isinstance(values, list) and all(isinstance(v, str | bool | None) for v in values):
                found[name] = {json.dumps(v) for v in values}
    return found


def _resolved(part: Any, root: Any) -> Any:
    """Follow a reference into `root`, a few times at most; what cannot be followed stays as it is."""
    for _ in range(8):
        reference = part.get("$ref") if isinstance(part, dict) else None
        if not isinstance(reference, str) or not reference.startswith("#/"):
            return part
        target = root
        for key in reference[2:].split("/"):
            key = key.replace("~1", "/").replace("~0", "~")
            if not isinstance(target, dict) or key not in target:
                return part
            target = target[key]
        part = target
    return part
