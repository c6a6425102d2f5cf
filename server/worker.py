"""gunicorn's threaded worker, with what an inference server needs beside it.

It loads the model after the fork, ends the process instead of restarting it when that fails, ends answers that outlast
the grace period, and says what is wrong with malformed HTTP in the same JSON as every other error. Knows gunicorn's
worker protocol and when the service starts and ends.
"""

from __future__ import annotations

import math
import os
import queue
import signal
import socket
import sys
import threading
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

import msgspec
from gunicorn.http.errors import LimitRequestHeaders, LimitRequestLine, ParseException
from gunicorn.workers.gthread import ThreadWorker

from server import config
from server.errors import ApiError

if TYPE_CHECKING:
    from gunicorn.http.message import Request

    from server.app import Application

#: gunicorn's arbiter stops, rather than starting another worker, when one exits with this code.
WORKER_BOOT_ERROR: Final = 3

#: How long streams that were cut off may take to write their last event, in seconds.
LAST_WORDS: Final = 2


class Worker(ThreadWorker):
    """A gthread worker that owns one `server.app.Application`.

    Its signal handlers interrupt the main thread anywhere, with any lock held, so they only use what is safe there:
    `SimpleQueue.put` (gunicorn's own SIGQUIT handler takes the thread pool's lock and can wait for itself for ever).
    """

    wsgi: Application  # type: ignore[assignment]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        #: Seconds after which everything under way is to be ended; the latest entry counts.
        self._stops: queue.SimpleQueue[float] = queue.SimpleQueue()

    def run(self) -> None:
        """Serve until told to stop; exits with `WORKER_BOOT_ERROR` if the model cannot be loaded."""
        service = self.wsgi.service
        threading.Thread(target=self._run_closer, name="closer", daemon=True).start()
        address = service.config.prometheus_http_address
        try:
            service.metrics.serve(address)
        except OSError as error:
            self.log.error("PROMETHEUS_HTTP_ADDRESS=%s cannot be used: %s", address, error)
            sys.exit(WORKER_BOOT_ERROR)
        service.start(on_failure=self._stop)
        super().run()
        service.close()
        service.watcher.hang_up()
        if service.failed:
            sys.exit(WORKER_BOOT_ERROR)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """SIGTERM: finish what is under way, but not longer than GRACEFUL_TIMEOUT."""
        self._stop_within(config.current().graceful_timeout, sig, frame)

    def handle_quit(self, sig: int, frame: FrameType | None) -> None:
        """SIGINT and SIGQUIT: end what is under way now. Ctrl-C brings both."""
        self._stop_within(0, sig, frame)

    def _stop_within(self, seconds: float, sig: int, frame: FrameType | None) -> None:
        self.cfg.set("graceful_timeout", math.ceil(seconds) + LAST_WORDS)
        self._stops.put(seconds)
        super().handle_exit(sig, frame)

    def _run_closer(self) -> None:
        """Close the service when the time is up that a signal handler has left."""
        seconds: float | None = None
        while True:
            try:
                seconds = self._stops.get(timeout=seconds)
            except queue.Empty:
                self.wsgi.service.close()
                return

    def handle_error(
        self, req: Request | None, client: socket.socket, addr: str | int | tuple[str, int], exc: BaseException
    ) -> None:
        """Answer a request that is not proper HTTP, which therefore never reached the application."""
        if not isinstance(exc, ParseException):
            super().handle_error(req, client, addr, exc)
            return
        status, reason = 400, "Bad Request"
        if isinstance(exc, LimitRequestLine):
            status, reason = 414, "URI Too Long"
        elif isinstance(exc, LimitRequestHeaders):
            status, reason = 431, "Request Header Fields Too Large"
        body = msgspec.json.encode(ApiError(status, f"Malformed HTTP request: {exc}", code="malformed_http").body)
        head = (
            f"HTTP/1.1 {status} {reason}\r\nConnection: close\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        try:
            client.sendall(head.encode("ascii") + body)
        except OSError:
            self.log.debug("the client of a malformed request is gone")

    def _stop(self) -> None:
        """End this worker as SIGTERM does; callable from any thread."""
        os.kill(os.getpid(), signal.SIGTERM)
