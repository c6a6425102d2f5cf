"""tools and tool_choice on the real server, with the openai package where a client's view matters."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import jsonschema
import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam
from server_process import ServerProcess, eventually, user

CITY = {"type": "string", "maxLength": 20}
WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather of a city",
        "parameters": {
            "type": "object",
            "properties": {
                "city": CITY,
                "unit": {"enum": ["C", "F"]},
                "days": {"type": "integer", "minimum": 1, "maximum": 9},
            },
            "required": ["city", "unit"],
            "additionalProperties": False,
        },
    },
}
TIME: dict[str, Any] = {"type": "function", "function": {"name": "time-now", "description": "Get the time"}}
TOOLS = [WEATHER, TIME]
QUESTION = "What is the weather in Paris?"
SCHEMAS = {"get_weather": WEATHER["function"]["parameters"], "time-now": {"type": "object", "maxProperties": 0}}

#: Earlier turns that show the model how it calls tools, so that it does so by itself.
SHOWN: list[dict[str, Any]] = []
for number, (city, degrees) in enumerate((("Rome", 25), ("Oslo", 4), ("Cairo", 33), ("Lima", 19), ("Tokyo", 12))):
    call = {"name": "get_weather", "arguments": json.dumps({"city": city, "unit": "C"})}
    SHOWN += [
        {"role": "user", "content": f"What is the weather in {city}?"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": f"c{number}", "type": "function", "function": call}],
        },
        {"role": "tool", "tool_call_id": f"c{number}", "content": f"{degrees} degrees"},
        {"role": "assistant", "content": f"It is {degrees} degrees in {city}."},
    ]


def valid(calls: list[dict[str, Any]]) -> list[str]:
    """Check calls; return their functions."""
    assert len({call["id"] for call in calls}) == len(calls)
    for call in calls:
        assert call["type"] == "function" and call["id"].startswith("call_")
        jsonschema.validate(json.loads(call["function"]["arguments"]), SCHEMAS[call["function"]["name"]])
    return [call["function"]["name"] for call in calls]


@pytest.mark.parametrize("temperature", [0, 1, 2])
def test_required(server: ServerProcess, temperature: float) -> None:
    choices = server.chat(
        QUESTION, tools=TOOLS, tool_choice="required", parallel_tool_calls=False, temperature=temperature, seed=1,
        max_tokens=150, top_k=0, min_p=0, n=3, cache_prompt=True,
    ).json["choices"]  # fmt: skip
    for choice in choices:
        assert choice["finish_reason"] == "tool_calls"
        assert choice["message"]["content"] is None
        assert len(valid(choice["message"]["tool_calls"])) == 1


@pytest.mark.parametrize(
    "choice",
    [
        {"type": "function", "function": {"name": "time-now"}},
        {
            "type": "allowed_tools",
            "allowed_tools": {"mode": "required", "tools": [{"type": "function", "function": {"name": "time-now"}}]},
        },
    ],
)
def test_a_named_function(server: ServerProcess, choice: dict[str, Any]) -> None:
    answer = server.chat(QUESTION, tools=TOOLS, tool_choice=choice, parallel_tool_calls=False, max_tokens=60)
    message = answer.json["choices"][0]["message"]
    assert valid(message["tool_calls"]) == ["time-now"]
    assert message["tool_calls"][0]["function"]["arguments"] == "{}"


def test_several_calls_at_once(server: ServerProcess) -> None:
    counts = set()
    choices = server.chat(
        QUESTION, tools=TOOLS, tool_choice="required", temperature=1.5, seed=1, max_tokens=120, n=3, cache_prompt=True,
        logit_bias={"2": -100},
    ).json["choices"]  # fmt: skip
    for choice in choices:
        calls = choice["message"]["tool_calls"]
        assert choice["finish_reason"] in ("tool_calls", "length")
        valid(calls if choice["finish_reason"] == "tool_calls" else calls[:-1])
        counts.add(len(calls))
    assert max(counts) > 1


def test_auto_without_a_call_is_text(server: ServerProcess) -> None:
    answer = server.chat("Say hi.", tools=TOOLS, max_tokens=12)
    choice = answer.json["choices"][0]
    assert choice["message"]["content"]
    assert "tool_calls" not in choice["message"]
    assert choice["finish_reason"] in ("length", "stop")


def test_auto_with_a_call(server: ServerProcess) -> None:
    messages = [*SHOWN, *user("What is the weather in Paris?")]
    choice = server.chat(messages, tools=TOOLS, max_tokens=100).json["choices"][0]
    assert choice["finish_reason"] == "tool_calls", choice
    assert valid(choice["message"]["tool_calls"])[0] == "get_weather"
    assert "Paris" in choice["message"]["tool_calls"][0]["function"]["arguments"]


def test_none_calls_nothing(server: ServerProcess) -> None:
    messages = [*SHOWN, *user("What is the weather in Paris?")]
    message = server.chat(messages, tools=TOOLS, tool_choice="none", max_tokens=40).json["choices"][0]["message"]
    assert "tool_calls" not in message
    assert message["content"]


def chunks(server: ServerProcess, **fields: Any) -> Iterator[dict[str, Any]]:
    for event in server.chat(QUESTION, stream=True, **fields).events[:-1]:
        yield event["choices"][0]


def test_streamed_deltas_have_openais_shape(server: ServerProcess) -> None:
    named = {"type": "function", "function": {"name": "get_weather"}}  # one with arguments
    fields: dict[str, Any] = {
        "tools": TOOLS, "tool_choice": named, "parallel_tool_calls": False, "max_tokens": 150, "seed": 1,
    }  # fmt: skip
    whole = server.chat(QUESTION, **fields).json["choices"][0]["message"]["tool_calls"][0]
    deltas = [choice["delta"] for choice in chunks(server, **fields)]
    eventually(lambda: server.metric("lucid_requests_total", finish_reason="tool_calls") >= 2, "they are counted")
    assert deltas[0] == {"role": "assistant", "content": ""}
    first, *others = [delta["tool_calls"] for delta in deltas if "tool_calls" in delta]
    assert first == [
        {
            "index": 0,
            "id": first[0]["id"],
            "type": "function",
            "function": {"name": whole["function"]["name"], "arguments": ""},
        }
    ]
    assert first[0]["id"].startswith("call_")
    assert len(others) > 3  # as it comes, not at once
    fragments = []
    for (call,) in others:
        assert set(call) == {"index", "function"} and set(call["function"]) == {"arguments"}
        fragments.append(call["function"]["arguments"])
    assert "".join(fragments) == whole["function"]["arguments"]
    assert all("content" not in delta for delta in deltas[1:])


def test_the_sdk_accumulates_the_stream(server: ServerProcess) -> None:
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    messages: list[ChatCompletionMessageParam] = [{"role": "user", "content": QUESTION}]
    with client.chat.completions.stream(
        model="rusty_llm", messages=messages, tools=[WEATHER],  # type: ignore[list-item]
        tool_choice="required", parallel_tool_calls=False, max_tokens=150, seed=1,
    ) as stream:  # fmt: skip
        for _ in stream:
            pass
        final = stream.get_final_completion().choices[0]
    assert final.finish_reason == "tool_calls"
    assert final.message.tool_calls is not None
    (called,) = final.message.tool_calls
    jsonschema.validate(json.loads(called.function.arguments), SCHEMAS["get_weather"])
    answer = client.chat.completions.create(
        model="rusty_llm", max_tokens=8, tools=[WEATHER],  # type: ignore[list-item]
        messages=[
            *messages,
            final.message,  # type: ignore[list-item]
            {"role": "tool", "tool_call_id": called.id, "content": "18 degrees"},
        ],
    )  # fmt: skip
    assert answer.choices[0].message.content or answer.choices[0].message.tool_calls


def test_the_token_limit_within_a_call(server: ServerProcess) -> None:
    fields: dict[str, Any] = {"tools": TOOLS, "tool_choice": "required"}
    early = server.chat(QUESTION, max_tokens=6, **fields).json["choices"][0]
    assert early["finish_reason"] == "length"
    assert early["message"]["content"].startswith("<tool_call>")  # no name yet: nothing is lost
    late = server.chat(QUESTION, max_tokens=26, **fields).json["choices"][0]
    assert late["finish_reason"] == "length"
    assert late["message"]["tool_calls"][0]["function"]["arguments"].startswith("{")


def test_tools_and_a_response_format(server: ServerProcess) -> None:
    schema = {"type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"], "additionalProperties": False}
    response_format = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    choices = server.chat(
        QUESTION, tools=TOOLS, response_format=response_format, max_tokens=150, n=3, seed=1, temperature=1.5,
        parallel_tool_calls=False, cache_prompt=True,
    ).json["choices"]  # fmt: skip
    for choice in choices:
        if choice["finish_reason"] == "tool_calls":
            valid(choice["message"]["tool_calls"])
        else:
            assert choice["finish_reason"] == "stop"
            jsonschema.validate(json.loads(choice["message"]["content"]), schema)


def test_tools_are_in_the_prompt(server: ServerProcess) -> None:
    plain = server.chat(QUESTION, max_tokens=1).json["usage"]["prompt_tokens"]
    tools = server.chat(QUESTION, max_tokens=1, tools=TOOLS).json["usage"]["prompt_tokens"]
    none = server.chat(QUESTION, max_tokens=1, tools=TOOLS, tool_choice="none").json["usage"]["prompt_tokens"]
    assert tools > plain + 80
    assert none == plain


def bad(**function: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": "f", **function}}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools[0].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].function"),
        ({"tools": [bad(name="has space")]}, "tools[0].function.name"),
        ({"tools": [bad(name="x" * 65)]}, "tools[0].function.name"),
        ({"tools": [TIME, TIME]}, "tools[1].function.name"),
        ({"tools": [TIME, bad(parameters={"not": {}})]}, "tools[1].function.parameters"),
        ({"tools": [bad(parameters={"type": "string"})]}, "tools[0].function.parameters"),
        ({"tools": [bad(parameters={"enum": list(range(2000))})]}, "tools"),
        ({"tools": [bad(name=f"f{i}") for i in range(200)]}, "tools"),
        ({"tools": TOOLS, "tool_choice": "sometimes"}, "tool_choice"),
        ({"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "other"}}}, "tool_choice"),
        ({"tools": TOOLS, "tool_choice": {"type": "function"}}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"functions": [{"name": "f"}]}, "functions"),
    ],
    ids=str,
)
def test_refused(server: ServerProcess, fields: dict[str, Any], param: str) -> None:
    answer = server.chat(QUESTION, **fields)
    assert answer.status == 400, answer.body
    assert answer.error["param"] == param
