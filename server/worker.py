"""gunicorn's threaded worker, with what an inference server needs beside it.

It loads the model after the fork, ends the process instead of restarting it when that fails, has it replaced when the
engine fails, ends answers that outlast the grace period, gives up clients that stall, and says what is wrong with
malformed HTTP in the same JSON as every other error. Knows gunicorn's worker protocol and when the service starts and
ends.
"""

from __future__ import annotations

import logging
import math
import os
import queue
import resource
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

import msgspec
from gunicorn.http.errors import ExpectationFailed, LimitRequestHeaders, LimitRequestLine, ParseException
from gunicorn.workers.gthread import _DEFER, TConn, ThreadWorker  # type: ignore[attr-defined]

from server import boot, config, stops
from server.connections import SHORTAGES, Connections, half_close
from server.errors import ApiError, internal
from server.request_id import request_id
from server.threads import Threads
from server.unreader import TimedUnreader
from server.vitals import Vitals

if TYPE_CHECKING:
    from gunicorn.http.message import Request

    from server.app import Application

access_log = logging.getLogger("server.access")

#: gunicorn's arbiter stops, rather than starting another worker, when one exits with this code.
WORKER_BOOT_ERROR: Final = 3

#: Exit code of a worker whose engine failed; the arbiter starts another.
ENGINE_FAILED: Final = 1

#: How long a new connection keeps a thread waiting for its first byte, in seconds, before epoll waits for it.
FIRST_BYTE_TIMEOUT: Final = 0.1

#: A client that has not sent the whole header this many seconds after its first byte is given up.
HEADER_TIMEOUT: Final = 10.0

#: The same while all threads are taken, so that clients that stall cannot keep them from the others.
BUSY_HEADER_TIMEOUT: Final = 1.0

#: While all threads are taken, a body must be there after this many seconds.
BUSY_BODY_TIMEOUT: Final = 5.0

#: Bytes of an answer that wait in the kernel for a client that is slow to read; Linux doubles it.
SEND_BUFFER: Final = 131072

#: File descriptors that connections leave to the rest of the process: threads that wait, the template's process, files.
RESERVED_FILES: Final = 24

#: Fewest connections taken, however few descriptors there are.
FEWEST_CONNECTIONS: Final = 8

#: How long a client may take to close a connection that is over, in seconds.
LINGER: Final = 2.0

#: How long streams that were cut off may take to write their last event, in seconds. An engine that is stuck takes 1.5
#: of them until it says so.
LAST_WORDS: Final = 2


class Worker(ThreadWorker):
    """A gthread worker that owns one `server.app.Application`.

    Its signal handlers interrupt the main thread anywhere, with any lock held, so they only use what is safe there:
    `SimpleQueue.put` (gunicorn's own SIGQUIT handler takes the thread pool's lock and can wait for itself for ever).
    """

    wsgi: Application  # type: ignore[assignment]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        #: How many seconds each signal leaves to what is under way; the one that ends first counts.
        self._stops: queue.SimpleQueue[float] = queue.SimpleQueue()
        self._connections = Connections(HEADER_TIMEOUT, BUSY_HEADER_TIMEOUT, self.cfg.threads)
        #: How many connections to take when nothing is short.
        self._most_connections = self.worker_connections
        #: Shared with the master process, in which this object is made.
        self.vitals = Vitals()

    def run(self) -> None:
        """Serve until told to stop.

        Exits with `WORKER_BOOT_ERROR` if the model cannot be loaded, with `ENGINE_FAILED` if the engine failed later.
        """
        service = self.wsgi.service
        service.vitals = self.vitals
        if not self.alive:  # it was stopped while it imported the application
            self.vitals.ending = service.ending
            service.close()
            return
        threading.Thread(target=self._run_closer, name="closer", daemon=True).start()
        summed = boot.endpoint().serve(service.metrics.registry)
        self._limit_connections()
        service.start(boot.succession(), on_failure=self._stop)
        super().run()
        engine_failed, stuck = service.engine_failed, service.loading_stuck
        self.vitals.ending = service.ending
        closing = threading.Thread(target=service.close, name="closing", daemon=True)
        closing.start()
        closing.join(LAST_WORDS if engine_failed or stuck else None)
        self._connections.break_off_all()
        summed.publish()
        if engine_failed or stuck:  # an orderly exit would wait for threads that wait for what is stuck
            os._exit(WORKER_BOOT_ERROR if stuck else ENGINE_FAILED)
        if service.failed:
            sys.exit(WORKER_BOOT_ERROR)

    def notify(self) -> None:
        """Tell the arbiter that the main loop turns, as it does once a second; look after what has failed or stalls."""
        super().notify()
        self._connections.break_off_late()
        self.wsgi.service.look_after()
        if self.alive and self.wsgi.service.loading_stuck:
            self.cfg.set("graceful_timeout", LAST_WORDS)
            self.alive = False
        if self.alive and self.wsgi.service.engine_failed:
            self.log.critical("the engine failed; this worker ends and another one takes its place")
            self.cfg.set("graceful_timeout", LAST_WORDS)
            self.alive = False

    def init_signals(self) -> None:
        """Take signals from now on; see `stops.Stops.spawn_worker`."""
        super().init_signals()
        stops.accept_signals()

    def get_thread_pool(self) -> Threads:
        """Return the pool of threads that serve connections."""
        return Threads(self.cfg.threads)

    def murder_pending(self) -> None:
        """Close connections that wait too long for their first byte; all such when the worker stops.

        Where there is no room for others, they have only as long as for a header when all threads are taken.
        """
        if not self.alive:
            for conn in self.pending_conns:
                conn.timeout = 0
        elif self.nr_conns >= self.worker_connections:
            latest = time.monotonic() + self.cfg.keepalive - BUSY_HEADER_TIMEOUT
            for conn in self.pending_conns:
                if conn.timeout < latest:
                    conn.timeout = 0
        super().murder_pending()

    def accept(self, listener: Any) -> None:
        """Take a connection. Where the system has nothing to make it of, make do for now."""
        try:
            super().accept(listener)
        except OSError as error:
            if error.errno not in SHORTAGES:
                raise
            self.log.warning("no more than %d connections: %s", self.nr_conns, error.strerror)
            self.worker_connections = max(FEWEST_CONNECTIONS, self.nr_conns)
            time.sleep(FIRST_BYTE_TIMEOUT)  # it would be tried again at once
        else:
            self.worker_connections = min(self._most_connections, self.worker_connections + 1)

    def set_accept_enabled(self, enabled: bool | None) -> None:
        """Begin or cease to take connections. A worker that ends takes those that the system has made, and lets go.

        gunicorn would keep the port open until the last answer is out, and then reset who had connected meanwhile.
        """
        super().set_accept_enabled(enabled)
        if enabled or self.alive:
            return
        for listener in self.sockets:
            before = -1
            while self.nr_conns > before:
                before = self.nr_conns
                self.accept(listener)
            listener.close()

    def _limit_connections(self) -> None:
        """Let connections take neither all file descriptors nor much of the kernel's memory."""
        listener: Any
        for listener in self.sockets:
            listener.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        room = files - sum(1 for _ in Path("/proc/self/fd").iterdir()) - RESERVED_FILES
        if room < self.worker_connections:
            self.worker_connections = self._most_connections = max(FEWEST_CONNECTIONS, room)
            self.max_keepalived = self.worker_connections // 2
            self.log.warning("%d connections at most: the limit of open files is %d", self.worker_connections, files)

    def handle(self, conn: TConn) -> Any:
        """Serve one request of a connection, in a thread of the pool; a false result ends the connection.

        gunicorn would let each silent connection have a thread for seconds, and make the main loop wait for clients
        that are slow to close.
        """
        if not conn.initialized and not conn.wait_for_data(FIRST_BYTE_TIMEOUT):
            return _DEFER
        fresh = not conn.initialized
        conn.init()
        parser: Any = conn.parser
        if fresh:
            seconds = config.current().client_timeout
            parser.unreader = TimedUnreader(conn.sock, seconds, BUSY_BODY_TIMEOUT, lambda: self._connections.busy)
        parser.unreader.begin_header()
        with self._connections.serving(conn.sock) as served:
            kept = served and super().handle(conn)
            if not kept:
                half_close(conn.sock, LINGER)
            return kept

    def handle_request(self, req: Request, conn: TConn) -> bool:
        """Serve a request whose header is there; False ends the connection."""
        self._connections.header_read(conn.sock)
        parser: Any = conn.parser
        parser.unreader.begin_body()
        conn.sock.settimeout(config.current().client_timeout)
        try:
            return bool(super().handle_request(req, conn))
        except TimeoutError:
            self.log.info("a client that did not read its answer was given up")
            return False

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """SIGTERM: finish what is under way, but not longer than GRACEFUL_TIMEOUT."""
        self._stop_within(config.current().graceful_timeout, sig, frame)

    def handle_quit(self, sig: int, frame: FrameType | None) -> None:
        """SIGINT and SIGQUIT: end what is under way now. Ctrl-C brings both."""
        self._stop_within(0, sig, frame)

    def _stop_within(self, seconds: float, sig: int, frame: FrameType | None) -> None:
        if self.booted:  # else there is no service yet, and `run` will see that it is over
            self.wsgi.service.draining = True
            self.cfg.set("graceful_timeout", math.ceil(seconds) + LAST_WORDS)
            self._stops.put(seconds)
        super().handle_exit(sig, frame)

    def _run_closer(self) -> None:
        """Close the service when the time is up that a signal handler has left."""
        seconds = self._stops.get()
        until = time.monotonic() + seconds
        while True:
            try:
                seconds = self._stops.get(timeout=max(0.0, until - time.monotonic()))
                until = min(until, time.monotonic() + seconds)
            except queue.Empty:
                self.wsgi.service.close()
                self._connections.break_off_unread()
                return

    def handle_error(
        self, _req: Request | None, client: socket.socket, _addr: str | int | tuple[str, int], exc: BaseException
    ) -> None:
        """Answer a request that is not proper HTTP, or that failed below the application, in its place."""
        name = request_id()
        status, reason = _verdict(exc)
        if status < 500:
            access_log.info("malformed HTTP, answered %d: %s id=%s", status, type(exc).__name__, name)
            error = ApiError(status, f"Malformed HTTP request: {exc}", code="malformed_http")
        else:
            access_log.error("a request failed below the application, id=%s", name, exc_info=exc)
            error = internal(name)
        body = msgspec.json.encode(error.body)
        head = (
            f"HTTP/1.1 {status} {reason}\r\nConnection: close\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\nX-Request-Id: {name}\r\n\r\n"
        )
        try:
            client.sendall(head.encode("ascii") + body)
        except OSError:
            self.log.debug("the client of a malformed request is gone")

    def _stop(self) -> None:
        """End this worker as SIGTERM does; callable from any thread."""
        os.kill(os.getpid(), signal.SIGTERM)


def _verdict(exc: BaseException) -> tuple[int, str]:
    """Return the status and its reason phrase for what failed below the application."""
    match exc:
        case LimitRequestLine():
            return 414, "URI Too Long"
        case ExpectationFailed():
            return 417, "Expectation Failed"
        case LimitRequestHeaders():
            return 431, "Request Header Fields Too Large"
        case ParseException():
            return 400, "Bad Request"
    return 500, "Internal Server Error"
