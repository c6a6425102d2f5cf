"""Grammars for answers, in llguidance's Lark syntax.

JSON is written the one way in which json.dumps writes it: a space behind commas and colons, no other white space. With
free white space small models go on with line breaks until the token limit. Knows grammars; knows nothing of requests.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, Final

import llguidance

from server.structured.formats import ToolFormat
from server.structured.one_of import rewritten

#: Gives the token id of a text that is a special token of the model, None for other texts.
Special = Callable[[str], int | None]

#: llguidance's options for a schema.
_COMPACT: Final = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}

#: Any text at all.
_ANY: Final = "/(?s:.*)/"


def json_rule(schema: Any) -> str:
    """Return the right-hand side of a rule for JSON that validates against `schema`."""
    if schema is True:
        schema = {}
    if isinstance(schema, dict):
        schema = {**rewritten(schema), "x-guidance": _COMPACT}
    return f"%json {json.dumps(schema)}"


def regex_rule(regex: str) -> str:
    """Return the right-hand side of a rule for text that a regular expression (Rust's syntax) matches as a whole."""
    return f"/{llguidance.regex_to_lark(regex, 'dw')}/"


def answer(rule: str, special: Special, thoughts: str | None = None) -> str:
    """Return the grammar of answers that are what `rule`, a right-hand side, describes.

    `special` gives the token id of a text that is a special token, None for others. `thoughts` is the tag that ends
    the thoughts which the prompt has opened; the rule applies behind it.
    """
    return _behind_thoughts([f"answer: {rule}"], special, thoughts)


def tool_calls(
    form: ToolFormat,
    schemas: Mapping[str, Any],
    special: Special,
    *,
    required: bool,
    parallel: bool,
    otherwise: str | None = None,
    thoughts: str | None = None,
) -> str:
    """Return the grammar of answers that call tools.

    `schemas` are the schemas of the arguments by function name. `required`: the answer is calls and nothing else; if
    not, it may also be text, with or without calls behind it, or, if there is `otherwise`, what that right-hand side
    describes. `parallel`: more than one call may be made. `special` and `thoughts` are as for `answer`.
    """
    token = special(form.trigger)
    trigger = _text(form.trigger) if token is None else f"<[{token}]>"
    rest = f"{_text(form.begin[len(form.trigger) :])} calls"
    tail = _text(form.tail)
    bare = " | calls" if form.bare else ""
    tagged = f"{trigger} {rest}{bare}"
    separator = _with_token(form.separator, form.trigger, special)
    more = f"({separator} call)*" if parallel else ""
    rules = [
        f"calls: call {more} {_text(form.end)}",
        f"call: {' | '.join(f'call_{index}' for index in range(len(schemas)))}",
    ]
    for index, (name, schema) in enumerate(schemas.items()):
        rules.append(f"call_{index}: {_with_token(form.head(name), form.between, special)} arguments_{index} {tail}")
        rules.append(f"arguments_{index}: {json_rule(schema)}")
    if required:
        rules.append(f"answer: {tagged}")
    elif otherwise is not None:
        rules += [f"answer: otherwise | {tagged}", f"otherwise: {otherwise}"]
    else:
        limit = r' & ~/(?s:\{"name": .*)/' if form.bare else ""  # what begins like a call is one
        rules.append(f"TEXT: {_ANY}{limit}")
        if token is not None:
            rules.append(f"answer: TEXT | TEXT {tagged}")
        else:
            # A lazy lexeme is over as soon as it matches, so that text is no longer text once the trigger is there.
            until = f"/(?s:.*){llguidance.regex_to_lark(re.escape(form.trigger))}/{limit}"
            rules += [f"until_trigger[lazy]: {until}", f"answer: TEXT | until_trigger {rest}{bare}"]
    return _behind_thoughts(rules, special, thoughts)


def _behind_thoughts(rules: list[str], special: Special, closing: str | None) -> str:
    """Return the grammar of `rules`, whose rule `answer` applies behind thoughts that end in `closing`, if any."""
    if closing is None:
        return "\n".join(["start: answer", *rules])
    token = special(closing)
    if token is None:
        thoughts = [f"thoughts[lazy]: {_ANY} {_text(closing)}"]
    else:
        thoughts = [f"thoughts: THOUGHT <[{token}]>", f"THOUGHT: {_ANY}"]
    return "\n".join(["start: thoughts BREAK answer", *thoughts, r"BREAK: /\n{0,2}/", *rules])


def _with_token(text: str, marker: str, special: Special) -> str:
    """Return `text` as strings of the grammar, `marker` in it as its token if it is a special one."""
    token = special(marker) if marker and marker in text else None
    if token is None:
        return _text(text)
    before, _, behind = text.partition(marker)
    return f"{_text(before)} <[{token}]> {_text(behind)}"


def _text(text: str) -> str:
    """Return `text` as a string of the grammar; nothing for none."""
    return json.dumps(text) if text else ""
