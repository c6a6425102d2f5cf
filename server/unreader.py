"""Reads what a client sends, and gives a request's body a time limit as a whole.

gunicorn's own reader waits for each piece anew, so that a client which sends a byte now and then could hold a thread
for days. Knows sockets and seconds, nothing of HTTP.
"""

from __future__ import annotations

import math
import socket
import time
from collections.abc import Callable
from typing import Final

from gunicorn.http.unreader import SocketUnreader

#: So many bytes of a body buy it one more second: a slow line is no attack.
BYTES_PER_SECOND: Final = 16384

#: How often a thread that waits for a body looks whether it must hurry, in seconds.
LOOK_SECONDS: Final = 1.0


class TimedUnreader(SocketUnreader):
    """The reader of one connection."""

    def __init__(self, sock: socket.socket, seconds: float, busy_seconds: float, busy: Callable[[], bool]) -> None:
        """A body may take `seconds`, but `busy_seconds` while `busy()`; and a second more for so many bytes of it."""
        super().__init__(sock)
        self._seconds = seconds
        self._hurry = max(0.0, seconds - busy_seconds)
        self._busy = busy
        self._deadline = math.inf

    def begin_header(self) -> None:
        """What comes now is no body: it has no time limit here."""
        self._deadline = math.inf

    def begin_body(self) -> None:
        """Give what comes from now on its time."""
        self._deadline = time.monotonic() + self._seconds

    def chunk(self, size_hint: int | None = None) -> bytes:
        """Return what there is, b"" at the end. Raises TimeoutError when the time is up, the socket's own included."""
        if self._deadline == math.inf:
            return self._receive(size_hint)
        patience = self.sock.gettimeout()
        last = math.inf if patience is None else time.monotonic() + patience
        try:
            while (left := min(self._left(), last - time.monotonic())) > 0:
                self.sock.settimeout(min(left, LOOK_SECONDS))
                try:
                    data = self._receive(size_hint)
                except TimeoutError:
                    continue
                self._deadline += len(data) / BYTES_PER_SECOND
                return data
        finally:
            self.sock.settimeout(patience)
        raise TimeoutError("the body is late")

    def _receive(self, size_hint: int | None) -> bytes:
        data: bytes = super().chunk(size_hint)  # type: ignore[call-arg]
        return data

    def _left(self) -> float:
        return self._deadline - time.monotonic() - (self._hurry if self._busy() else 0.0)
