"""response_format on the real server: answers always parse and validate, or say that the token limit cut them."""

from __future__ import annotations

import json
import re
from typing import Any

import jsonschema
import openai
import pydantic
import pytest
from server_process import ServerProcess

NAME = {"type": "string", "maxLength": 24}

#: Schemas whose answers are bounded, so that they end within the token limit.
SCHEMAS: dict[str, dict[str, Any]] = {
    "flat": {
        "type": "object",
        "properties": {
            "name": NAME,
            "born": {"type": "integer", "minimum": 0, "maximum": 2100},
            "alive": {"type": "boolean"},
        },
        "required": ["name", "born", "alive"],
        "additionalProperties": False,
    },
    "optional": {
        "type": "object",
        "properties": {"a": NAME, "b": {"type": ["integer", "null"], "maximum": 99, "minimum": 0}, "c": {"const": "x"}},
        "additionalProperties": False,
    },
    "nested": {
        "type": "object",
        "properties": {
            "people": {"type": "array", "items": {"$ref": "#/$defs/person"}, "minItems": 1, "maxItems": 2},
            "pair": {"type": "array", "prefixItems": [NAME, {"type": "boolean"}], "items": False, "minItems": 2},
        },
        "required": ["people", "pair"],
        "additionalProperties": False,
        "$defs": {
            "person": {
                "type": "object",
                "properties": {"name": NAME, "role": {"enum": ["author", "printer", None, 3]}},
                "required": ["name", "role"],
                "additionalProperties": False,
            }
        },
    },
    "alternatives": {
        "anyOf": [
            {
                "type": "object",
                "properties": {"kind": {"const": "a"}, "n": {"type": "integer", "minimum": 1, "maximum": 9}},
                "required": ["kind", "n"],
                "additionalProperties": False,
            },
            {"type": "array", "items": {"enum": ["red", "green"]}, "maxItems": 3},
            {"type": "null"},
        ]
    },
    "strings": {
        "type": "object",
        "properties": {
            "code": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{1,4}$"},
            "day": {"type": "string", "format": "date"},
            "short": {"type": "string", "minLength": 2, "maxLength": 5},
        },
        "required": ["code", "day", "short"],
        "additionalProperties": False,
    },
    "numbers": {
        "type": "object",
        "properties": {
            "share": {"type": "number", "minimum": 0, "maximum": 1},
            "even": {"type": "integer", "multipleOf": 2, "minimum": 0, "maximum": 1000},
            "big": {"type": "integer", "exclusiveMinimum": 10, "maximum": 12345},
        },
        "required": ["even", "big"],
        "additionalProperties": False,
    },
    "all of": {
        "allOf": [
            {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"]},
            {"properties": {"b": {"type": "boolean"}}, "required": ["b"]},
        ],
        "additionalProperties": False,
        "properties": {"a": True, "b": True},
    },
    "a union told apart by a property": {
        "oneOf": [{"$ref": "#/$defs/cat"}, {"$ref": "#/$defs/dog"}],
        "discriminator": {"propertyName": "kind"},
        "$defs": {
            "cat": {
                "type": "object",
                "properties": {"kind": {"const": "cat"}, "lives": {"type": "integer", "minimum": 1, "maximum": 9}},
                "required": ["kind", "lives"],
            },
            "dog": {
                "type": "object",
                "properties": {"kind": {"enum": ["dog", "puppy"]}, "name": NAME},
                "required": ["kind", "name"],
                "additionalProperties": False,
            },
        },
    },
    "unicode": {"enum": ["größer", "日本", 'quo"te\\', "\n", "🦜"]},
    "recursive": {
        "type": "object",
        "properties": {
            "value": {"type": "integer", "minimum": 0, "maximum": 9},
            "next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]},
        },
        "required": ["value", "next"],
        "additionalProperties": False,
    },
}

PROMPTS = [
    "Who was Albert Einstein?",
    "Write a poem about rivers, with many line breaks.",
    "Antworte mit 🦜🦜🦜 und \\n.",
]


def schema_format(schema: Any, **fields: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema, **fields}}


@pytest.mark.parametrize("name", SCHEMAS)
def test_answers_validate(server: ServerProcess, name: str) -> None:
    schema = SCHEMAS[name]
    stops = 0
    for number, prompt in enumerate(PROMPTS):
        body = server.chat(
            prompt, response_format=schema_format(schema, strict=number == 0), max_tokens=100, n=2,
            temperature=number, seed=number, top_k=0, min_p=0, top_p=1,
        ).json  # fmt: skip
        for choice in body["choices"]:
            text = choice["message"]["content"]
            if choice["finish_reason"] == "length":
                with pytest.raises(json.JSONDecodeError):
                    json.loads(text)
                continue
            assert choice["finish_reason"] == "stop"
            stops += 1
            jsonschema.validate(json.loads(text), schema, jsonschema.Draft202012Validator)
            assert "\n" not in text
    assert stops >= 2  # else hardly anything was validated


def test_json_object(server: ServerProcess) -> None:
    for seed in range(4):
        answer = server.chat(
            "Describe Einstein in JSON.", response_format={"type": "json_object"}, max_tokens=120, seed=seed,
            temperature=0.9,
        )  # fmt: skip
        choice = answer.json["choices"][0]
        assert choice["message"]["content"].startswith("{")
        if choice["finish_reason"] == "stop":
            assert isinstance(json.loads(choice["message"]["content"]), dict)


def test_a_regular_expression(server: ServerProcess) -> None:
    pattern = r"(yes|no), [a-z]{3,9}/\d{4}\."
    for seed in range(3):
        answer = server.chat("Well?", response_format={"type": "regex", "regex": pattern}, seed=seed, temperature=1)
        assert re.fullmatch(pattern, answer.json["choices"][0]["message"]["content"])


def test_the_token_limit(server: ServerProcess) -> None:
    answer = server.chat("Hi", response_format=schema_format(SCHEMAS["flat"]), max_tokens=5).json["choices"][0]
    assert answer["finish_reason"] == "length"
    assert answer["message"]["content"].startswith('{"name": "')


def test_streamed_and_whole_are_the_same(server: ServerProcess) -> None:
    fields: dict[str, Any] = {"response_format": schema_format(SCHEMAS["flat"]), "max_tokens": 100}
    whole = server.chat(PROMPTS[0], **fields).json["choices"][0]
    events = server.chat(PROMPTS[0], stream=True, **fields).events[:-1]
    text = "".join(event["choices"][0]["delta"].get("content", "") for event in events)
    assert text == whole["message"]["content"]
    assert events[-1]["choices"][0]["finish_reason"] == whole["finish_reason"] == "stop"


def test_with_log_probabilities_penalties_and_a_bias(server: ServerProcess) -> None:
    choice = server.chat(
        PROMPTS[0], response_format=schema_format(SCHEMAS["flat"]), max_tokens=100, logprobs=True, top_logprobs=2,
        temperature=0.7, frequency_penalty=1, repeat_penalty=1.3, logit_bias={"94": 5}, ignore_eos=True,
    ).json["choices"][0]  # fmt: skip
    assert choice["finish_reason"] == "stop"
    entries = choice["logprobs"]["content"]
    assert "".join(entry["token"] for entry in entries) == choice["message"]["content"]
    jsonschema.validate(json.loads(choice["message"]["content"]), SCHEMAS["flat"])


DEEP: Any = {"type": "string"}
for _ in range(70):
    DEEP = {"type": "array", "items": DEEP}

REFUSED: list[tuple[Any, str, str]] = [
    ({"type": "xml"}, "response_format.type", "'xml'"),
    ({"type": "json_schema"}, "response_format.json_schema", "Missing"),
    ({"type": "json_schema", "json_schema": {"name": "a"}}, "response_format.json_schema.schema", "Missing"),
    ({"type": "regex"}, "response_format.regex", "Missing"),
    ({"type": "regex", "regex": "(?=a)b"}, "response_format.regex", "look-around"),
    (schema_format({"type": "array", "uniqueItems": True}), "response_format.json_schema.schema", '"uniqueItems"'),
    (schema_format({"not": {"type": "string"}}), "response_format.json_schema.schema", '"not"'),
    (schema_format({"if": {}, "then": {}}), "response_format.json_schema.schema", '"if"'),
    (schema_format({"type": "string", "format": "colour"}), "response_format.json_schema.schema", "colour"),
    (schema_format({"type": "string", "pattern": "(?=a)b"}), "response_format.json_schema.schema", "look-around"),
    (
        schema_format({"oneOf": [{"type": "number"}, {"type": "integer"}]}),
        "response_format.json_schema.schema",
        "oneOf",
    ),
    (
        schema_format({"oneOf": [{"type": "object", "properties": {"a": {"const": c}}} for c in "xy"]}),
        "response_format.json_schema.schema",
        "oneOf",
    ),
    (schema_format({"$ref": "https://example.com/x"}), "response_format.json_schema.schema", "example.com"),
    (schema_format({"type": "integer", "minimum": 5, "maximum": 3}), "response_format.json_schema.schema", "minimum"),
    (schema_format(False), "response_format.json_schema.schema", "nsatisfiable"),
    (schema_format(DEEP), "response_format.json_schema.schema", "64 levels"),
    (schema_format({"enum": list(range(2000))}), "response_format.json_schema.schema", "1000 enum values"),
    (schema_format({"properties": {f"p{i}": {} for i in range(2000)}}), "response_format.json_schema.schema", "1000"),
    (schema_format({"anyOf": [{"const": i} for i in range(200)]}), "response_format.json_schema.schema", "100"),
    (schema_format({"type": "string", "pattern": "x" * 200_000}), "response_format.json_schema.schema", "120000"),
]


@pytest.mark.parametrize(("response_format", "param", "words"), REFUSED)
def test_refused_formats(server: ServerProcess, response_format: Any, param: str, words: str) -> None:
    answer = server.chat("Hi", response_format=response_format)
    assert answer.status == 400, answer.body
    assert answer.error["param"] == param
    assert words in answer.error["message"]
    assert "\n" not in answer.error["message"]


HOSTILE: dict[str, Any] = {
    "a product of alternatives": {
        "allOf": [
            {"anyOf": [{"type": "object", "properties": {f"p{i}_{j}": {"type": "string"}}} for j in range(4)]}
            for i in range(9)
        ]
    },
    "definitions that double": {
        "$ref": "#/$defs/d20",
        "$defs": {
            "d0": {"type": "string"},
            **{
                f"d{i}": {"type": "object", "properties": {k: {"$ref": f"#/$defs/d{i - 1}"} for k in "abcd"}}
                for i in range(1, 21)
            },
        },
    },
    "nested repetitions": {"type": "string", "pattern": r"^(\w{1,500}|\d{1,500}){1,500}$"},
    "a large repetition": {"type": "string", "pattern": "((a{1000}){1000}){1000}"},
    "a large number of items": {"type": "array", "items": {"type": "string"}, "minItems": 10**9},
    "itself": {"$ref": "#"},
    "a circle": {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"},
    "deep parentheses": {"type": "string", "pattern": "(" * 5000 + "a" + ")" * 5000},
    "many properties": {"type": "object", "properties": {f"property {i}": {} for i in range(1000)}},
    "coprime multiples": {"allOf": [{"type": "integer", "multipleOf": n} for n in (9973, 9967, 9949)]},
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_schemas_are_contained(server: ServerProcess, name: str) -> None:
    """Each is refused, cut by the token limit, or ends its own request; the next one is answered as before."""
    answer = server.chat("Hi", response_format=schema_format(HOSTILE[name]), max_tokens=20, temperature=2)
    if answer.status == 200:
        assert answer.json["choices"][0]["finish_reason"] in ("stop", "length")
    else:
        assert answer.status == 400
        assert answer.error["param"] == "response_format.json_schema.schema" or (
            answer.error["code"] == "constraint_too_complex"
        )
    assert server.chat("Hi", max_tokens=2).status == 200


class Person(pydantic.BaseModel):
    """What the SDK makes a strict schema of."""

    name: str = pydantic.Field(max_length=30)
    born: int = pydantic.Field(ge=0, le=2000)
    fields: list[str] = pydantic.Field(max_length=2)


def test_the_sdk_parses_models(server: ServerProcess) -> None:
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    completion = client.chat.completions.parse(
        model="rusty_llm", messages=[{"role": "user", "content": PROMPTS[0]}], response_format=Person, max_tokens=300,
        seed=3, extra_body={"cache_prompt": False},
    )  # fmt: skip
    person = completion.choices[0].message.parsed
    assert isinstance(person, Person)
    with pytest.raises(openai.LengthFinishReasonError):
        client.chat.completions.parse(
            model="rusty_llm", messages=[{"role": "user", "content": "Hi"}], response_format=Person, max_tokens=4
        )
