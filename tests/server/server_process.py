"""Starts a real server process and talks to it over real sockets."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Self

from prometheus_client.parser import text_string_to_metric_families

from bench.ports import free_port

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "model" / "model.gguf"

#: Longest wait for anything, in seconds; a passing test never comes near it.
PATIENCE = 90.0


class Answer(NamedTuple):
    """A whole HTTP response."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        """The object under `error`, checked to have OpenAI's four fields."""
        error = self.json["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert isinstance(error["message"], str) and error["message"]
        assert isinstance(error["type"], str)
        return error  # type: ignore[no-any-return]

    @property
    def events(self) -> list[Any]:
        """The data of a stream's events: decoded JSON, and the end mark as it is."""
        blocks = self.body.decode().split("\n\n")
        assert blocks.pop() == ""
        data = [
            line.removeprefix("data: ") for block in blocks for line in block.split("\n") if line.startswith("data: ")
        ]
        return [text if text == "[DONE]" else json.loads(text) for text in data]


def environment(**variables: str) -> dict[str, str]:
    """This process's environment without our own variables, plus `variables`.

    One thread and no calibration, so that tests do not depend on what else the machine does; no documents.
    """
    from server.config import variables as known

    kept = {name: value for name, value in os.environ.items() if name not in known()}
    quick = {"MODEL_PATH": str(MODEL), "MODEL_THREADS": "1", "MODEL_CALIBRATE": "off", "KNOWLEDGE_MODE": "off"}
    return {**kept, **quick, **variables}


def user(text: str) -> list[dict[str, str]]:
    """A conversation of one user message."""
    return [{"role": "user", "content": text}]


def eventually(check: Callable[[], bool], what: str) -> None:
    """Wait until `check()` is true; fails with `what` if it never is."""
    deadline = time.monotonic() + PATIENCE
    while not check():
        assert time.monotonic() < deadline, f"never happened: {what}"
        time.sleep(0.02)


class ServerProcess:
    """`python -m server` (or another command) on free ports, its output in a file."""

    def __init__(self, log: Path, *command: str, **variables: str) -> None:
        self.port = free_port()
        self.metrics_port = free_port()
        self.log = log
        ports = {
            "HTTP_ADDRESS": f"127.0.0.1:{self.port}",
            "PROMETHEUS_HTTP_ADDRESS": f"127.0.0.1:{self.metrics_port}",
        }
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                command or (sys.executable, "-m", "server"),
                cwd=ROOT,
                env=environment(**{**ports, **variables}),
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.stop()

    @property
    def output(self) -> str:
        """What the process has written so far."""
        return self.log.read_text(errors="replace")

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def worker(self) -> int:
        """The process id of the master's only child, once there is one."""
        children: list[str] = []

        def forked() -> bool:
            children[:] = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
            return len(children) == 1

        eventually(forked, "there is one worker")
        return int(children[0])

    def wait_listening(self) -> None:
        """Wait until connections are accepted."""

        def connects() -> bool:
            assert self.process.poll() is None, self.output
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=5).close()
            except OSError:
                return False
            return True

        eventually(connects, "the server listens")

    def wait_ready(self) -> None:
        """Wait until the model is loaded."""
        self.wait_listening()

        def ready() -> bool:
            try:
                return self.get("/ready").status == 200
            except OSError:
                assert self.process.poll() is None, self.output
                return False

        eventually(ready, "the server is ready")

    def wait_exit(self) -> int:
        """Wait for the process to end by itself; returns the exit code."""
        return self.process.wait(PATIENCE)

    def stop(self, sig: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal to the process, wait for its end, return the exit code."""
        self.process.send_signal(sig)
        try:
            return self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            raise

    def request(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
        """One request on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            names = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body, names)
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Answer:
        return self.request("GET", path, **headers)

    def post(self, path: str, body: object, **headers: str) -> Answer:
        """POST `body` as JSON, or as it is if it is bytes."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.request("POST", path, data, **{"Content_Type": "application/json", **headers})

    def chat(self, messages: str | list[dict[str, Any]], **fields: Any) -> Answer:
        """POST a chat completion; greedy and uncached unless `fields` say otherwise, so that it can be repeated."""
        content = user(messages) if isinstance(messages, str) else messages
        repeatable = {"temperature": 0, "max_tokens": 16, "cache_prompt": False}
        return self.post("/v1/chat/completions", {"messages": content, **repeatable, **fields})

    def open_chat(self, messages: str, **fields: Any) -> socket.socket:
        """Send a chat completion request; return the socket, from which nothing has been read."""
        body = json.dumps({"messages": user(messages), **fields}).encode()
        sock = socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)
        head = "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        sock.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        return sock

    def metrics_up(self) -> bool:
        """True if a scrape is answered."""
        try:
            return bool(self.metrics_text())
        except OSError:
            return False

    def metrics_text(self, **headers: str) -> str:
        """What Prometheus would read."""
        connection = http.client.HTTPConnection("127.0.0.1", self.metrics_port, timeout=PATIENCE)
        try:
            connection.request("GET", "/metrics", headers=headers)
            response = connection.getresponse()
            assert response.status == 200
            return response.read().decode()
        finally:
            connection.close()

    def metric(self, name: str, **labels: str) -> float:
        """The sum of the samples called `name` that have these labels."""
        return sum(
            sample.value
            for family in text_string_to_metric_families(self.metrics_text())
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def wait_idle(self) -> None:
        """Wait until nothing is being computed and nothing waits."""
        eventually(
            lambda: self.metric("lucid_requests_running") + self.metric("lucid_requests_waiting") == 0,
            "the engine is idle",
        )
