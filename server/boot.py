"""Keeps a server that cannot start from trying for ever.

Before the first fork: a missing model file, a useless key file or a port that somebody else has ends the start with
one line. After it: a worker process that dies before any has once been ready (libllama can abort on a bad file) ends
the server instead of being replaced, and so do several in a row that die before they have answered anything. Runs in
gunicorn's master process; knows paths, ports and processes, nothing of the model.
"""

from __future__ import annotations

import ctypes
import logging
import os
import socket
import sys
import time
from importlib.util import find_spec
from types import SimpleNamespace
from typing import TYPE_CHECKING, Final, NoReturn

import gunicorn.arbiter
from gunicorn.arbiter import Arbiter
from gunicorn.errors import HaltServer

from server import config
from server.auth import Keys
from server.config import ConfigError
from server.kinds import Address
from server.metrics_endpoint import Endpoint
from server.metrics_sum import WORKERS_LOST
from server.stops import Stops
from server.succession import Succession
from server.vitals import Ending

if TYPE_CHECKING:
    from server.worker import Worker

log = logging.getLogger("server")

#: Where all workers answer scrapes; opened by `before_start`.
_endpoint: Endpoint | None = None

#: What workers know of those before them.
_succession: Final = Succession()

#: A worker that ends within this many seconds of being ready, without having answered anything, has ended early.
EARLY_SECONDS: Final = 60.0

#: So many in a row that have ended early end the server.
EARLY_ENDINGS: Final = 3

#: How many did, up to now.
_early = 0

#: glibc's number for the most heaps that threads spread over (malloc.h), and how many are enough.
_M_ARENA_MAX: Final = -8
_ARENAS: Final = 2

#: Whether any worker was ever ready.
_ever_ready = False


def after_worker(arbiter: Arbiter, worker: Worker) -> None:
    """Gunicorn's `child_exit` hook: keep what a worker had counted, and count it if nobody had stopped it.

    Ends the server where another worker would fare no better: none was ever ready, or `EARLY_ENDINGS` in a row have
    ended early.
    """
    global _early, _ever_ready
    folder, vitals = endpoint().folder, worker.vitals
    lost = bool(arbiter.LISTENERS) and vitals.ending is not Ending.STOPPED
    try:
        folder.depart(str(worker.pid))
        if lost:
            labels = {"instance_label": config.current().instance_label, "cause": vitals.ending.label}
            folder.count(WORKERS_LOST, labels)
    except OSError as error:  # a full disk must not end the master process
        log.error("what worker %d had counted is lost: %s", worker.pid, error)
    _ever_ready = _ever_ready or vitals.ready_at > 0
    if not lost:
        return
    if not _ever_ready:
        raise HaltServer(f"worker {worker.pid} died while it was loading the model", Arbiter.WORKER_BOOT_ERROR)
    lasted = time.monotonic() - vitals.ready_at if vitals.ready_at else 0.0
    _early = 0 if vitals.answered or lasted > EARLY_SECONDS else _early + 1
    if _early >= EARLY_ENDINGS:
        raise HaltServer(
            f"{_early} workers in a row ended before they had answered anything; the log says how",
            Arbiter.WORKER_BOOT_ERROR,
        )


def endpoint() -> Endpoint:
    """Return where scrapes are answered: in the master, and in the workers that it forked."""
    if _endpoint is None:
        raise RuntimeError("start the server with server/gunicorn_settings.py")
    return _endpoint


def succession() -> Succession:
    """Return what a worker knows of those before it."""
    return _succession


def after_all(_: Arbiter) -> None:
    """Gunicorn's `on_exit` hook: remove what the workers shared."""
    if _endpoint is not None:
        _endpoint.folder.remove()


def before_start(arbiter: Arbiter) -> None:
    """Gunicorn's `on_starting` hook; `arbiter` is its master process's object."""
    # The master measures the grace period by the time of day: set forward meanwhile, it would kill what still answers.
    gunicorn.arbiter.time = SimpleNamespace(**{**vars(time), "time": time.monotonic})  # type: ignore[attr-defined]
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
    if "LISTEN_FDS" not in os.environ:  # else systemd has handed us the listening socket
        for bound in arbiter.cfg.address:
            if isinstance(bound, tuple):
                _check_free("HTTP_ADDRESS", Address(*bound[:2]))
    if settings.otel_exporter_otlp_endpoint and find_spec("opentelemetry.exporter") is None:
        _fail("OTEL_EXPORTER_OTLP_ENDPOINT needs the extra otel; pip install 'lucid-llm[otel]', or unset it")
    Stops(arbiter, _succession)
    arbiter.reexec = _refuse_second_master  # type: ignore[method-assign]
    _few_heaps()
    _open_endpoint(settings.prometheus_http_address)


def _refuse_second_master() -> None:
    """What SIGUSR2 does instead of starting another master on the same port: both would want the metrics' port."""
    log.warning("SIGUSR2 is not supported; docs/DEPLOYMENT.md says how to upgrade")


def _few_heaps() -> None:
    """Let the workers' threads share their heaps, where the C library is glibc.

    Each keeps the memory of its largest request, and by default there are eight for every processor.
    """
    if (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)) is not None:
        mallopt(_M_ARENA_MAX, _ARENAS)


def _open_endpoint(address: Address) -> None:
    global _endpoint
    try:
        _endpoint = Endpoint(address)
    except OSError as error:
        _cannot_use("PROMETHEUS_HTTP_ADDRESS", address, error)


def _check_free(name: str, address: Address) -> None:
    """Exit unless a server socket can be bound to `address`."""
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(*address, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(where)
    except OSError as error:
        _cannot_use(name, address, error)


def _cannot_use(name: str, address: Address, error: OSError) -> NoReturn:
    _fail(f"{name}={str(address)!r} cannot be used: {error.strerror or error}; free it or set {name}")


def _fail(message: str, code: int = 1) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(code)
