"""The connections that the worker's threads are busy with, so that none of them can hold a thread for ever.

gunicorn reads a request's header without any time limit. Here each connection has a deadline for it, and all can be
broken off when the server stops. Breaking off is a shutdown of the socket, which wakes the thread that waits for it.
Knows sockets and times, nothing of HTTP.
"""

from __future__ import annotations

import contextlib
import errno
import math
import socket
import threading
import time
from collections.abc import Iterator
from typing import Final

#: What the system says when it has no descriptor, or no memory, for another connection.
SHORTAGES: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class Connections:
    """The sockets that are being served now, with the time until which each must have sent its header."""

    def __init__(self, header_timeout: float, busy_timeout: float, threads: int) -> None:
        """Headers may take `header_timeout` seconds from the first byte to the last.

        While all `threads` threads are taken they may take `busy_timeout` seconds only.
        """
        self._header_timeout = header_timeout
        self._hurry = header_timeout - busy_timeout
        self._threads = threads
        self._lock = threading.Lock()
        self._deadlines: dict[socket.socket, float] = {}
        self._ended = False

    @contextlib.contextmanager
    def serving(self, sock: socket.socket) -> Iterator[bool]:
        """Count `sock` as being served in the `with` block; gives False if it must not be any more."""
        with self._lock:
            self._deadlines[sock] = time.monotonic() + self._header_timeout
            served = not self._ended
        try:
            yield served
        finally:
            with self._lock:
                del self._deadlines[sock]

    def header_read(self, sock: socket.socket) -> None:
        """Lift the deadline of `sock`: its header is complete."""
        with self._lock:
            self._deadlines[sock] = math.inf

    @property
    def busy(self) -> bool:
        """Whether all threads are taken."""
        return len(self._deadlines) >= self._threads

    def break_off_late(self) -> None:
        """Break off connections whose header has not come in time."""
        self._break_off(time.monotonic() + (self._hurry if self.busy else 0))

    def break_off_unread(self) -> None:
        """Break off connections whose header is not complete, and let no more be served."""
        self._end(math.nextafter(math.inf, 0))

    def break_off_all(self) -> None:
        """Break off every connection, and let no more be served."""
        self._end(math.inf)

    def _end(self, deadline: float) -> None:
        with self._lock:
            self._ended = True
        self._break_off(deadline)

    def _break_off(self, deadline: float) -> None:
        with self._lock:
            for sock, last in self._deadlines.items():
                if last <= deadline:
                    with contextlib.suppress(OSError):
                        sock.shutdown(socket.SHUT_RDWR)


def half_close(sock: socket.socket, seconds: float) -> None:
    """Say that nothing more will be written, then throw away what the peer sends until it closes too.

    Closing at once would reset the connection if unread data is left, and the peer could lose the answer's end
    (RFC 9112, 9.6). Takes at most `seconds`, and leaves the socket shut down both ways.
    """
    deadline = time.monotonic() + seconds
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_WR)
        while (left := deadline - time.monotonic()) > 0:
            sock.settimeout(left)
            if not sock.recv(65536):
                break
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RD)
