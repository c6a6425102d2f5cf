"""Starting and stopping: what the process says when it cannot start, while it loads, and how it ends."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from memory_group import memory_group
from server_process import MODEL, PATIENCE, ROOT, ServerProcess, eventually

from bench.ports import free_port
from server.stops import SAME_SIGNAL_SECONDS

Launch = Callable[..., ServerProcess]
GUNICORN = (sys.executable, "-m", "gunicorn")


def test_health_and_readiness_while_loading_and_after(launch: Launch) -> None:
    port = free_port()
    address = f"{'[::]' if has_ipv6() else '0.0.0.0'}:{port}"
    server = launch(MODEL_PARALLEL="8", MODEL_CONTEXT="4096", HTTP_ADDRESS=address)
    server.port = port
    server.wait_listening()
    assert check_of_the_image(address) == (1, f"{address}: loading model\n")
    alive, ready = [], []
    refused = None
    while not ready or ready[-1].status != 200:
        alive.append(server.get("/health"))
        ready.append(server.get("/ready"))
        if ready[-1].status == 503 and refused is None:
            refused = server.chat("hi", max_tokens=1)
        time.sleep(0.01)
    assert {answer.status for answer in alive} == {200}  # who restarts what is not alive must let it load
    assert ready[0].status == 503
    assert ready[0].headers["Retry-After"] == "2"
    for first in (alive[0], ready[0]):
        assert first.json["status"] == "loading model"
        assert 0 <= first.json["progress"] <= 1
    assert ready[-1].json == server.get("/health").json == {"status": "ok"}
    assert refused is not None
    if refused.status != 200:  # loading ended between the two requests otherwise
        assert refused.status == 503
        assert refused.error["code"] == "model_loading"
        assert refused.headers["Retry-After"] == "2"
    assert check_of_the_image(address) == (0, "")
    assert server.stop() == 0
    code, message = check_of_the_image(address)
    assert code == 1
    assert message.startswith(f"{address}: ConnectionRefusedError: ")


def has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


def check_of_the_image(address: str) -> tuple[int, str]:
    """Exit code and error output of the image's health check; there is a proxy that nobody reaches."""
    variables = {**os.environ, "HTTP_ADDRESS": address, "http_proxy": "http://127.0.0.1:9"}
    command = (sys.executable, "-m", "server.healthcheck")
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, check=False)
    return done.returncode, done.stderr


def only_error(server: ServerProcess) -> str:
    lines = server.output.splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    assert errors == lines, server.output
    assert len(errors) == 1
    return errors[0]


def test_a_missing_model_file(launch: Launch, tmp_path: Path) -> None:
    path = str(tmp_path / "none.gguf")
    server = launch(MODEL_PATH=path)
    assert server.wait_exit() == 1
    assert only_error(server) == f"error: MODEL_PATH={path!r} does not exist; put a GGUF file there or set MODEL_PATH"


def test_a_directory_as_model(launch: Launch, tmp_path: Path) -> None:
    server = launch(MODEL_PATH=str(tmp_path))
    assert server.wait_exit() == 1
    assert "is not a file" in only_error(server)


@pytest.mark.parametrize("size", [0, 100, 1_000_000])
def test_a_broken_model_file_ends_the_process(launch: Launch, tmp_path: Path, size: int) -> None:
    path = tmp_path / "broken.gguf"
    with MODEL.open("rb") as good:
        path.write_bytes(good.read(size))
    server = launch(MODEL_PATH=str(path))
    assert server.wait_exit() == 3
    (line,) = [line for line in server.output.splitlines() if " server: cannot load " in line]
    assert f"MODEL_PATH={path}: " in line
    assert server.output.count(" server: loading ") == 1  # no restart loop
    assert "Traceback" not in server.output


#: gunicorn's settings of this server, whose workers end together.
TOGETHER = """
import os
import time
from pathlib import Path

from server.gunicorn_settings import *

workers = 2

def worker_exit(server, worker):
    folder = Path({folder!r})
    (folder / str(os.getpid())).touch()
    while len(list(folder.iterdir())) < workers:
        time.sleep(0.01)
"""


def test_a_broken_model_file_ends_several_workers(launch: Launch, tmp_path: Path) -> None:
    """Each of them exits with the code at which gunicorn halts, the second one while it halts already."""
    path, settings, folder = tmp_path / "broken.gguf", tmp_path / "settings.py", tmp_path / "ended"
    path.write_bytes(b"GGUF")
    folder.mkdir()
    settings.write_text(TOGETHER.format(folder=str(folder)))
    server = launch(*GUNICORN, "-c", str(settings), "--pythonpath", ".", MODEL_PATH=str(path))
    assert server.wait_exit() == 3
    assert "Traceback" not in server.output
    lines = [line for line in server.output.splitlines() if " server: cannot load " in line]
    assert len(lines) == 2
    assert not list(Path("/dev/shm").glob(f"lucid-llm-metrics.{server.process.pid}.*"))  # the end was an orderly one


def test_an_embedding_model_as_chat_model(launch: Launch) -> None:
    server = launch(MODEL_PATH=str(MODEL.with_name("embed.gguf")))
    assert server.wait_exit() == 3
    assert "does not generate text; it is an embedding model" in server.output
    assert "Traceback" not in server.output


def too_little_memory(server: ServerProcess) -> str:
    """What the server says before it ends for want of memory."""
    assert server.wait_exit() == 3
    (line,) = (line for line in server.output.splitlines() if " server: cannot load " in line)
    assert server.output.count(" server: loading ") == 1
    assert "Traceback" not in server.output
    return line


def test_too_little_memory_for_the_context(launch: Launch) -> None:
    line = too_little_memory(launch(MODEL_PARALLEL="256", MODEL_CONTEXT="262144"))
    assert "the KV cache of 256 requests of up to 262144 tokens in f16 takes 1546.19 GB" in line
    assert "it would fit with MODEL_CONTEXT=" in line


def test_too_little_memory_in_a_control_group(launch: Launch) -> None:
    with memory_group(1_000_000_000) as inside:
        # KV cache and scratch alone would have room beside the mapped weights, which look free but are needed.
        sizes = {"MODEL_PARALLEL": "8", "MODEL_CONTEXT": "3584"}
        line = too_little_memory(launch("sh", "-c", inside, **sizes))
        assert "takes 661 MB" in line
        assert float(line.split(", but ")[1].split(" MB were free")[0]) < 1000
        planned = launch("sh", "-c", f"{inside} plan", **sizes)
        assert planned.wait_exit() == 1
        assert "DOES NOT FIT" in planned.output
        assert "it would fit with MODEL_PARALLEL=" in line


def test_a_reload_where_two_workers_have_no_room(launch: Launch) -> None:
    with memory_group(1_100_000_000) as inside:
        server = launch("sh", "-c", inside, EMBEDDING_MODEL="none", GRACEFUL_TIMEOUT="60")
        server.wait_ready()
        plan = server.get("/v1/engine").json["plan"]
        assert plan["parallel"] * plan["context"] >= 8192
        sock = server.open_chat("Tell a story.", stream=True, max_tokens=600, ignore_eos=True)
        data = sock.recv(4096)
        server.process.send_signal(signal.SIGHUP)
        eventually(lambda: "loading waits for its end" in server.output, "the new worker waits")
        while more := sock.recv(65536):
            data += more
        assert b"data: [DONE]" in data
        eventually(lambda: server.output.count(" server: ready: ") == 2, "the new worker is ready")
        assert server.get("/v1/engine").json["plan"] == plan
        assert "are chosen smaller" not in server.output
        assert server.stop() == 0


@pytest.mark.parametrize("name", ["HTTP_ADDRESS", "PROMETHEUS_HTTP_ADDRESS"])
def test_an_occupied_port(launch: Launch, name: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        server = launch(**{name: address})
        assert server.wait_exit() == 1
    assert only_error(server).startswith(f"error: {name}={address!r} cannot be used: Address already in use")


@pytest.mark.parametrize(
    "arguments",
    [("-c", "server/gunicorn_settings.py", "server.app:application"), ("-c", "python:server.gunicorn_settings")],
    ids=["file", "module"],
)
def test_plain_gunicorn_serves_too(launch: Launch, arguments: tuple[str, ...]) -> None:
    server = launch(*GUNICORN, *arguments, MODEL_CONTEXT="512", MODEL_PARALLEL="1")
    server.wait_ready()
    assert server.chat("hi", max_tokens=2).status == 200
    assert server.stop() == 0


def test_sigterm_lets_answers_finish(launch: Launch) -> None:
    server = launch(MODEL_CONTEXT="512", MODEL_PARALLEL="1")
    server.wait_ready()
    sock = server.open_chat("Tell a story.", stream=True, max_tokens=40, ignore_eos=True)
    data = sock.recv(4096)
    server.process.send_signal(signal.SIGTERM)
    while more := sock.recv(65536):
        data += more
    assert b'"finish_reason":"length"' in data
    assert b"data: [DONE]" in data
    assert server.wait_exit() == 0


@pytest.mark.parametrize("how", ["grace over", "interrupt", "second signal", "the same again"])
def test_answers_that_are_cut_off_end_with_an_error_event(launch: Launch, how: str) -> None:
    grace = "600" if how in ("second signal", "the same again") else "3"
    server = launch(MODEL_CONTEXT="8192", MODEL_PARALLEL="1", GRACEFUL_TIMEOUT=grace, LOG_LEVEL="debug")
    server.wait_ready()
    sock = server.open_chat("Tell a story.", stream=True, max_tokens=8000, ignore_eos=True)
    data = sock.recv(4096)
    assert data.startswith(b"HTTP/1.1 200 ")
    if how == "interrupt":
        os.killpg(server.process.pid, signal.SIGINT)  # what Ctrl-C does: every process of the group gets it
    else:
        server.process.send_signal(signal.SIGTERM)
    if how == "second signal":
        eventually(lambda: "Handling signal: term" in server.output, "the first one is being obeyed")
        server.process.send_signal(signal.SIGINT)
    if how == "the same again":
        os.killpg(server.process.pid, signal.SIGTERM)  # as if it were the first one still
        time.sleep(2 * SAME_SIGNAL_SECONDS)
        data += sock.recv(1 << 20)
        assert b"event: error" not in data
        server.process.send_signal(signal.SIGTERM)
    if how == "grace over":
        time.sleep(2.5)  # counted from here, the grace would outlast gunicorn's main loop
        data += sock.recv(1 << 20)
        assert b"event: error" not in data
        os.kill(server.worker, signal.SIGTERM)
    while more := sock.recv(65536):
        data += more
    assert b"event: error\ndata: " in data
    assert b'"code":"shutting_down"' in data
    assert b"[DONE]" not in data
    assert server.wait_exit() == 0
    assert "Traceback" not in server.output


@pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGTERM])
def test_clients_that_stall_hold_up_neither_the_others_nor_the_end(launch: Launch, sig: signal.Signals) -> None:
    server = launch(HTTP_WORKERS="1", MODEL_CONTEXT="512", MODEL_PARALLEL="1")
    server.wait_ready()

    def stall(sent: bytes) -> list[socket.socket]:
        sockets = [socket.create_connection(("127.0.0.1", server.port), PATIENCE) for _ in range(20)]
        for sock in sockets:
            sock.sendall(sent)
        return sockets

    stalled = stall(b"") + stall(b"GET /health HTTP/1.1\r\nHost: x\r\n")  # more than there are threads
    assert server.get("/health").status == 200
    stalled += stall(b"GET /health HTTP/1.1\r\nHost: x\r\n")
    os.killpg(server.process.pid, sig)
    assert server.wait_exit() == 0
    assert "SIGKILL" not in server.output
    for sock in stalled:
        sock.close()


def test_a_worker_that_dies_while_loading_is_not_replaced(launch: Launch) -> None:
    server = launch(MODEL_CONTEXT="8192", MODEL_PARALLEL="8")
    server.wait_listening()
    eventually(lambda: " server: loading " in server.output, "loading began")
    os.kill(server.worker, signal.SIGKILL)
    assert server.wait_exit() == 3
    assert "died while it was loading the model" in server.output
    assert server.output.count(" server: loading ") == 1


def test_a_reload_lets_the_old_worker_finish(launch: Launch) -> None:
    server = launch(MODEL_CONTEXT="8192", MODEL_PARALLEL="1", GRACEFUL_TIMEOUT="600")
    server.wait_ready()
    first = server.worker
    sock = server.open_chat("Tell a story.", stream=True, max_tokens=100, ignore_eos=True)
    data = sock.recv(4096)
    server.process.send_signal(signal.SIGHUP)
    while more := sock.recv(65536):
        data += more
    assert b'"finish_reason":"length"' in data
    assert b"data: [DONE]" in data
    eventually(lambda: server.output.count(" server: ready: ") == 2, "a second worker is ready")
    assert server.worker != first
    assert server.chat("hi", max_tokens=1).status == 200
    eventually(lambda: server.metric("lucid_generated_tokens_total") == 101, "what the first one counted is kept")
    assert server.metric("lucid_workers_lost_total") == 0
    assert server.stop() == 0


def test_libllama_is_loaded_after_the_fork_only(launch: Launch) -> None:
    server = launch(MODEL_CONTEXT="512", MODEL_PARALLEL="1")
    server.wait_ready()
    assert "libllama" in Path(f"/proc/{server.worker}/maps").read_text()
    assert "libllama" not in Path(f"/proc/{server.process.pid}/maps").read_text()


def test_an_interrupt_while_loading(launch: Launch) -> None:
    server = launch(MODEL_CONTEXT="8192", MODEL_PARALLEL="8")
    server.wait_listening()
    eventually(lambda: " server: loading " in server.output, "loading began")
    assert server.stop(signal.SIGINT) == 0
    assert "Traceback" not in server.output


def test_an_interrupt_while_measuring(launch: Launch, tmp_path: Path) -> None:
    server = launch(MODEL_CALIBRATE="on", MODEL_THREADS="0", XDG_CACHE_HOME=str(tmp_path))
    eventually(lambda: "measuring what is fastest" in server.output, "the measurement began")
    assert server.stop(signal.SIGINT) == 0
    assert " server: loaded " not in server.output  # it did not wait for the end of it
    assert "Traceback" not in server.output


def test_a_time_limit_ends_the_stream_with_an_error_event(launch: Launch) -> None:
    server = launch(MODEL_CONTEXT="8192", MODEL_PARALLEL="1", REQUEST_TIMEOUT="1.5")
    server.wait_ready()
    streamed = server.chat("Tell a story.", stream=True, max_tokens=8000, ignore_eos=True)
    assert streamed.status == 200
    assert b"event: error\n" in streamed.body
    assert streamed.events[-1]["error"]["code"] == "request_timeout"
    whole = server.chat("Tell a story.", max_tokens=8000, ignore_eos=True)
    assert whole.status == 504
    assert whole.error["code"] == "request_timeout"
    eventually(lambda: server.metric("lucid_requests_total", finish_reason="error") == 2, "both are counted")
    assert server.metric("inference_response_duration_count") == 0  # neither was complete

    import openai

    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    stream = client.chat.completions.create(
        model="rusty_llm", messages=[{"role": "user", "content": "Story"}], stream=True, max_tokens=8000,
        extra_body={"ignore_eos": True},
    )  # fmt: skip
    with pytest.raises(openai.APIError, match="Time is up"):
        for _ in stream:
            pass


def test_the_prompt_template_replaces_the_chat_template(launch: Launch) -> None:
    template = "<|im_start|>user\nContext: {context}\n{query} {query}<|im_end|>\n<|im_start|>assistant\n"
    server = launch(MODEL_CONTEXT="512", MODEL_PARALLEL="1", MODEL_PROMPT_TEMPLATE=template)
    server.wait_ready()
    one = server.chat([{"role": "system", "content": "A long text. " * 20}, {"role": "user", "content": "Hi"}])
    two = server.chat("Hi")
    assert one.json["usage"]["prompt_tokens"] == two.json["usage"]["prompt_tokens"] < 25
    assert one.json["choices"] == two.json["choices"]
    assert server.chat([{"role": "assistant", "content": "no user here"}]).error["param"] == "messages"


def test_an_alias_and_a_queue_timeout(launch: Launch) -> None:
    server = launch(MODEL_CONTEXT="4096", MODEL_PARALLEL="1", MODEL_ALIAS="my-model", QUEUE_TIMEOUT="0.5")
    server.wait_ready()
    assert server.get("/v1/models").json["data"][0]["id"] == "my-model"
    assert server.chat("hi", model="rusty_llm").status == 404
    sock = server.open_chat("Story", stream=True, max_tokens=4000, ignore_eos=True)
    assert sock.recv(4096).startswith(b"HTTP/1.1 200 ")
    waited = server.chat("hi", stream=True)
    assert waited.status == 503
    assert waited.error["code"] == "queue_timeout"
    assert int(waited.headers["Retry-After"]) >= 1
    sock.close()
