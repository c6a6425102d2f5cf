"""Streams that go past Python say what others say, and only those go that can."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
from typing import Any, cast

import numpy as np
import pytest
from server_process import MODEL, PATIENCE, ServerProcess, eventually, user

from engine import Request, SamplingParams
from llama_native import TokenTexts
from server import config
from server.answer import Answer
from server.completion_reply import CompletionReply
from server.exchange import Exchange
from server.metrics import Metrics
from server.relay import make_relay
from server.reply import send
from server.schema.completion import CompletionRequest
from server.service import Service
from server.succession import Succession

#: Text that JSON escapes, and characters that take one token or several.
TEXT = 'He said: "one\\two"\n\tnaïve café, 世界 🦥🙂 end'

#: A stop string that no answer has: its stream is looked at piece by piece in Python.
NEVER = "\x01never\x01"


def only(text: str) -> dict[str, Any]:
    """The response format of answers that can only be `text`, as JSON."""
    return {"type": "json_schema", "json_schema": {"name": "only", "strict": True, "schema": {"const": text}}}


def text_of(events: list[Any]) -> str:
    """The text of a stream's events, of either kind."""
    choices = [choice for event in events if event != "[DONE]" for choice in event["choices"]]
    return "".join(choice.get("text") or choice.get("delta", {}).get("content") or "" for choice in choices)


def comparable(events: list[Any]) -> list[Any]:
    """The events without what differs from one answer to the next."""
    return [
        event if event == "[DONE]" else {key: event[key] for key in event.keys() - {"id", "created", "timings"}}
        for event in events
    ]


@pytest.mark.parametrize("usage", [False, True])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_a_stream_is_the_same_past_python(server: ServerProcess, path: str, usage: bool) -> None:
    body: dict[str, Any] = {"max_tokens": 60, "temperature": 0, "stream": True, "ignore_eos": True}
    body |= {"messages": user("Tell a story.")} if "chat" in path else {"prompt": "Once upon a time"}
    if usage:
        body["stream_options"] = {"include_usage": True}
    body["cache_prompt"] = False  # where no kernel of ours computes, a cached prompt has other low bits
    plain = server.post(path, body).events
    looked_at = server.post(path, {**body, "stop": NEVER}).events
    whole = server.post(path, {**body, "stream": False, "stream_options": None}).json
    assert comparable(plain) == comparable(looked_at)
    (choice,) = whole["choices"]
    assert text_of(plain) == (choice["message"]["content"] if "chat" in path else choice["text"])
    timings = next(event["timings"] for event in reversed(plain) if event != "[DONE]" and "timings" in event)
    assert timings["predicted_n"] == 60


def test_every_character_comes_through(server: ServerProcess) -> None:
    body = {"messages": user("Speak."), "max_tokens": 200, "stream": True, "response_format": only(TEXT)}
    events = server.post("/v1/chat/completions", body).events
    assert json.loads(text_of(events)) == TEXT
    assert events[-2]["choices"][0]["finish_reason"] == "stop"


def raw(server: ServerProcess, protocol: str) -> tuple[bytes, bytes]:
    """The head and the body, as they come, of a stream that is asked for in a version of HTTP."""
    body = json.dumps({"prompt": "Once", "max_tokens": 30, "temperature": 0, "stream": True, "ignore_eos": True})
    with socket.create_connection(("127.0.0.1", server.port), PATIENCE) as sock:
        head = f"POST /v1/completions {protocol}\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
        sock.sendall(f"{head}{body}".encode())
        data = b""
        while part := sock.recv(65536):
            data += part
    head_came, _, stream = data.partition(b"\r\n\r\n")
    return head_came, stream


@pytest.mark.parametrize("protocol", ["HTTP/1.0", "HTTP/1.1", "HTTP/1.2"])
def test_a_stream_is_framed_as_its_head_says(server: ServerProcess, protocol: str) -> None:
    head, stream = raw(server, protocol)
    chunked = b"transfer-encoding: chunked" in head.lower()
    assert chunked is (protocol != "HTTP/1.0")
    text = b""
    while chunked:
        size, _, stream = stream.partition(b"\r\n")
        end = int(size, 16)
        text += stream[:end]
        assert stream[end : end + 2] == b"\r\n"
        stream = stream[end + 2 :]
        if end == 0:
            assert stream == b""
            break
    events = [event.removeprefix("data: ") for event in (text or stream).decode().split("\n\n")]
    assert events[-2:] == ["[DONE]", ""]
    body = {"prompt": "Once", "max_tokens": 30, "temperature": 0, "ignore_eos": True}
    expected = server.post("/v1/completions", body).json["choices"][0]["text"]
    assert text_of([json.loads(event) for event in events[:-2]]) == expected


def test_a_connection_is_kept_after_a_stream(server: ServerProcess) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
    body = json.dumps({"prompt": "Once", "max_tokens": 30, "temperature": 0, "stream": True, "ignore_eos": True})
    bodies = []
    for _ in range(3):
        connection.request("POST", "/v1/completions", body, {"Content-Type": "application/json"})
        before = connection.sock
        bodies.append(connection.getresponse().read())
        assert connection.sock is before is not None
    connection.close()
    texts = {text_of([json.loads(event[6:]) for event in body.decode().split("\n\n")[:-2]]) for body in bodies}
    assert len(texts) == 1


@pytest.mark.parametrize("max_tokens", range(1, 7))
def test_a_stream_may_end_inside_a_character(server: ServerProcess, max_tokens: int) -> None:
    """What is left of the character becomes U+FFFD, as in an answer that is not streamed."""
    body = {"messages": user("Speak."), "max_tokens": max_tokens, "response_format": only("🦥🦥")}
    streamed = text_of(server.post("/v1/chat/completions", body | {"stream": True}).events)
    assert streamed == server.post("/v1/chat/completions", body).json["choices"][0]["message"]["content"]
    assert len(streamed) > 0


def test_nearly_all_tokens_go_past_python() -> None:
    """What gunicorn would get to write is little; the rest is in the socket already, as chunks."""
    variables = {"MODEL_PATH": str(MODEL), "MODEL_CALIBRATE": "off", "MODEL_PARALLEL": "1", "MODEL_CONTEXT": "1024"}
    service = Service(config.read({**variables, "HTTP_WORKERS": "1", "EMBEDDING_MODEL": "none"}))
    service.start(Succession(), on_failure=lambda: None)
    try:
        eventually(lambda: service.status == "ok", "the model is loaded")
        ours, theirs = socket.socketpair()
        with ours, theirs:
            ours.settimeout(PATIENCE)
            exchange = Exchange({"gunicorn.socket": ours, "SERVER_PROTOCOL": "HTTP/1.1"}, service.metrics)
            vocab = service.loaded().vocab
            prompt = vocab.tokenize("One, two, three, four, five, six, seven, eight, nine, ten, eleven,")
            greedy = SamplingParams(temperature=0)
            request = Request(prompt, 100, greedy, ignore_eos=True, timings=exchange.timings)
            answer = Answer(service, service.loaded(), exchange, [request])
            reply = CompletionReply(answer, CompletionRequest(prompt="x", model="m"), "m")
            events = list(send(answer, reply, stream=True).response)
            relayed = theirs.recv(1 << 20)
    finally:
        service.close()
    assert answer.completion_tokens == 100
    assert relayed.count(b"\r\ndata: {") >= 90
    assert events[-1].endswith(b"data: [DONE]\n\n")
    assert sum(event.count(b"data: {") for event in events) + relayed.count(b"data: {") <= 101
    laps = [name for name, _, _ in exchange.timings.laps()]
    assert laps.count("detokenize") == 101  # one for the end


def test_a_connection_that_encrypts_is_left_to_python() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        with context.wrap_socket(ours, do_handshake_on_connect=False) as encrypting:
            exchange = Exchange({"gunicorn.socket": encrypting, "SERVER_PROTOCOL": "HTTP/1.1"}, Metrics("test"))
            texts = TokenTexts(cast(Any, Letters()), str.encode)
            assert make_relay(exchange, [PLAIN], texts, frozenset(), PATIENCE) is None


PLAIN = Request(np.arange(3, dtype=np.int32), 5)


@pytest.mark.parametrize(
    ("requests", "shown", "relayed"),
    [
        ([PLAIN], frozenset(), True),
        ([PLAIN, PLAIN], frozenset(), False),
        ([PLAIN], frozenset({7}), False),
        ([Request(PLAIN.prompt, 5, visible=frozenset({7}))], frozenset({7}), True),
        ([Request(PLAIN.prompt, 5, stop=("a",))], frozenset(), False),
        ([Request(PLAIN.prompt, 5, SamplingParams(logprobs=0))], frozenset(), False),
    ],
)
def test_who_goes_past_python(requests: list[Request], shown: frozenset[int], relayed: bool) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        exchange = Exchange({"gunicorn.socket": ours, "SERVER_PROTOCOL": "HTTP/1.1"}, Metrics("test"))
        texts = TokenTexts(cast(Any, Letters()), str.encode)
        assert (make_relay(exchange, requests, texts, shown, PATIENCE) is not None) is relayed
        exchange.answered = {}
        assert make_relay(exchange, requests, texts, shown, PATIENCE) is None


class Letters:
    """A vocabulary of three letters."""

    n_tokens = 3

    def token_bytes(self, token: int) -> bytes:
        return b"abc"[token : token + 1]
