"""Puts tools and earlier calls into messages as a chat template can show them.

Templates that know tools get them as they are; for others, tools become a system text, calls and results become text
in the Hermes format. Knows message dictionaries; knows nothing of templates' insides.
"""

from __future__ import annotations

import json
from typing import Any

from server.structured.formats import HERMES, instructions

Message = dict[str, Any]


def with_parsed_arguments(messages: list[Message]) -> list[Message]:
    """Return `messages` with the arguments of calls as objects instead of JSON text, which most templates expect."""
    return [
        {**message, "tool_calls": [_parsed(call) for call in message["tool_calls"]]}
        if message.get("tool_calls")
        else message
        for message in messages
    ]


def as_text(messages: list[Message], tools: list[dict[str, Any]] | None) -> list[Message]:
    """Return `messages` without anything that a template must know of tools to show."""
    result: list[Message] = []
    for message in messages:
        if message["role"] == "tool":
            text = f"<tool_response>\n{message['content']}\n</tool_response>"
            if result and result[-1].get("tool_results"):
                result[-1]["content"] += "\n" + text
            else:
                result.append({"role": "user", "content": text, "tool_results": True})
        elif calls := message.get("tool_calls"):
            written = (HERMES.call(c["function"]["name"], c["function"]["arguments"]) for c in calls)
            text = "\n".join(HERMES.begin + call + HERMES.end for call in written)
            content = f"{message['content']}\n{text}" if message["content"] else text
            result.append({**message, "content": content, "tool_calls": None})
        else:
            result.append(message)
    return _with_system_text(result, instructions(tools)) if tools else result


def _with_system_text(messages: list[Message], text: str) -> list[Message]:
    first, *others = messages
    if first["role"] in ("system", "developer"):
        return [{**first, "content": f"{first['content']}\n\n{text}"}, *others]
    return [{"role": "system", "content": text}, *messages]


def _parsed(call: dict[str, Any]) -> dict[str, Any]:
    function = call["function"]
    try:
        arguments = json.loads(function["arguments"])
    except (ValueError, RecursionError):
        return call
    return {**call, "function": {**function, "arguments": arguments}} if isinstance(arguments, dict) else call
