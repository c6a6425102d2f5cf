"""gunicorn's threaded worker, with what an inference server needs beside it.

It loads the model after the fork, ends the process instead of restarting it when that fails, ends answers that outlast
the grace period, and says what is wrong with malformed HTTP in the same JSON as every other error. Knows gunicorn's
worker protocol and when the service starts and ends.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from types import FrameType
from typing import TYPE_CHECKING, Final

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

#: What gunicorn may take longer than GRACEFUL_TIMEOUT to end, in seconds, so that cut-off streams get their last event.
MARGIN: Final = 5


class Worker(ThreadWorker):
    """A gthread worker that owns one `server.app.Application`."""

    wsgi: Application  # type: ignore[assignment]
    _quitting = False

    def run(self) -> None:
        """Serve until told to stop; exits with `WORKER_BOOT_ERROR` if the model cannot be loaded."""
        service = self.wsgi.service
        try:
            service.metrics.serve(service.config.prometheus_http_address)
            service.start(on_failure=self._stop)
            super().run()
        finally:
            service.close()
        if service.failed:
            sys.exit(WORKER_BOOT_ERROR)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """SIGTERM: finish what is under way, but not longer than GRACEFUL_TIMEOUT."""
        super().handle_exit(sig, frame)
        closer = threading.Timer(config.current().graceful_timeout, self.wsgi.service.close)
        closer.daemon = True
        closer.start()

    def handle_quit(self, sig: int, frame: FrameType | None) -> None:
        """SIGINT and SIGQUIT: stop now. Ctrl-C brings both, so only the first counts."""
        if not self._quitting:
            self._quitting = True
            super().handle_quit(sig, frame)

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
