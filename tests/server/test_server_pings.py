"""Streams that are silent for a while: comments keep them open, and errors still find their way."""

import contextlib
from collections.abc import Iterator

import openai
import pytest
from server_process import ServerProcess, user

LONG = "A screw turns slowly in the wood. " * 100


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server that pings often, with steps long enough for that, and two sequences."""
    variables = {"MODEL_STEP_MS": "500", "SSE_PING_SECONDS": "0.1", "QUEUE_TIMEOUT": "0.5"}
    log = tmp_path_factory.mktemp("pings") / "log"
    with ServerProcess(log, MODEL_PARALLEL="2", MODEL_CONTEXT="1024", **variables) as process:
        process.wait_ready()
        yield process


def test_a_slow_prefill_is_bridged_by_comments(server: ServerProcess) -> None:
    answer = server.chat(LONG, stream=True, max_tokens=2)
    assert answer.status == 200
    before, _, after = answer.body.partition(b"data: ")
    assert before == b": ping\n\n" * (len(before) // 8)
    assert len(before) > 0
    assert after.endswith(b"data: [DONE]\n\n")
    assert answer.events[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}


def test_the_sdk_reads_over_them(server: ServerProcess) -> None:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        stream = client.chat.completions.create(
            model="rusty_llm",
            messages=[{"role": "user", "content": LONG}],
            max_tokens=2,
            stream=True,
            extra_body={"cache_prompt": False},
        )
        assert [chunk.choices[0].finish_reason for chunk in stream][-1] == "length"


def test_a_gap_between_tokens_is_bridged_too(server: ServerProcess) -> None:
    with server.open_chat("Count.", stream=True, max_tokens=100, ignore_eos=True) as stream:
        data = b""
        while b"data: " not in data:
            data += stream.recv(65536)
        server.chat(LONG, max_tokens=1)  # its prefill makes the stream's steps longer than a ping takes
        while not data.endswith(b"0\r\n\r\n"):
            data += stream.recv(65536)
    first = data.index(b"data: ")
    assert b": ping\n\n" in data[first:]
    assert data.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")


def test_an_error_behind_a_comment_is_an_event_and_one_before_any_byte_a_status(server: ServerProcess) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(2):
            busy = stack.enter_context(server.open_chat("Count.", stream=True, max_tokens=900, ignore_eos=True))
            assert busy.recv(1)
        streamed = server.chat("hi", stream=True)
        whole = server.chat("hi")
    assert whole.status == 503
    assert whole.error["code"] == "queue_timeout"
    assert int(whole.headers["Retry-After"]) > 0
    assert streamed.status == 200
    assert streamed.body.startswith(b": ping\n\n")
    assert b"event: error\n" in streamed.body and b"[DONE]" not in streamed.body
    assert streamed.events[-1]["error"]["code"] == "queue_timeout"
    server.wait_idle()


def test_pings_can_be_switched_off(launch: type[ServerProcess]) -> None:
    process = launch(MODEL_PARALLEL="1", MODEL_CONTEXT="1024", SSE_PING_SECONDS="0")
    process.wait_ready()
    answer = process.post("/v1/chat/completions", {"messages": user(LONG[:2000]), "stream": True, "max_tokens": 2})
    assert answer.body.startswith(b"data: ")
    assert b"ping" not in answer.body
