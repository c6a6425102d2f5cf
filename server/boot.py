"""Keeps a server that cannot start from trying for ever.

Before the first fork: a missing model file, a useless key file or a port that somebody else has ends the start with
one line. After it: a worker process that dies before it has once been ready (libllama can abort on a bad file) ends
the server instead of being replaced. Runs in gunicorn's master process; knows paths, ports and processes, nothing of
the model.
"""

from __future__ import annotations

import mmap
import os
import socket
import sys
from typing import NoReturn

from gunicorn.arbiter import Arbiter
from gunicorn.errors import HaltServer
from gunicorn.workers.base import Worker

from server import config
from server.auth import Keys
from server.config import Address, ConfigError

#: One byte that master and workers share: 1 once any worker was ready.
_ready = mmap.mmap(-1, 1)


def mark_ready() -> None:
    """Note, in a worker, that the model is loaded."""
    _ready[0] = 1


def after_worker(arbiter: Arbiter, worker: Worker) -> None:
    """Gunicorn's `child_exit` hook: stop when a worker died while it was loading, unless all are being stopped."""
    if not _ready[0] and arbiter.LISTENERS:
        raise HaltServer(f"worker {worker.pid} died while it was loading the model", Arbiter.WORKER_BOOT_ERROR)


def before_start(arbiter: Arbiter) -> None:
    """Gunicorn's `on_starting` hook; `arbiter` is its master process's object."""
    settings = config.current()
    try:
        Keys(settings.api_keys or (), settings.api_keys_file)
    except ConfigError as error:
        _fail(str(error), 2)
    path = settings.model_path
    if not path.is_file():
        reason = "is not a file" if path.exists() else "does not exist"
        _fail(f"MODEL_PATH={str(path)!r} {reason}; put a GGUF file there or set MODEL_PATH")
    if not os.access(path, os.R_OK):
        _fail(f"MODEL_PATH={str(path)!r} cannot be read by this user")
    if not {"GUNICORN_FD", "LISTEN_FDS"} & os.environ.keys():  # else the listening socket was handed to us
        for bound in arbiter.cfg.address:
            if isinstance(bound, tuple):
                _check_free("HTTP_ADDRESS", Address(*bound[:2]))
    _check_free("PROMETHEUS_HTTP_ADDRESS", settings.prometheus_http_address)


def _check_free(name: str, address: Address) -> None:
    """Exit unless a server socket can be bound to `address`."""
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(*address, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(where)
    except OSError as error:
        _fail(f"{name}={str(address)!r} cannot be used: {error.strerror or error}; free it or set {name}")


def _fail(message: str, code: int = 1) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(code)
