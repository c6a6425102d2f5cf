"""Chunks of a stream as bytes, and what one costs."""

import json
import time

import pytest

from server.schema.answer import ChatLogprobs, Delta, TokenLogprob, TopLogprob
from server.sse import ChunkRenderer


def data(chunk: bytes) -> dict[str, object]:
    assert chunk.startswith(b"data: ") and chunk.endswith(b"\n\n")
    assert chunk.count(b"\n") == 2
    loaded = json.loads(chunk[6:])
    assert isinstance(loaded, dict)
    return loaded


def test_a_chunk_is_openais_object() -> None:
    renderer = ChunkRenderer("chatcmpl-1", 5, 'a "b"', include_usage=False)
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 5, "model": 'a "b"'}
    choice = {"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
    assert data(renderer.role(0)) == {**head, "choices": [choice]}
    text = 'line\nbreak "quoted" \u2028 \x00 \U0001f9a5'
    assert data(renderer.delta(0, Delta(content=text))) == {**head, "choices": [{**choice, "delta": {"content": text}}]}


def test_with_include_usage_every_chunk_says_null() -> None:
    renderer = ChunkRenderer("chatcmpl-1", 5, "m", include_usage=True)
    assert data(renderer.role(0))["usage"] is None
    assert data(renderer.delta(3, Delta(content="a")))["usage"] is None


def test_a_chunk_with_logprobs() -> None:
    renderer = ChunkRenderer("chatcmpl-1", 5, "m", include_usage=False)
    entry = TokenLogprob("a", -0.5, [97], [TopLogprob("b", -1.5, [98])])
    choices = data(renderer.delta(3, Delta(content="a"), ChatLogprobs([entry])))["choices"]
    top = {"token": "b", "logprob": -1.5, "bytes": [98]}
    content = [{"token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": [top]}]
    logprobs = {"content": content, "refusal": None}
    assert choices == [{"index": 3, "delta": {"content": "a"}, "logprobs": logprobs, "finish_reason": None}]


@pytest.mark.parametrize("include_usage", [False, True])
@pytest.mark.parametrize("text", ["a", ' "\\\n\u2028é', "{}"])
def test_a_chunk_of_text_is_the_same_in_short(text: str, include_usage: bool) -> None:
    renderer = ChunkRenderer("chatcmpl-1", 5, "m", include_usage=include_usage)
    for index in (0, 3):
        assert renderer.content(index, text) == renderer.delta(index, Delta(content=text))


def test_what_a_chunk_costs() -> None:
    """Prints the cost; asserts only that a chunk costs no more than encoding it whole would."""
    renderer = ChunkRenderer("chatcmpl-0123456789abcdef0123456789abcdef", 1, "rusty_llm", include_usage=False)
    whole = data(renderer.content(0, " token"))
    rounds = 20_000

    def seconds(render: object) -> float:
        assert callable(render)
        best = float("inf")
        for _ in range(3):
            begin = time.perf_counter()
            for _ in range(rounds):
                render()
            best = min(best, time.perf_counter() - begin)
        return best / rounds

    rendered = seconds(lambda: renderer.content(0, " token"))
    encoded = seconds(lambda: b"data: " + json.dumps(whole).encode() + b"\n\n")
    print(f"\none chunk: {rendered * 1e6:.2f} us; encoded whole: {encoded * 1e6:.2f} us")
    assert rendered < encoded
