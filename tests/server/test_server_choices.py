"""Several choices for one client: merged as they come, each with its index, one prompt, one slot."""

from typing import Any

import openai
import pytest
from server_process import ServerProcess, eventually

QUESTION = "Who was Albert Einstein? Say it in your own words, and say what he is known for."
WILD = {"temperature": 1.5, "top_p": 1, "min_p": 0, "top_k": -1}


@pytest.fixture
def client(server: ServerProcess) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


def texts(server: ServerProcess, **fields: Any) -> list[str]:
    choices = server.chat(QUESTION, **WILD, **fields).json["choices"]
    assert [choice["index"] for choice in choices] == list(range(len(choices)))
    return [choice["message"]["content"] for choice in choices]


def test_choices_differ_and_share_the_prompt(server: ServerProcess) -> None:
    body = server.chat(QUESTION, n=4, max_tokens=12, ignore_eos=True, cache_prompt=True, **WILD).json
    assert len({choice["message"]["content"] for choice in body["choices"]}) == 4
    usage = body["usage"]
    assert usage["completion_tokens"] == 48
    assert usage["prompt_tokens"] == server.chat(QUESTION, max_tokens=1).json["usage"]["prompt_tokens"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + 48
    timings = body["timings"]
    assert timings["predicted_n"] == 48
    assert timings["prompt_n"] + timings["cache_n"] == usage["prompt_tokens"]
    assert max(timings["phases"].values()) <= timings["total_seconds"]


def test_the_engine_computes_the_shared_prompt_once(server: ServerProcess) -> None:
    server.wait_idle()
    fresh = "Zebras and quaggas. " * 20
    before = server.metric("lucid_prefill_tokens_total")
    body = server.chat(fresh, n=4, max_tokens=2, cache_prompt=True).json
    eventually(lambda: server.metric("lucid_requests_running") == 0, "the engine is idle")
    computed = server.metric("lucid_prefill_tokens_total") - before
    # The last token of a prompt is computed for every choice: its logits begin the choice.
    assert computed <= body["usage"]["prompt_tokens"] + 3


def test_a_seed_gives_each_choice_its_own_reproducible_draw(server: ServerProcess) -> None:
    first = texts(server, n=3, seed=11)
    assert len(set(first)) == 3
    assert texts(server, seed=11)[0] == first[0]
    assert texts(server, seed=12)[0] == first[1]


def test_streamed_choices_are_the_whole_ones(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="rusty_llm",
        messages=[{"role": "user", "content": "Say hi."}],
        n=3,
        max_tokens=30,
        temperature=0,
        stream=True,
        stream_options={"include_usage": True},
        extra_body={"cache_prompt": False},
    )
    content = ["", "", ""]
    roles: list[int] = []
    finished: list[int] = []
    usage = None
    for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            assert choice.index not in finished
            if choice.delta.role:
                roles.append(choice.index)
            assert choice.index in roles
            content[choice.index] += choice.delta.content or ""
            if choice.finish_reason:
                finished.append(choice.index)
    assert sorted(roles) == sorted(finished) == [0, 1, 2]
    whole = client.chat.completions.create(
        model="rusty_llm",
        messages=[{"role": "user", "content": "Say hi."}],
        n=3,
        max_tokens=30,
        temperature=0,
        extra_body={"cache_prompt": False},
    )
    assert content == [choice.message.content for choice in whole.choices]
    assert usage is not None and whole.usage is not None
    assert usage.completion_tokens == whole.usage.completion_tokens


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_hangs_up_ends_all_its_choices(server: ServerProcess, stream: bool) -> None:
    server.wait_idle()
    cancelled = server.metric("lucid_requests_total", status="499", finish_reason="cancelled")
    sock = server.open_chat("Tell me a long story.", n=6, stream=stream, max_tokens=900, ignore_eos=True)
    eventually(lambda: server.metric("lucid_requests_running") == 4, "four choices run")
    assert server.metric("lucid_requests_waiting") == 2
    sock.close()
    server.wait_idle()
    eventually(
        lambda: server.metric("lucid_requests_total", status="499", finish_reason="cancelled") == cancelled + 1,
        "one request is counted",
    )
    assert server.chat("hi", max_tokens=2).status == 200


def test_more_choices_than_run_at_once_all_come(server: ServerProcess) -> None:
    body = server.chat(QUESTION, n=9, max_tokens=3, ignore_eos=True).json
    assert len(body["choices"]) == 9
    assert {choice["finish_reason"] for choice in body["choices"]} == {"length"}
