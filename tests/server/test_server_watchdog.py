"""What goes wrong below us: an engine that dies or gets stuck, libllama that aborts. Each worker is replaced."""

import contextlib
import http.client
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from books import Books
from server_process import MODEL, PATIENCE, Answer, ServerProcess, eventually

from server.watchdog import Watchdog, patience

Launch = Callable[..., ServerProcess]

#: gunicorn's settings of this server, with something that befalls the worker once the file `cause` exists.
SETTINGS = """
import ctypes, os, pathlib, signal, threading, time
from server.gunicorn_settings import *

libc = ctypes.CDLL(None)
cause = pathlib.Path({cause!r})

{befall}

def wait():
    while not cause.exists():
        time.sleep(0.05)
    cause.unlink()
    befall()
    pathlib.Path({done!r}).touch()

def post_worker_init(worker):
    libc.signal(signal.SIGRTMIN, ctypes.cast(libc.pause, ctypes.c_void_p))  # a thread that gets it stays there
    threading.Thread(target=wait, daemon=True).start()
"""

#: The engine's thread gets an exception.
DEATH = """
def befall():
    engine = next(thread for thread in threading.enumerate() if thread.name == "engine")
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(engine.ident), ctypes.py_object(MemoryError))
"""

#: libllama's compute threads, those that Python has not made, stop in the middle of a decode, which waits for them.
STUCK = """
def befall():
    ours = {os.getpid()} | {thread.native_id for thread in threading.enumerate()}  # after a fork the first is not known
    for task in map(int, os.listdir("/proc/self/task")):
        if task not in ours:
            libc.tgkill(os.getpid(), task, signal.SIGRTMIN)
"""

#: The embedding model computes a position that it has no vector for: GGML_ASSERT in a compute thread of libggml.
ABORT = f"""
def befall():
    from llama_native import Batch, Context, ContextParams, Model
    sizes = {{"n_ctx": 1024, "n_batch": 64, "n_ubatch": 64}}
    context = Context(Model({str(MODEL.with_name("embed.gguf"))!r}), ContextParams(embeddings=True, **sizes))
    batch = Batch(64)
    batch.add(5, 600, 0, output=True)
    context.encode(batch)
"""


class Doomed:
    """A server that something befalls on demand, with a stream under way and a request that waits for its end."""

    def __init__(self, launch: Launch, folder: Path, befall: str, **variables: str) -> None:
        self._cause, self._done, settings = folder / "cause", folder / "done", folder / "settings.py"
        settings.write_text(SETTINGS.format(cause=str(self._cause), done=str(self._done), befall=befall))
        command = (sys.executable, "-m", "gunicorn", "-c", str(settings), "--pythonpath", ".")
        sizes = {"MODEL_CONTEXT": "8192", "MODEL_PARALLEL": "1", "MODEL_THREADS": "2", "HTTP_WORKERS": "4"}
        self.server = launch(*command, **{**sizes, **variables})
        self.server.wait_ready()
        self._books = Books(self.server)  # asks for one answer
        self.worker = self._books.worker

    def befall(self, sig: signal.Signals | None = None) -> tuple[bytes, Answer | None, list[bytes]]:
        """Let it happen, and then send the server a signal.

        Returns what the stream still got, what the waiting request got (None: nothing), and what /health said
        meanwhile to a client that stayed connected.
        """
        waiting: list[Answer] = []
        healths: list[bytes] = []

        def wait() -> None:
            with contextlib.suppress(OSError, http.client.HTTPException):
                waiting.append(self.server.chat("And I?", max_tokens=1))

        def ask() -> None:
            connection = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=PATIENCE)
            try:
                while True:
                    connection.request("GET", "/health")
                    healths.append(connection.getresponse().read())
                    if connection.sock is None:
                        return
            except (OSError, http.client.HTTPException):
                connection.close()

        stream = self.server.open_chat("Tell a story.", stream=True, max_tokens=8000, ignore_eos=True)
        data = stream.recv(4096)
        assert data.startswith(b"HTTP/1.1 200 ")
        others = [threading.Thread(target=wait), threading.Thread(target=ask)]
        others[0].start()
        eventually(lambda: self.server.metric("lucid_requests_waiting") == 1, "the other request waits")
        others[1].start()
        eventually(lambda: healths, "the one who asks is connected")  # else the next worker would answer it for ever
        self._cause.touch()
        if sig is not None:
            eventually(self._done.exists, "it has happened")
            self.server.process.send_signal(sig)
        with contextlib.suppress(ConnectionResetError):
            while more := stream.recv(65536):
                data += more
        for thread in others:
            thread.join(PATIENCE)
        return data, waiting[0] if waiting else None, healths

    def check_refused(self) -> None:
        """A request is told that the next worker loads the model. To be called as soon as the first one ends."""
        eventually(lambda: not Path(f"/proc/{self.worker}").exists(), "the worker has ended")
        refused = self.server.chat("hi", max_tokens=1)
        assert refused.status == 503
        assert refused.error["code"] == "model_loading"
        assert int(refused.headers["Retry-After"]) >= 1

    def check_replaced(self, cause: str) -> None:
        """Another worker serves and holds no more than the first did; the loss is counted, so is what was before."""
        server = self.server
        eventually(lambda: server.output.count(" server: ready: ") == 2, "a second worker is ready")
        assert server.worker != self.worker
        assert server.chat("hi", max_tokens=1).status == 200
        assert server.metric("lucid_workers_lost_total", cause=cause) == 1
        assert server.metric("lucid_workers_lost_total") == 1
        eventually(lambda: server.metric("lucid_requests_total", finish_reason="length") == 2, "both are counted")
        # What ends the engine's thread is logged with where it came from; nobody else has anything to say.
        self._books.check_successor(tracebacks=1 if cause == "engine_failed" else 0)
        assert server.stop() == 0


def check_told(data: bytes, waiting: Answer | None, healths: list[bytes]) -> None:
    assert b"event: error\ndata: " in data
    assert b'"code":"engine_failed"' in data
    assert waiting is not None
    assert waiting.status == 503
    assert waiting.error["code"] == "engine_failed"
    assert waiting.headers["Retry-After"] == "5"
    assert healths[0] == b'{"status":"ok"}'
    assert b'"status":"engine failed"' in healths[-1]


def test_an_engine_that_dies(launch: Launch, tmp_path: Path) -> None:
    doomed = Doomed(launch, tmp_path, DEATH)
    check_told(*doomed.befall())
    doomed.check_replaced("engine_failed")
    assert doomed.server.output.count("the engine failed; this worker ends") == 1


def test_an_engine_that_is_stuck(launch: Launch, tmp_path: Path) -> None:
    doomed = Doomed(launch, tmp_path, STUCK, ENGINE_STALL_SECONDS="1.5")
    check_told(*doomed.befall())
    doomed.check_replaced("engine_stuck")
    assert "the engine has made no step for " in doomed.server.output


def test_a_stop_while_the_engine_is_stuck(launch: Launch, tmp_path: Path) -> None:
    doomed = Doomed(launch, tmp_path, STUCK, ENGINE_STALL_SECONDS="0", GRACEFUL_TIMEOUT="2")
    data, waiting, _ = doomed.befall(signal.SIGTERM)
    assert b'"code":"shutting_down"' in data
    assert waiting is not None
    assert (waiting.status, waiting.error["code"]) == (503, "shutting_down")
    assert doomed.server.wait_exit() == 0


def test_libllama_aborts(launch: Launch, tmp_path: Path) -> None:
    doomed = Doomed(launch, tmp_path, ABORT)
    data, _, _ = doomed.befall()
    assert b"[DONE]" not in data  # broken off: nobody was left to say why
    doomed.check_refused()
    doomed.check_replaced("crash")
    assert "GGML_ASSERT(i01 >= 0 && i01 < ne01) failed" in doomed.server.output
    assert "was sent SIGABRT" in doomed.server.output


def test_a_worker_that_is_killed(launch: Launch, tmp_path: Path) -> None:
    doomed = Doomed(launch, tmp_path, "def befall(): os.kill(os.getpid(), signal.SIGKILL)", MODEL_THREADS="1")
    data, _, _ = doomed.befall()
    assert b"[DONE]" not in data
    doomed.check_refused()
    doomed.check_replaced("crash")


def test_workers_that_die_again_and_again(launch: Launch, tmp_path: Path) -> None:
    settings = tmp_path / "settings.py"
    settings.write_text(
        "import os, threading, time\n"
        "from server.gunicorn_settings import *\n"
        "def die(service):\n"
        "    while service.status != 'ok': time.sleep(0.05)\n"
        "    os.abort()\n"
        "def post_worker_init(worker):\n"
        "    threading.Thread(target=die, args=(worker.wsgi.service,), daemon=True).start()\n"
    )
    server = launch(
        sys.executable, "-m", "gunicorn", "-c", str(settings), "--pythonpath", ".",
        MODEL_CONTEXT="256", MODEL_PARALLEL="1", EMBEDDING_MODEL="none",
    )  # fmt: skip
    assert server.wait_exit() == 3
    assert server.output.count(" server: loading ") == 3
    assert "3 workers in a row ended before they had answered anything" in server.output


def test_the_watchdog_counts_turns_that_stay_the_same() -> None:
    turn: int | None = 1
    watchdog = Watchdog({"it": (lambda: turn, 0.05)})
    assert watchdog.look() is None
    eventually(lambda: watchdog.look() is not None, "it is stuck in turn 1")
    turn = 2
    assert watchdog.look() is None
    turn = None
    for _ in range(3):
        assert watchdog.look() is None
    never = Watchdog({"it": (lambda: 1, 0)})
    assert not any(never.look() for _ in range(3))


def test_a_slow_model_gets_more_time() -> None:
    assert patience(None, 0.5) == 120
    assert patience(None, 10.0) == 1000
    assert patience(3.0, 10.0) == 3
    assert patience(0.0, 10.0) == 0
