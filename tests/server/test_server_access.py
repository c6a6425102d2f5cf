"""Who may use the API: keys, pages of other origins, request ids."""

import contextlib
import dataclasses
import http.client
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from server_process import PATIENCE, Answer, ServerProcess, eventually, user

from server import config
from server.auth import Keys
from server.config import ConfigError
from server.errors import ApiError
from server.kinds import key_digest
from server.routes import ROUTES

KEY, FILE_KEY = "sk-from-the-environment", "sk-from-the-file"
PAGE = "https://page.example"


@pytest.fixture(scope="module")
def key_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("keys") / "keys"
    path.write_text(f"# for the tests\n\n  {FILE_KEY}  \n")
    return path


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, key_file: Path) -> Iterator[ServerProcess]:
    """A server that wants keys and admits one origin."""
    variables = {"API_KEYS": f"sk-another, {KEY}", "API_KEYS_FILE": str(key_file), "CORS_ORIGINS": f"null,{PAGE}"}
    log = tmp_path_factory.mktemp("guarded") / "log"
    with ServerProcess(log, MODEL_PARALLEL="1", MODEL_CONTEXT="256", **variables) as process:
        process.wait_ready()
        yield process


def ask(server: ServerProcess, **headers: str) -> Answer:
    return server.post("/v1/chat/completions", {"messages": user("hi"), "max_tokens": 1}, **headers)


def path_of(pattern: str) -> str:
    """A path that matches a route's pattern."""
    return pattern.split("<")[0] + ("x" if "<" in pattern else "")


@pytest.mark.parametrize("key", [KEY, "sk-another", FILE_KEY])
def test_each_key_opens(guarded: ServerProcess, key: str) -> None:
    assert ask(guarded, Authorization=f"Bearer {key}").status == 200
    assert ask(guarded, Authorization=f"bearer  {key}").status == 200


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_every_route_that_is_not_open_needs_a_key(guarded: ServerProcess, route: object) -> None:
    answer = guarded.request(route.method, path_of(route.path))  # type: ignore[attr-defined]
    if route.open:  # type: ignore[attr-defined]
        assert answer.status in (200, 404)  # some files of the page do not exist
        return
    assert answer.status == 401
    assert answer.error["code"] == "invalid_api_key"
    assert answer.error["type"] == "invalid_request_error"
    assert answer.headers["WWW-Authenticate"] == 'Bearer realm="lucid-llm"'


def test_what_is_open_is_so_by_choice() -> None:
    assert {route.path for route in ROUTES if route.open} == {"/", "/page/<name>", "/health", "/ready", "/openapi.json"}


@pytest.mark.parametrize(
    "value", ["Bearer wrong", f"Bearer {KEY}x", f"Bearer {KEY[:-1]}", f"Basic {KEY}", KEY, "Bearer", "Bearer \xff"]
)
def test_other_credentials_do_not(guarded: ServerProcess, value: str) -> None:
    answer = ask(guarded, Authorization=value)
    assert answer.status == 401
    assert answer.error["code"] == "invalid_api_key"
    assert answer.headers["WWW-Authenticate"].startswith("Bearer ")


def test_the_sdk_sees_an_authentication_error(guarded: ServerProcess) -> None:
    base = f"{guarded.url}/v1"
    with openai.OpenAI(base_url=base, api_key="wrong", max_retries=0) as client:
        with pytest.raises(openai.AuthenticationError) as caught:
            client.models.list()
        assert caught.value.code == "invalid_api_key"
    with openai.OpenAI(base_url=base, api_key=KEY, max_retries=0) as client:
        assert client.models.list().data[0].id == "rusty_llm"


def test_the_key_file_is_read_again(guarded: ServerProcess, key_file: Path) -> None:
    def status(key: str) -> int:
        return guarded.get("/v1/models", Authorization=f"Bearer {key}").status

    replacement = key_file.with_suffix(".new")
    replacement.write_text("sk-newer\n")
    replacement.rename(key_file)
    assert (status("sk-newer"), status(FILE_KEY), status(KEY)) == (200, 401, 200)
    key_file.write_text("not a key\n")
    assert (status("sk-newer"), status("not")) == (200, 401)
    key_file.unlink()
    assert status("sk-newer") == 200
    key_file.write_text(FILE_KEY)
    assert (status("sk-newer"), status(FILE_KEY)) == (401, 200)


def test_no_key_is_ever_logged(guarded: ServerProcess) -> None:
    ask(guarded, Authorization="Bearer sk-presented-but-wrong")
    ask(guarded, Authorization=f"Bearer {KEY}")
    assert not [key for key in (KEY, FILE_KEY, "sk-another", "sk-presented-but-wrong") if key in guarded.output]


def test_without_keys_everybody_may(server: ServerProcess) -> None:
    assert ask(server).status == 200
    assert ask(server, Authorization="Bearer whatever").status == 200


def test_a_configuration_does_not_show_its_keys() -> None:
    read = config.read({"API_KEYS": KEY})
    assert read.api_keys == (key_digest(KEY),)
    assert KEY not in str(dataclasses.asdict(read))
    assert KEY not in repr(read)
    for variables in ({"API_KEYS": f"{KEY} x"}, {"API_KEY": KEY}, {"API_KEYS": f"{KEY},,"}):
        with pytest.raises(ConfigError) as caught:
            config.read(variables)
        assert KEY not in str(caught.value)
    url = "postgresql://user:word@host/knowledge"
    assert "word@" not in repr(config.read({"KNOWLEDGE_URL": url}))
    with pytest.raises(ConfigError) as caught:
        config.read({"KNOWLEDGE_URLS": url})
    assert "word@" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "reason"),
    [(None, "cannot be read"), ("# nothing\n", "holds no key"), ("sk-a\nsk b\n", "line 2 is not a key")],
)
def test_a_key_file_that_cannot_be_used_ends_the_start(
    launch: type[ServerProcess], tmp_path: Path, content: str | None, reason: str
) -> None:
    file = tmp_path / "keys"
    if content is not None:
        file.write_text(content)
    process = launch(API_KEYS_FILE=str(file))
    assert process.wait_exit() == 2
    assert process.output.startswith(f"error: API_KEYS_FILE={str(file)!r} ")
    assert reason in process.output
    assert "sk b" not in process.output


def test_a_key_is_bytes_to_the_comparison() -> None:
    with pytest.raises(ApiError):
        Keys((key_digest("a"),), None).check("Bearer \u0430")  # a Cyrillic a
    Keys((), None).check("")


def test_a_page_of_an_allowed_origin_can_read_every_answer(guarded: ServerProcess) -> None:
    key = f"Bearer {KEY}"
    chat = {"messages": user("hi"), "max_tokens": 1}
    answers = [
        guarded.get("/health", Origin=PAGE),
        guarded.get("/nothing", Origin=PAGE),
        guarded.get("/v1/models", Origin=PAGE),
        guarded.get("/v1/chat/completions", Origin=PAGE),
        guarded.post("/v1/chat/completions", {}, Origin=PAGE, Authorization=key),
        guarded.post("/v1/chat/completions", chat, Origin=PAGE, Authorization=key),
        guarded.post("/v1/chat/completions", {**chat, "stream": True}, Origin=PAGE, Authorization=key),
    ]
    assert [answer.status for answer in answers] == [200, 404, 401, 405, 400, 200, 200]
    for answer in answers:
        assert answer.headers["Access-Control-Allow-Origin"] == PAGE
        assert "X-Request-Id" in answer.headers["Access-Control-Expose-Headers"]
        assert answer.headers["Vary"] == "Origin"
        assert "Access-Control-Allow-Credentials" not in answer.headers


def test_a_preflight_needs_no_key(guarded: ServerProcess) -> None:
    asked = "authorization,content-type,x-stainless-os"
    answer = guarded.request(
        "OPTIONS",
        "/v1/chat/completions",
        Origin=PAGE,
        Access_Control_Request_Method="POST",
        Access_Control_Request_Headers=asked,
    )
    assert (answer.status, answer.body) == (204, b"")
    assert answer.headers["Access-Control-Allow-Origin"] == PAGE
    assert "POST" in answer.headers["Access-Control-Allow-Methods"].split(", ")
    assert answer.headers["Access-Control-Allow-Headers"] == asked
    assert set(answer.headers.get_all("Vary", [])) == {"Origin", "Access-Control-Request-Headers"}


@pytest.mark.parametrize("origin", ["https://evil.example", f"{PAGE}.evil.example", "http://page.example"])
def test_a_page_of_another_origin_gets_no_permission(guarded: ServerProcess, origin: str) -> None:
    preflight = guarded.request("OPTIONS", "/v1/models", Origin=origin, Access_Control_Request_Method="GET")
    assert preflight.status == 405
    plain = guarded.get("/v1/models", Origin=origin, Authorization=f"Bearer {KEY}")
    for answer in (preflight, plain):
        assert not [name for name in answer.headers if name.lower().startswith("access-control-")]
        assert answer.headers["Vary"] == "Origin"


def test_cors_is_off_by_default(server: ServerProcess) -> None:
    preflight = server.request("OPTIONS", "/v1/models", Origin=PAGE, Access_Control_Request_Method="GET")
    assert preflight.status == 405
    for answer in (preflight, server.get("/v1/models", Origin=PAGE)):
        assert not [name for name in answer.headers if name.lower().startswith("access-control-")]


def test_any_origin(launch: type[ServerProcess]) -> None:
    process = launch(CORS_ORIGINS="*", MODEL_PARALLEL="1", MODEL_CONTEXT="256")
    process.wait_listening()
    assert process.get("/nothing", Origin=PAGE).headers["Access-Control-Allow-Origin"] == "*"
    assert "Access-Control-Allow-Origin" not in process.get("/nothing").headers


@pytest.mark.parametrize("text", ["page.example", "https://Page.example", "https://a.example/", "*,https://a.example"])
def test_origins_are_as_browsers_write_them(text: str) -> None:
    with pytest.raises(ConfigError, match="CORS_ORIGINS"):
        config.read({"CORS_ORIGINS": text})


@pytest.mark.parametrize("given", ["has spaces", "a" * 129, 'quo"te', "semi;colon", "", "t\u00e4st"])
def test_an_unusable_request_id_is_replaced(server: ServerProcess, given: str) -> None:
    assert server.get("/health", X_Request_Id=given).headers["X-Request-Id"].startswith("req_")


def test_malformed_http_has_a_request_id_too(server: ServerProcess) -> None:
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as sock:
        sock.sendall(b"NONSENSE\r\n\r\n")
        data = b""
        while more := sock.recv(65536):
            data += more
    head = data.partition(b"\r\n\r\n")[0].decode().split("\r\n")
    request_id = next(line.partition(": ")[2] for line in head if line.startswith("X-Request-Id: "))
    assert f"id={request_id}" in server.output


def test_ready_says_when_the_server_is_full(launch: type[ServerProcess]) -> None:
    process = launch(MODEL_PARALLEL="1", MODEL_CONTEXT="512", QUEUE_LIMIT="0")
    process.wait_ready()
    assert (process.get("/ready").status, process.get("/ready").json) == (200, {"status": "ok"})
    with process.open_chat("Count.", stream=True, max_tokens=400, ignore_eos=True) as stream:
        eventually(lambda: process.get("/ready").status == 503, "the server is full")
        answer = process.get("/ready")
        assert answer.json["status"] == "full"
        assert int(answer.headers["Retry-After"]) > 0
        assert process.get("/health").status == 200
        assert stream.recv(1)
        # A prompt that is too long would be found out by reading it: a refusal comes before all work.
        long = "a" * 100_000
        asked = {"/v1/chat/completions": {"messages": user(long)}, "/v1/completions": {"prompt": long}}
        for path, body in {**asked, "/v1/responses": {"input": long}}.items():
            refused = process.post(path, body)
            assert (refused.status, refused.error["code"]) == (503, "queue_full")
    eventually(lambda: process.get("/ready").status == 200, "the server has room again")
    eventually(lambda: process.metric("lucid_requests_rejected_total", reason="queue_full") == 3, "they are counted")


def test_ready_says_when_the_server_drains(launch: type[ServerProcess]) -> None:
    process = launch(MODEL_PARALLEL="2", MODEL_CONTEXT="1024", GRACEFUL_TIMEOUT="90")
    process.wait_ready()
    with process.open_chat("Count.", stream=True, max_tokens=200, ignore_eos=True) as stream:
        assert stream.recv(1)
        connection = http.client.HTTPConnection("127.0.0.1", process.port, timeout=PATIENCE)
        with contextlib.closing(connection):
            assert ready(connection) == (200, b'{"status":"ok"}')
            os.kill(process.process.pid, signal.SIGTERM)
            eventually(lambda: ready(connection)[0] == 503, "the server drains")
            # That answer closed the connection, and a draining server takes no new one.
        rest = b""
        while data := stream.recv(65536):
            rest += data
        assert b"data: [DONE]" in rest


def ready(connection: http.client.HTTPConnection) -> tuple[int, bytes]:
    connection.request("GET", "/ready")
    response = connection.getresponse()
    body = response.read()
    assert response.status == 200 or b'"draining"' in body
    return response.status, body
