"""The grammars of answers, on the demo model's vocabulary: what they take, and what they do not."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from engine import Constraint, Constraints
from llama_native import Model
from server.schema.tools import AnswerForm, Tool
from server.structured import grammar
from server.structured.formats import HERMES, LLAMA3, MISTRAL, MISTRAL_ARGS, ToolFormat
from server.structured.one_of import rewritten
from server.structured.plan import plan

FORMATS = [HERMES, LLAMA3, MISTRAL, MISTRAL_ARGS]
TOOLS = msgspec.convert(
    [
        {
            "type": "function",
            "function": {
                "name": "weather",
                "parameters": {
                    "type": "object",
                    "properties": {"city": {"type": "string"}},
                    "required": ["city"],
                    "additionalProperties": False,
                },
            },
        },
        {"type": "function", "function": {"name": "time"}},
    ],
    list[Tool],
)
PARIS = '{"city": "Paris"}'


@pytest.fixture(scope="module")
def constraints(vocab_model: Model) -> Constraints:
    return Constraints(vocab_model.vocab)


def takes(constraint: Constraint | None, model: Model, text: str) -> str:
    """What the grammar says of a text: "no", "begin" of what it takes, "yes", or "end" if nothing can follow."""
    assert constraint is not None
    state = constraint.start()
    for token in model.vocab.tokenize(text, parse_special=True).tolist():
        if state.complete:
            return "no"
        state.accept(token)
        if state.failure is not None:
            return "no"
    return "end" if state.complete else "yes" if state._matcher.is_accepting() else "begin"


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
def test_calls_beside_text(constraints: Constraints, vocab_model: Model, form: ToolFormat) -> None:
    structure = plan(constraints, form, AnswerForm(TOOLS, "auto"))
    call, other = form.call("weather", PARIS), form.call("time", "{}")
    more = "end" if form is MISTRAL else "yes"
    expected = {
        "Hello { \n<": "yes",
        "": "yes",
        f"Hi {form.begin}{call}{form.end}": more,
        f"{form.begin}{call}{form.separator}{other}{form.end}": more,
        f"{form.begin}{call}{form.separator}": "begin",
        f"{form.begin}{form.call('weather', '{}')}": "no",
        f"{form.begin}{form.call('wind', '{}')}": "no",
        f"text\n\n{form.begin}x": "no",
        "<|im_start|>": "no",
        call: "yes",
    }
    found = {text: takes(structure.constraint, vocab_model, text) for text in expected}
    assert found == expected


def test_what_begins_like_a_bare_call_is_one(constraints: Constraints, vocab_model: Model) -> None:
    structure = plan(constraints, LLAMA3, AnswerForm(TOOLS))
    assert takes(structure.constraint, vocab_model, '{"name": "Bob"}') == "no"
    assert takes(structure.constraint, vocab_model, '{"name": "weather", "parameters": ') == "begin"
    assert takes(structure.constraint, vocab_model, '{"names": []}') == "yes"
    assert takes(structure.constraint, vocab_model, "{") == "yes"


@pytest.mark.parametrize("form", FORMATS, ids=lambda form: form.name)
@pytest.mark.parametrize("parallel", [True, False])
def test_required_calls(constraints: Constraints, vocab_model: Model, form: ToolFormat, parallel: bool) -> None:
    structure = plan(constraints, form, AnswerForm(TOOLS, "required", parallel))
    call = form.begin + form.call("weather", PARIS)
    assert takes(structure.constraint, vocab_model, "Hello") == "no"
    assert takes(structure.constraint, vocab_model, "") == "begin"
    assert takes(structure.constraint, vocab_model, call + form.end) == (
        "yes" if parallel and form is not MISTRAL else "end"
    )
    second = call + form.separator + form.call("time", "{}") + form.end
    assert takes(structure.constraint, vocab_model, second) == (
        "no" if not parallel else "end" if form is MISTRAL else "yes"
    )


def test_control_tokens_around_the_name(constraints: Constraints, vocab_model: Model) -> None:
    """As [TOOL_CALLS] and [ARGS] are in the vocabularies of their models; here others stand for them."""
    form = ToolFormat("test", "<|im_start|>", "<|im_start|>", "<|im_start|>", "", between="<file_sep>")
    tokens = [constraints.special(text) for text in (form.trigger, form.between)]
    assert None not in tokens
    structure = plan(constraints, form, AnswerForm(TOOLS, "auto"))
    assert structure.visible == set(tokens)
    call = form.begin + form.call("weather", PARIS)
    for text, answer in {
        f"Hi {call}": "yes",
        f"{call}{form.begin}{form.call('time', '{}')}": "yes",
        "<|im_start|>weather<file_sep>": "begin",
        "<|im_start|>weather{": "no",
        "Hi <file_sep>": "no",
    }.items():
        assert takes(structure.constraint, vocab_model, text) == answer, text


def test_a_trigger_that_is_a_control_token(constraints: Constraints, vocab_model: Model) -> None:
    """As <|python_tag|> and [TOOL_CALLS] are in the vocabularies of their models; here another one stands for them."""
    form = ToolFormat("test", "<|im_start|>", "<|im_start|>", "; ", "", "parameters", bare=True)
    structure = plan(constraints, form, AnswerForm(TOOLS, "auto"))
    assert structure.visible == {1}
    call = form.call("weather", PARIS)
    for text, answer in {f"Hi <|im_start|>{call}": "yes", call: "yes", "<|im_start|>x": "no", "Hi": "yes"}.items():
        assert takes(structure.constraint, vocab_model, text) == answer


def test_behind_thoughts(constraints: Constraints, vocab_model: Model) -> None:
    for closing in ("</think>", "<|im_start|>"):  # text and a control token
        source = grammar.answer(grammar.json_rule({"type": "object"}), constraints.special, closing)
        constraint = constraints.compile(source)
        assert takes(constraint, vocab_model, f'hm <x {closing}\n\n{{"a": 1}}') == "end"
        assert takes(constraint, vocab_model, f"{closing}{{}}") == "end"
        assert takes(constraint, vocab_model, f"a{closing}b") == "no"
        assert takes(constraint, vocab_model, "hm") == "begin"


@pytest.mark.parametrize("value", [{"a": [1, 2.5, None], "b": {"c": "x\ny"}}, {}, {"é": "🦜"}], ids=str)
def test_json_as_json_dumps_writes_it(constraints: Constraints, vocab_model: Model, value: Any) -> None:
    constraint = constraints.compile(grammar.answer(grammar.json_rule({"type": "object"}), constraints.special))
    assert takes(constraint, vocab_model, json.dumps(value, ensure_ascii=False)) == "end"
    if value:
        assert takes(constraint, vocab_model, json.dumps(value, indent=2)) == "no"
        assert takes(constraint, vocab_model, json.dumps(value, separators=(",", ":"))) == "no"


def kinds(*values: Any, **more: Any) -> dict[str, Any]:
    parts = [{"type": "object", "properties": {"k": value}, "required": ["k"], **more} for value in values]
    return {"oneOf": parts}


@pytest.mark.parametrize(
    ("schema", "same"),
    [
        (kinds({"const": "a"}, {"const": "b"}), True),
        (kinds({"const": "a"}, {"enum": ["b", None, True]}), True),
        (kinds({"const": "a"}, {"enum": ["b", "a"]}), False),
        (kinds({"const": 1}, {"const": 1.0}), False),
        (kinds({"const": "a"}, {"const": "b"}, required=[]), False),
        (kinds({"const": "a"}, {"type": "string"}), False),
        ({"oneOf": [{"type": "number"}, {"type": "integer"}]}, False),
        ({"oneOf": []}, False),
        ({"oneOf": {}}, False),
        ({"oneOf": [{"$ref": "#/$defs/a"}], "$defs": {"a": {"$ref": "#/$defs/a"}}}, False),
    ],
    ids=str,
)
def test_one_of_means_any_of_where_a_property_tells_the_parts_apart(schema: Any, same: bool) -> None:
    inside = {"type": "array", "items": schema}
    expected = {**schema, "anyOf": schema["oneOf"]} if same else dict(schema)
    if same:
        del expected["oneOf"]
    if "$defs" in schema:
        assert rewritten(schema) == expected
    else:
        assert rewritten(inside) == {"type": "array", "items": expected}
    assert rewritten({"const": schema}) == {"const": schema}
