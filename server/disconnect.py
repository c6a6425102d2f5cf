"""Notices clients that hang up while their answer is being computed.

gunicorn does not tell an application that its client is gone: it finds out when it writes, which before the first
token, and for an answer that is not streamed, is too late. One thread watches all such connections with epoll. Knows
sockets and callbacks, nothing of what is being computed.
"""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Callable

#: The peer closed its sending side or the whole connection, or reset it. A client that half-closes its connection
#: after the request (few do) counts as gone, as it does for other HTTP servers: TCP does not tell the two apart.
_GONE = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR


class DisconnectWatcher:
    """Calls back, from its own thread, when the peer of a watched socket goes away."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._lock = threading.Lock()
        self._watched: dict[int, Callable[[], None]] = {}
        threading.Thread(target=self._run, name="disconnect-watcher", daemon=True).start()

    def watch(self, sock: socket.socket, callback: Callable[[], None]) -> int:
        """Call `callback` once if the peer of `sock` goes away.

        Returns a handle for `unwatch`, which must be called before the socket is closed. Raises OSError or ValueError
        if the socket cannot be watched; then nothing is left to undo.
        """
        handle = sock.fileno()
        with self._lock:
            self._epoll.register(handle, _GONE | select.EPOLLONESHOT)
            self._watched[handle] = callback
        return handle

    def unwatch(self, handle: int) -> None:
        """Stop watching."""
        with self._lock:
            if self._watched.pop(handle, None) is not None:
                self._epoll.unregister(handle)

    def _run(self) -> None:
        while True:
            for handle, _ in self._epoll.poll():
                # The event may be that of an earlier connection that had the same file descriptor: ask again.
                with self._lock:
                    watched = self._watched.get(handle) if _peer_is_gone(handle) else None
                if watched is not None:
                    watched()


def _peer_is_gone(handle: int) -> bool:
    poll = select.poll()
    poll.register(handle, select.POLLRDHUP)
    return bool(poll.poll(0))
