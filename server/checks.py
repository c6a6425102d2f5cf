"""What can be found wrong before the first fork: a missing model file, a port that somebody else has.

Each ends the start with one line and exit code 1. Knows paths and ports only; whether the file is a good model is
found out by loading it.
"""

from __future__ import annotations

import os
import socket
import sys
from typing import NoReturn

from gunicorn.arbiter import Arbiter

from server import config
from server.config import Address


def before_start(arbiter: Arbiter) -> None:
    """Gunicorn's `on_starting` hook; `arbiter` is its master process's object."""
    settings = config.current()
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


def _fail(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(1)
