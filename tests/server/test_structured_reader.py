"""Calls are found in an answer's text however it is cut into pieces, and no text is lost."""

from __future__ import annotations

import itertools
import json
import re

import pytest

from server.structured.formats import HERMES, LLAMA3, MISTRAL, MISTRAL_ARGS, ToolFormat, detect
from server.structured.reader import ToolCallReader

FORMATS = [HERMES, LLAMA3, MISTRAL, MISTRAL_ARGS]
ARGUMENTS = ['{"city": "Par}i\\"s{", "days": [1, {"a": []}]}', "{}"]


def read(form: ToolFormat, pieces: list[str]) -> tuple[str, list[tuple[str, str]]]:
    """The content and the calls (name, arguments) of a text."""
    reader = ToolCallReader(form, ["weather", "weather_at", "time"])
    content, calls = "", []
    for piece in pieces:
        text, deltas = reader.feed(piece)
        content += text
        assert len({delta.index for delta in deltas}) == len(deltas)
        for delta in deltas:
            if delta.id is not None:
                assert delta.type == "function" and delta.function.name is not None
                assert delta.index == len(calls)
                calls.append((delta.function.name, ""))
            name, arguments = calls[delta.index]
            calls[delta.index] = (name, arguments + delta.function.arguments)
    return content + reader.flush(), calls


def cuts(text: str) -> list[list[str]]:
    """`text` in one piece, in pieces of one to four characters, and in all ways of two pieces."""
    equal = [[text[at : at + n] for at in range(0, len(text), n)] for n in (1, 2, 3, 4)]
    return [[text], *equal, *([text[:at], text[at:]] for at in range(1, len(text)))]


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
@pytest.mark.parametrize("text", ["", "Let me see. < {\n"])
def test_calls_in_all_cuts(form: ToolFormat, text: str) -> None:
    calls = [("weather_at", ARGUMENTS[0]), ("time", ARGUMENTS[1]), ("weather", ARGUMENTS[0])]
    whole = text + form.begin + form.separator.join(itertools.starmap(form.call, calls)) + form.end
    for pieces in cuts(whole):
        assert read(form, pieces) == (text.rstrip(), calls)


def test_a_bare_call_of_llama() -> None:
    whole = LLAMA3.call("weather", ARGUMENTS[0]) + "; " + LLAMA3.call("time", "{}")
    for pieces in cuts(whole):
        assert read(LLAMA3, pieces) == ("", [("weather", ARGUMENTS[0]), ("time", "{}")])


TEXTS = [
    "",
    "Hello.\n\n  ",
    "a <tool_cal",
    "<tool_call>",
    "<tool_call>\n{",
    '<tool_call>\n{"name": "wea',
    '<tool_call>\n{"name": "other", "arguments": {}}\n</tool_call>',
    "<tool_call>nonsense</tool_call> and <tool_call> again",
    '[TOOL_CALLS][{"name": "ti',
    "[TOOL_CALLS] ",
    '{"name": "weather", "param',
    '{"name": "Bob"}',
    '{"answer": 3}',
    "<|python_tag|>print(1)",
    " {",
]


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
@pytest.mark.parametrize("text", TEXTS)
def test_what_is_no_call_is_content(form: ToolFormat, text: str) -> None:
    for pieces in cuts(text):
        assert read(form, pieces) == (text, [])


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
def test_an_answer_cut_by_the_token_limit(form: ToolFormat) -> None:
    """After every character: what has come is in the content or in a call."""
    whole = (
        "Hm." + form.begin + form.call("weather", ARGUMENTS[0]) + form.separator + form.call("time", "{}") + form.end
    )
    for length in range(len(whole) + 1):
        content, calls = read(form, list(whole[:length]))
        for name, arguments in calls:
            assert form.head(name) + arguments in whole[:length]
        if not calls:
            assert content == whole[:length]
        elif len(calls) == 1:
            rest = whole[whole.index(ARGUMENTS[0]) + len(calls[0][1]) : length]
            assert content.removeprefix("Hm.") in rest
            if calls[0][1] != ARGUMENTS[0]:
                assert (content, rest) == ("Hm.", "")
    assert calls[1] == ("time", "{}")


def test_ids() -> None:
    assert re.fullmatch("call_[a-zA-Z0-9]{24}", HERMES.new_id())
    assert re.fullmatch("[a-zA-Z0-9]{9}", MISTRAL.new_id())
    assert len({HERMES.new_id() for _ in range(100)}) == 100


@pytest.mark.parametrize(
    ("template", "form"),
    [
        ("{%- if tools %}{{ '<tool_call>\\n' }}{% endif %}", HERMES),
        ("{{ '[TOOL_CALLS]' + tool_calls|tojson }}", MISTRAL),
        ("{{ '[TOOL_CALLS]' + name + '[ARGS]' + arguments }}", MISTRAL_ARGS),
        ("{{ '<|python_tag|>' }}", LLAMA3),
        ("{{ '<|start_header_id|>' }}{{ '\"parameters\": ' }}", LLAMA3),
        ("{{ message.content }}", HERMES),
    ],
)
def test_the_format_is_read_off_the_template(template: str, form: ToolFormat) -> None:
    assert detect(template) is form


@pytest.mark.parametrize("form", [HERMES, LLAMA3, MISTRAL], ids=lambda form: form.name)
def test_a_call_is_json(form: ToolFormat) -> None:
    call = json.loads(form.call("time", ARGUMENTS[0]))
    assert call == {"name": "time", form.arguments_key: json.loads(ARGUMENTS[0])}
