"""POST /v1/responses with the openai package: whole and streamed, and what a stateless server refuses."""

import json
from typing import Any

import openai
import pytest
from openai.types.responses import ResponseCompletedEvent, ResponseIncompleteEvent
from server_process import ServerProcess

QUESTION = "Who was Albert Einstein?"
REPEATABLE: dict[str, Any] = {"model": "rusty_llm", "temperature": 0, "extra_body": {"cache_prompt": False}}


@pytest.fixture
def client(server: ServerProcess) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


def test_create(client: openai.OpenAI, server: ServerProcess) -> None:
    response = client.responses.create(input=QUESTION, max_output_tokens=16, **REPEATABLE)
    assert response.id.startswith("resp_")
    assert response.object == "response"
    assert response.status == "incomplete"
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"
    assert response.output_text == server.chat(QUESTION).json["choices"][0]["message"]["content"]
    (item,) = response.output
    assert item.type == "message" and item.role == "assistant" and item.status == "incomplete"
    assert response.usage is not None
    assert response.usage.output_tokens == 16
    assert response.usage.total_tokens == response.usage.input_tokens + 16
    assert response.usage.output_tokens_details.reasoning_tokens == 0
    assert response.error is None


def test_a_repeated_prompt_is_cached(client: openai.OpenAI) -> None:
    cached = {**REPEATABLE, "extra_body": {"cache_prompt": True}}
    first, second = (client.responses.create(input=QUESTION, max_output_tokens=16, **cached) for _ in range(2))
    assert first.usage is not None and second.usage is not None
    assert 0 < second.usage.input_tokens_details.cached_tokens < second.usage.input_tokens


def test_items_and_instructions_are_the_chat_they_stand_for(client: openai.OpenAI, server: ServerProcess) -> None:
    response = client.responses.create(
        instructions="Be brief.",
        input=[
            {"role": "user", "content": "What is 2 + 2?"},
            {"role": "assistant", "content": "4"},
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "And 3 + 3?"}]},
        ],
        max_output_tokens=16,
        **REPEATABLE,
    )
    chat = server.chat(
        [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "What is 2 + 2?"},
            {"role": "assistant", "content": "4"},
            {"role": "user", "content": "And 3 + 3?"},
        ]
    )
    assert response.output_text == chat.json["choices"][0]["message"]["content"]


def test_an_answer_can_be_sent_back_as_input(client: openai.OpenAI) -> None:
    first = client.responses.create(input="Say hi.", max_output_tokens=60, **REPEATABLE)
    assert first.status == "completed"
    again = client.responses.create(
        input=[
            {"role": "user", "content": "Say hi."},
            *[item.model_dump(exclude_none=True) for item in first.output],  # type: ignore[list-item]
            {"role": "user", "content": "Again."},
        ],
        max_output_tokens=8,
        **REPEATABLE,
    )
    assert again.output_text


@pytest.mark.parametrize(("limit", "end"), [(12, "response.incomplete"), (100, "response.completed")])
def test_the_events_of_a_stream(client: openai.OpenAI, limit: int, end: str) -> None:
    events = list(client.responses.create(input="Say hi.", max_output_tokens=limit, stream=True, **REPEATABLE))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type for event in events]
    deltas = kinds.count("response.output_text.delta")
    assert deltas > 4
    assert kinds == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        *["response.output_text.delta"] * deltas,
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        end,
    ]
    last = events[-1]
    assert isinstance(last, ResponseCompletedEvent | ResponseIncompleteEvent)
    text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert text == last.response.output_text
    whole = client.responses.create(input="Say hi.", max_output_tokens=limit, **REPEATABLE)
    assert last.response.output_text == whole.output_text
    assert last.response.usage == whole.usage
    assert last.response.status == whole.status


def test_the_sdks_own_accumulation_of_a_stream(client: openai.OpenAI) -> None:
    with client.responses.stream(input="Say hi.", max_output_tokens=100, **REPEATABLE) as stream:
        for _ in stream:
            pass
        final = stream.get_final_response()
    whole = client.responses.create(input="Say hi.", max_output_tokens=100, **REPEATABLE)
    assert final.status == "completed"
    assert final.output_text == whole.output_text


WEATHER: Any = {
    "type": "function",
    "name": "get_weather",
    "parameters": {
        "type": "object",
        "properties": {"city": {"enum": ["Paris", "Rome"]}, "unit": {"enum": ["C", "F"]}},
        "required": ["city", "unit"],
        "additionalProperties": False,
    },
}
CALLING: dict[str, Any] = {
    "input": "What is the weather in Paris?",
    "tools": [WEATHER],
    "tool_choice": {"type": "function", "name": "get_weather"},
    "parallel_tool_calls": False,
    "max_output_tokens": 60,
}


def test_a_function_is_called_and_its_result_used(client: openai.OpenAI) -> None:
    response = client.responses.create(**CALLING, **REPEATABLE)
    (call,) = response.output
    assert response.status == "completed"
    assert call.type == "function_call" and call.name == "get_weather" and call.call_id != call.id
    assert set(json.loads(call.arguments)) == {"city", "unit"}
    assert response.tools[0].type == "function"
    question = {"role": "user", "content": CALLING["input"]}
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "31 degrees"}
    told = client.responses.create(
        input=[question, call.model_dump(exclude_none=True), result],  # type: ignore[list-item]
        tools=[WEATHER],
        tool_choice="none",
        max_output_tokens=16,
        **REPEATABLE,
    )
    assert told.output[0].type == "message" and told.output_text


def test_a_streamed_call(client: openai.OpenAI) -> None:
    with client.responses.stream(**CALLING, **REPEATABLE) as stream:
        events = list(stream)
        final = stream.get_final_response()
    (call,) = final.output
    assert call.type == "function_call"
    deltas = [event.delta for event in events if event.type == "response.function_call_arguments.delta"]
    assert len(deltas) > 1 and "".join(deltas) == call.arguments
    (done,) = [event for event in events if event.type == "response.function_call_arguments.done"]
    assert done.arguments == call.arguments and done.item_id == call.id
    whole = client.responses.create(**CALLING, **REPEATABLE).output[0]
    assert whole.type == "function_call" and whole.arguments == call.arguments


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"input": []}, "input"),
        ({"input": [{"role": "user"}]}, "input[0].content"),
        ({"input": [{"content": "x"}]}, "input[0].role"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content[0]"),
        ({"input": [{"type": "function_call", "call_id": "1"}]}, "input[0].name"),
        ({"input": [{"type": "item_reference", "id": "1"}]}, "input[0].type"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"background": True}, "background"),
        ({"truncation": "auto"}, "truncation"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"max_tokens": 5}, "max_tokens"),
        ({"n": 2}, "n"),
        ({"input": "word " * 1500}, "input"),
        ({"input": "a" * 1_000_000}, "input"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"tools": [{"type": "function"}]}, "tools[0].name"),
        ({"tools": [WEATHER, WEATHER]}, "tools[1].name"),
        ({"tools": [{**WEATHER, "parameters": {"type": "string"}}]}, "tools[0].parameters"),
        ({"tools": [{**WEATHER, "parameters": {"type": "object", "not": {}}}]}, "tools[0].parameters"),
        ({"tools": [WEATHER], "tool_choice": {"type": "function", "name": "other"}}, "tool_choice"),
        ({"text": {"format": {"type": "json_schema"}}}, "text.format.schema"),
        ({"text": {"format": {"type": "json_schema", "schema": {"type": 1}}}}, "text.format.schema"),
    ],
)
def test_what_is_refused_names_the_parameter(server: ServerProcess, fields: dict[str, object], param: str) -> None:
    answer = server.post("/v1/responses", {"input": "x", "max_output_tokens": 1, **fields})
    assert answer.status == 400
    assert answer.error["param"] == param
    assert "messages" not in answer.error["message"]


def test_what_is_accepted_and_changes_nothing(client: openai.OpenAI) -> None:
    response = client.responses.create(
        input="x", max_output_tokens=1, store=True, metadata={"a": "b"}, service_tier="auto", user="me", **REPEATABLE
    )
    assert response.metadata == {"a": "b"}
    assert response.model_extra is not None and response.model_extra["store"] is False
