"""Runs a reader in a process of its own, with limits on time and memory, so that no file can hang or sink us.

The process is started when it is first needed and serves one call after another; when a file goes over a limit or
crashes the parser, or the caller stops, it is ended and the next call starts a new one. It does not get our
environment, and what it sends back is read as JSON: a parser that a file has taken over learns no secrets, and takes
over nothing more.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path

from knowledge.environment import bare_environment
from knowledge.readers.errors import SkippedError

#: Seconds that a file may take, and bytes of memory that its parser may use.
TIME_LIMIT = 60.0
MEMORY_LIMIT = 2 << 30
#: How many characters of text a file may give for each of its bytes, beyond the first 64 Ki: CSV and JSON repeat names
#: at every value, and PDF is compressed, but a file that grows more than this was made to grow.
GROWTH_LIMIT = 32
#: Seconds between two looks at the stop event.
_LOOK = 0.1

_lock = threading.Lock()
_process: subprocess.Popen[bytes] | None = None
_connection: Connection | None = None


def call(module: str, function: str, data: bytes, stop: threading.Event | None = None) -> str:
    """Returns what `function` of `module` makes of `data`.

    :param stop: breaks the reading off when it is set.
    :raises SkippedError: as the reader raises it, or with the limit that was reached, or the library that is missing.
    """
    with _lock:
        connection = _started()
        try:
            connection.send((module, function, data))
            until = time.monotonic() + TIME_LIMIT
            while not connection.poll(max(0.0, min(_LOOK, until - time.monotonic()))):
                stopped = stop is not None and stop.is_set()
                if stopped or time.monotonic() >= until:
                    _end()
                    reason = "was broken off" if stopped else f"takes longer than {TIME_LIMIT:g} s"
                    raise SkippedError(f"reading it {reason}", lasting=False)
            text, error = json.loads(connection.recv_bytes())
        except (EOFError, OSError, ValueError):
            raise SkippedError("its parser crashed", lasting=_crashed()) from None
    if error is not None:
        reason, lasting = error
        raise SkippedError(reason, lasting=lasting)
    return str(text)


def _started() -> Connection:
    global _process, _connection
    if _process is None or _connection is None or _process.poll() is not None:
        _end()
        ours, theirs = socket.socketpair()
        _connection = Connection(ours.detach())
        paths = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
        with theirs:
            _process = subprocess.Popen(
                [sys.executable, "-P", "-c", "from knowledge.readers import sandbox; sandbox.serve()"],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                env=bare_environment(PYTHONPATH=os.pathsep.join(paths)),
            )
    return _connection


def _crashed() -> bool:
    """Ends a process that went away; returns whether it was the file's doing, and nobody else ended it."""
    assert _process is not None
    code = None
    with contextlib.suppress(subprocess.TimeoutExpired):
        code = _process.wait(1)
    _end()
    return code not in (-signal.SIGTERM, -signal.SIGKILL)


@atexit.register
def _end() -> None:
    global _process, _connection
    if _process is not None:
        _process.kill()
        _process.wait()
    if _connection is not None:
        _connection.close()
    _process = _connection = None


def serve() -> None:
    """Does what comes over the standard input, a socket, until its other end is closed: the process's main function."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends us
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))
    connection = Connection(os.dup(sys.stdin.fileno()))
    while True:
        try:
            module, function, data = connection.recv()
        except EOFError:
            return
        answer = json.dumps(_attempt(module, function, data), ensure_ascii=False)
        connection.send_bytes(answer.encode(errors="surrogatepass"))


def _attempt(module: str, function: str, data: bytes) -> tuple[str | None, tuple[str, bool] | None]:
    try:
        text = getattr(importlib.import_module(module), function)(data)
        if len(text) > GROWTH_LIMIT * len(data) + (1 << 16):
            raise SkippedError(f"its text would be more than {GROWTH_LIMIT} times as long as the file")
        return text, None
    except SkippedError as error:
        return None, (str(error), error.lasting)
    except ImportError as error:
        reason = f"reading it needs the package {error.name}: pip install 'lucid-llm[documents]'"
        return None, (reason, False)
    except MemoryError:
        return None, (f"reading it takes more than {MEMORY_LIMIT >> 20} MiB of memory", True)
    except RecursionError:
        return None, ("it is nested too deeply", True)
    except Exception as error:  # noqa: BLE001 - a parser may raise anything for a damaged file
        return None, (f"its parser failed: {type(error).__name__}: {error}"[:300], True)
