"""GET /metrics on its own port, in a thread of its own, so that it answers while every HTTP thread is busy.

The master process opens the port before it forks; all workers accept on the one socket and any of them answers for
all (see `server.metrics_sum`). A worker that dies takes no connection with it. Knows sockets and WSGI, nothing of what
is counted.
"""

from __future__ import annotations

import io
import logging
import socket
import sys
import threading
import time
from socketserver import ThreadingMixIn
from typing import Any, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, make_wsgi_app

from server.connections import SHORTAGES
from server.kinds import Address
from server.metrics_sum import Folder, SummedMetrics

log = logging.getLogger("server.metrics")

#: Connections that are answered at once; further ones are closed.
MOST: Final = 16

#: How long a scraper may take to send its request, as a whole, in seconds.
READ_SECONDS: Final = 3.0

#: How long it may take to read the answer, in seconds.
WRITE_SECONDS: Final = 10.0

#: How long no connection is taken after there was no file descriptor for one, in seconds.
PAUSE: Final = 0.5


class Endpoint:
    """The open port and the workers' shared folder, made in the master process."""

    def __init__(self, address: Address) -> None:
        """Listen on `address`. Raises OSError if the port cannot be had."""
        family, kind, protocol, _, where = socket.getaddrinfo(*address, type=socket.SOCK_STREAM)[0]
        self._socket = socket.socket(family, kind, protocol)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._socket.bind(where)
            self._socket.listen(64)
        except OSError:
            self._socket.close()
            raise
        self._socket.setblocking(False)  # another worker may have taken the connection that woke this one
        self.folder = Folder()

    def serve(self, registry: CollectorRegistry) -> SummedMetrics:
        """Answer scrapes in this worker from now on, with `registry` and what the other workers left."""
        summed = SummedMetrics(registry, self.folder)
        summed.start()
        shown = CollectorRegistry(auto_describe=False)
        shown.register(summed)
        server = _Server(self._socket)
        server.set_app(make_wsgi_app(shown))
        threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()
        return summed


class _Handler(WSGIRequestHandler):
    """One connection, whose request must be there in time, and its answer be taken; it is not logged."""

    timeout = WRITE_SECONDS

    def setup(self) -> None:
        """Read with a deadline: socketserver's own limit begins anew with every byte."""
        super().setup()
        self.rfile = io.BufferedReader(_Timed(self.connection))

    def parse_request(self) -> bool:
        """Parse the request, then give the answer its own time."""
        parsed = super().parse_request()
        self.connection.settimeout(WRITE_SECONDS)
        return parsed

    def log_message(self, *_: Any) -> None:
        """Log nothing."""


class _Timed(socket.SocketIO):
    """What comes from a socket within `READ_SECONDS`; raises TimeoutError afterwards."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock, "r")
        self._socket = sock
        self._deadline = time.monotonic() + READ_SECONDS

    def readinto(self, buffer: Any) -> int | None:
        """Read what there is, or wait until the deadline."""
        self._socket.settimeout(max(0.001, self._deadline - time.monotonic()))
        return super().readinto(buffer)


class _Server(ThreadingMixIn, WSGIServer):
    """A thread for each connection of a socket that is listening already; `MOST` of them."""

    daemon_threads = True

    def __init__(self, listening: socket.socket) -> None:
        address = listening.getsockname()
        super().__init__(address, _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = listening
        self.server_name, self.server_port = address[:2]
        self.setup_environ()
        self._free = threading.BoundedSemaphore(MOST)

    def get_request(self) -> Any:
        """Take a connection. Raises OSError if there is none, which the caller passes over."""
        try:
            return super().get_request()
        except OSError as error:
            if error.errno in SHORTAGES:
                time.sleep(PAUSE)  # it is still there, so the caller would ask again at once
            raise

    def verify_request(self, request: Any, client_address: Any) -> bool:  # noqa: ARG002 - socketserver's interface
        """Return whether there is a thread for this connection."""
        return self._free.acquire(blocking=False)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Start a thread for a connection."""
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._free.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer one connection, in its thread."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002 - socketserver's interface
        """Log what ended a connection; a scraper that went away or sent nothing is no error."""
        level = logging.DEBUG if isinstance(sys.exception(), OSError) else logging.ERROR
        log.log(level, "a scrape broke off", exc_info=True)
