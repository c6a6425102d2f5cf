"""Several choices for one client: merged as they come, each with its index, one prompt, one slot."""

import json
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
    """Choice i of seed s is the only choice of seed s + i.

    Of eight draws two may differ: a prompt is cut into chunks by the clock, which moves the logits by rounding, and a
    draw at the edge between two tokens then falls to the other side.
    """
    together = texts(server, n=8, seed=11, max_tokens=4)
    alone = [texts(server, seed=11 + i, max_tokens=4)[0] for i in range(8)]
    assert len(set(alone)) >= 6
    assert sum(choice == single for choice, single in zip(together, alone, strict=True)) >= 6


def test_streamed_choices_are_whole(client: openai.OpenAI) -> None:
    """Each differs from the others, and its text is that of the tokens which its log probabilities name.

    Not compared with the same request once more: three prompts that are computed together are cut into chunks by the
    clock, and a near tie may then end either way.
    """
    stream = client.chat.completions.create(
        model="rusty_llm",
        messages=[{"role": "user", "content": "Say hi."}],
        n=3,
        max_tokens=30,
        stream=True,
        stream_options={"include_usage": True},
        logprobs=True,
        extra_body={**WILD, "cache_prompt": False},
    )
    content = ["", "", ""]
    tokens: list[bytes] = [b"", b"", b""]
    counted = 0
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
            for entry in (choice.logprobs and choice.logprobs.content) or []:
                tokens[choice.index] += bytes(entry.bytes or [])
                counted += 1
            if choice.finish_reason:
                finished.append(choice.index)
    assert sorted(roles) == sorted(finished) == [0, 1, 2]
    assert len(set(content)) == 3
    assert content == [text.decode(errors="replace") for text in tokens]
    assert usage is not None and usage.completion_tokens == counted


def test_streamed_choices_are_the_whole_ones(server: ServerProcess) -> None:
    """A schema leaves one answer, whatever the model would rather say."""
    schema: dict[str, Any] = {"type": "object", "properties": {"said": {"const": "Grüß Gott 🙂"}}, "required": ["said"]}
    schema["additionalProperties"] = False
    fields: dict[str, Any] = {"n": 3, "max_tokens": 60, "temperature": 0}
    fields["response_format"] = {"type": "json_schema", "json_schema": {"name": "said", "schema": schema}}
    whole = [choice["message"]["content"] for choice in server.chat("Say hi.", **fields).json["choices"]]
    assert [json.loads(text) for text in whole] == [{"said": "Grüß Gott 🙂"}] * 3
    streamed = ["", "", ""]
    for event in server.chat("Say hi.", stream=True, **fields).events[:-1]:
        for choice in event["choices"]:
            streamed[choice["index"]] += choice["delta"].get("content") or ""
    assert [json.loads(text) for text in streamed] == [json.loads(text) for text in whole]


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
