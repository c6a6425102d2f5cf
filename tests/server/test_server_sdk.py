"""The openai package against the real server."""

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam
from server_process import ServerProcess

#: The same request gives the same answer only if the same tokens are computed each time.
UNCACHED = {"cache_prompt": False}
MESSAGES: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Who was Albert Einstein?"}]


@pytest.fixture
def client(server: ServerProcess) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


def test_create(client: openai.OpenAI) -> None:
    completion = client.chat.completions.create(
        model="rusty_llm", messages=MESSAGES, max_tokens=12, temperature=0, seed=1, logprobs=True, top_logprobs=2
    )
    choice = completion.choices[0]
    assert choice.message.role == "assistant"
    assert choice.message.content
    assert choice.finish_reason == "length"
    assert choice.logprobs is not None and choice.logprobs.content is not None
    assert len(choice.logprobs.content) == 12
    assert completion.usage is not None
    assert completion.usage.completion_tokens == 12
    assert completion.usage.prompt_tokens_details is not None
    assert completion._request_id is not None and completion._request_id.startswith("req_")


def test_stream(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="rusty_llm", messages=MESSAGES, max_completion_tokens=12, temperature=0, stream=True,
        stream_options={"include_usage": True}, extra_body=UNCACHED,
    )  # fmt: skip
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    whole = client.chat.completions.create(
        model="rusty_llm", messages=MESSAGES, max_tokens=12, temperature=0, extra_body=UNCACHED
    )
    assert text == whole.choices[0].message.content
    assert chunks[-2].choices[0].finish_reason == "length"
    assert chunks[-1].usage is not None and chunks[-1].usage.completion_tokens == 12


def test_the_sdks_own_accumulation_of_a_stream(client: openai.OpenAI) -> None:
    messages: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Say hi."}]
    with client.chat.completions.stream(
        model="rusty_llm", messages=messages, max_tokens=200, temperature=0, extra_body=UNCACHED
    ) as stream:
        for _ in stream:
            pass
        final = stream.get_final_completion()
    whole = client.chat.completions.create(
        model="rusty_llm", messages=messages, max_tokens=200, temperature=0, extra_body=UNCACHED
    )
    assert final.choices[0].finish_reason == "stop"
    assert final.choices[0].message.content == whole.choices[0].message.content


def test_models(client: openai.OpenAI) -> None:
    model, embedding_model = client.models.list().data
    assert embedding_model.id == "embed"
    assert (model.id, model.object) == ("rusty_llm", "model")
    assert client.models.retrieve("rusty_llm") == model
    assert client.models.retrieve("model.gguf").id == "rusty_llm"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")


def test_errors_are_the_sdks_exceptions(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as not_found:
        client.chat.completions.create(model="other", messages=MESSAGES)
    assert not_found.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as bad:
        client.chat.completions.create(model="rusty_llm", messages=MESSAGES, temperature=9)
    assert bad.value.param == "temperature"
    assert bad.value.type == "invalid_request_error"
    with pytest.raises(openai.BadRequestError) as long:
        client.chat.completions.create(model="rusty_llm", messages=[{"role": "user", "content": "word " * 3000}])
    assert long.value.code == "context_length_exceeded"
