"""Every error: the right status, OpenAI's body, the parameter's name, and a server that goes on."""

import json
import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from server_process import PATIENCE, Answer, ServerProcess, eventually, user
from werkzeug.routing import Map, Rule
from werkzeug.test import Client
from werkzeug.wrappers import Response

from server import config
from server.app import Application
from server.body import BODIES
from server.exchange import Exchange
from server.routes import Route
from server.service import Service


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": []}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": None}, "messages"),
        ({"messages": [{"role": "robot", "content": "hi"}]}, "messages[0].role"),
        ({"messages": [{"content": "hi"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            "messages[0].content[0]",
        ),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0]"),
        ({"max_tokens": "many"}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_completion_tokens": -1}, "max_completion_tokens"),
        ({"max_tokens": 10**30}, "max_tokens"),
        ({"temperature": 3}, "temperature"),
        ({"temperature": True}, "temperature"),
        ({"top_p": -0.5}, "top_p"),
        ({"min_p": 2}, "min_p"),
        ({"top_k": -2}, "top_k"),
        ({"typical_p": "x"}, "typical_p"),
        ({"repeat_penalty": 0}, "repeat_penalty"),
        ({"presence_penalty": 2.1}, "presence_penalty"),
        ({"frequency_penalty": -2.1}, "frequency_penalty"),
        ({"seed": 1.5}, "seed"),
        ({"stop": 5}, "stop"),
        ({"stop": ["a"] * 17}, "stop"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
        ({"n": 13}, "n"),
        ({"n": 129}, "n"),
        ({"n": 0}, "n"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"logit_bias": {"99999999": 1}}, "logit_bias"),
        ({"logit_bias": {"-1": 1}}, "logit_bias"),
        ({"logit_bias": {"5": 101}}, "logit_bias"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"tools": [{"type": "custom"}]}, "tools[0].type"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"response_format": {"type": "xml"}}, "response_format.type"),
        ({"modalities": ["text", "audio"]}, "modalities"),
    ],
    ids=str,
)
def test_a_bad_parameter_is_named(server: ServerProcess, fields: dict[str, Any], param: str) -> None:
    answer = server.post("/v1/chat/completions", {"messages": user("hi"), **fields})
    assert answer.status == 400
    assert answer.headers["Content-Type"] == "application/json"
    error = answer.error
    assert error["type"] == "invalid_request_error"
    assert error["param"] is not None
    assert error["param"].removesuffix("[...]") == param
    assert error["message"].startswith((f"{param}", "Missing required parameter"))


def test_missing_messages(server: ServerProcess) -> None:
    answer = server.post("/v1/chat/completions", {})
    assert (answer.status, answer.error["param"]) == (400, "messages")
    assert answer.error["message"] == "Missing required parameter: messages."


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"hello",
        b"{",
        b'{"messages": [}',
        b'{"temperature": NaN, "messages": []}',
        b'{"messages": [{"role": "user", "content": "\\ud800"}]}',
        b'{"messages": [{"role": "user", "content": "\xff"}]}',
        b'{"x": ' + b"[" * 100_000,
        b"\xef\xbb\xbf{}",
    ],
    ids=lambda body: body[:20],
)
def test_bad_json(server: ServerProcess, body: bytes) -> None:
    answer = server.post("/v1/chat/completions", body)
    assert answer.status == 400
    assert answer.error["type"] == "invalid_request_error"
    assert answer.error["code"] == "invalid_json"


@pytest.mark.parametrize("body", [b"[]", b"null", b"3", b'"text"'])
def test_json_of_another_kind(server: ServerProcess, body: bytes) -> None:
    answer = server.post("/v1/chat/completions", body)
    assert (answer.status, answer.error["code"]) == (400, "invalid_value")


def test_an_unknown_model(server: ServerProcess) -> None:
    answer = server.chat("hi", model="gpt-4o")
    assert answer.status == 404
    assert answer.error["code"] == "model_not_found"
    assert answer.error["param"] == "model"
    assert "gpt-4o" in answer.error["message"] and "rusty_llm" in answer.error["message"]


def test_an_unknown_route(server: ServerProcess) -> None:
    answer = server.get("/v1/nothing")
    assert answer.status == 404
    assert answer.error["type"] == "invalid_request_error"
    assert "/v1/nothing" in answer.error["message"]


def test_a_wrong_method(server: ServerProcess) -> None:
    answer = server.get("/v1/chat/completions")
    assert answer.status == 405
    assert answer.headers["Allow"] == "POST"
    assert answer.error["code"] == "method_not_allowed"
    assert server.post("/v1/models", {}).headers["Allow"] == "GET, HEAD"


def test_a_large_body(server: ServerProcess) -> None:
    declared = server.post("/v1/chat/completions", b" " * (16777216 + 1))
    assert declared.status == 413
    assert declared.error["code"] == "request_too_large"
    assert "16777216" in declared.error["message"]


def test_a_large_body_that_is_not_sent(server: ServerProcess) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as sock:
        sock.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Content-Length: 16777217\r\n\r\n"
        )
        assert sock.recv(4096).startswith(b"HTTP/1.1 413 ")


def test_a_large_body_of_unknown_length(server: ServerProcess) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as sock:
        sock.sendall(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
        )
        chunk = b"100000\r\n" + b" " * 0x100000 + b"\r\n"
        try:
            for _ in range(17):
                sock.sendall(chunk)
            sock.sendall(b"0\r\n\r\n")
        except (BrokenPipeError, ConnectionResetError):
            pass  # it need not take it all
        assert sock.recv(4096).startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize(
    "content_type", ["multipart/form-data; boundary=x", "image/png", "text/plain", "application/xml"]
)
def test_a_wrong_content_type(server: ServerProcess, content_type: str) -> None:
    answer = server.post("/v1/chat/completions", {"messages": user("hi")}, Content_Type=content_type)
    assert answer.status == 415
    assert answer.error["code"] == "unsupported_media_type"


def test_content_types_of_json_and_of_a_bare_curl(server: ServerProcess) -> None:
    body = json.dumps({"messages": user("hi"), "max_tokens": 1}).encode()
    path = "/v1/chat/completions"
    for content_type in (
        "application/json; charset=utf-8",
        "application/vnd.x+json",
        "application/x-www-form-urlencoded",
    ):
        assert server.post(path, body, Content_Type=content_type).status == 200
    assert server.request("POST", path, body).status == 200
    from_a_page = server.post(
        path, body, Content_Type="application/x-www-form-urlencoded", Origin="http://evil.example"
    )
    assert from_a_page.status == 415


def test_a_prompt_longer_than_the_context(server: ServerProcess) -> None:
    answer = server.chat("word " * 1500)
    assert answer.status == 400
    error = answer.error
    assert error["code"] == "context_length_exceeded"
    assert error["param"] == "messages"
    assert error["message"].startswith("This model's maximum context length is 1024 tokens. ")
    assert "1023 tokens" in error["message"]
    tokens = int(error["message"].split("have ")[1].split()[0])
    assert 1500 <= tokens < 1600


def test_a_prompt_far_longer_than_the_context_is_refused_unread(server: ServerProcess) -> None:
    answer = server.chat("a" * 10_000_000)
    assert answer.status == 400
    assert answer.error["code"] == "context_length_exceeded"
    assert "at least" in answer.error["message"]


def test_more_requests_than_the_queue_takes(server: ServerProcess) -> None:
    # Four run, eight wait; of forty at once some must be refused, and each must get an answer.
    with ThreadPoolExecutor(40) as pool:
        answers = list(pool.map(lambda n: server.chat(f"Count from {n}", max_tokens=24, ignore_eos=True), range(40)))
    refused = [answer for answer in answers if answer.status != 200]
    assert refused
    assert len(answers) - len(refused) >= 12
    for answer in refused:
        assert answer.status == 503
        assert int(answer.headers["Retry-After"]) >= 1
        assert answer.error["type"] == "server_error"
        assert answer.error["code"] == "queue_full"
    server.wait_idle()


def test_malformed_http_gets_the_same_kind_of_body(server: ServerProcess) -> None:
    start = b"GET /health HTTP/1.1\r\nHost: x\r\n"
    for request, status in (
        (b"NONSENSE\r\n\r\n", 400),
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n\r\n", 414),
        (start + b"Expect: a miracle\r\n\r\n", 417),
        (start + b"A: " + b"a" * 20000 + b"\r\n\r\n", 431),
        (start + b"A: a\r\n" * 101 + b"\r\n", 431),
        (start + b"Content-Length: x\r\n\r\n", 400),
        (start + b"Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
    ):
        with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as sock:
            sock.sendall(request)
            data = b""
            while more := sock.recv(65536):
                data += more
        head, _, body = data.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 %d " % status)
        assert json.loads(body)["error"]["type"] == "invalid_request_error"


def test_a_failure_of_ours_shows_no_internals() -> None:
    def fail(_service: Service, _exchange: Exchange) -> Response:
        raise RuntimeError("a secret")

    application = Application(Service(config.read({})))
    application._urls = Map([Rule("/broken", endpoint=Route("GET", "/broken", fail))])
    response = Client(application).get("/broken", headers={"X-Request-Id": "mine-3"})
    assert response.status_code == 500
    assert b"secret" not in response.data and b"RuntimeError" not in response.data
    error = json.loads(response.data)["error"]
    assert (error["type"], error["param"], error["code"]) == ("server_error", None, None)
    assert "mine-3" in error["message"]


def test_request_ids_go_in_and_out(server: ServerProcess) -> None:
    assert server.get("/health", X_Request_Id="mine-1").headers["X-Request-Id"] == "mine-1"
    made = {server.get("/health").headers["X-Request-Id"] for _ in range(3)}
    assert len(made) == 3 and all(name.startswith("req_") for name in made)
    assert server.get("/health", X_Request_Id="has spaces").headers["X-Request-Id"].startswith("req_")
    assert server.get("/nothing", X_Request_Id="mine-2").headers["X-Request-Id"] == "mine-2"
    eventually(lambda: "id=mine-2" in server.output, "the request is logged")


def test_bodies_that_take_too_much_together(server: ServerProcess) -> None:
    """Clients that keep the largest bodies all but complete cost no more than what the server allows them all."""
    size = 1 << 24  # MAX_BODY_BYTES
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n\r\n".encode()
    held = [socket.create_connection(("127.0.0.1", server.port), PATIENCE) for _ in range(BODIES // size)]
    for sock in held:
        sock.sendall(head + b" " * (size - 1))

    def large() -> Answer:
        return server.post("/tokenize", b" " * size)

    eventually(lambda: large().status == 503, "there is no room for another one")
    answer = large()
    assert answer.error["code"] == "too_many_requests"
    assert int(answer.headers["Retry-After"]) >= 1
    assert server.chat("hi", max_tokens=1).status == 200
    for sock in held:
        sock.close()
    eventually(lambda: large().error["code"] == "invalid_json", "there is room again")
