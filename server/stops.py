"""What gunicorn's master process makes of signals that stop it: each is obeyed at once, whatever it does meanwhile.

As it is, a reload (SIGHUP) waits for the old workers before it looks at another signal, a signal that comes together
with SIGTERM is lost, a second SIGTERM means nothing, and a worker that is stopped within moments of its fork misses
that. Knows gunicorn's arbiter and signals; nothing of what workers do.
"""

from __future__ import annotations

import signal
import time
from types import FrameType
from typing import Final

from gunicorn.arbiter import Arbiter
from gunicorn.errors import HaltServer

from server.succession import Succession

#: What stops the server, or a worker.
STOPS: Final = frozenset((signal.SIGTERM, signal.SIGINT, signal.SIGQUIT))

#: A SIGTERM that comes within this many seconds after the first is the same one: supervisors that tell a process and
#: then its group send two within a moment.
SAME_SIGNAL_SECONDS: Final = 1.0


class _StoppedError(Exception):
    """A signal to stop came while a reload waited."""


class Stops:
    """Takes an arbiter's signals from now on, in their order."""

    def __init__(self, arbiter: Arbiter, succession: Succession) -> None:
        self._arbiter = arbiter
        self._succession = succession
        #: When the first signal to stop came, as a time of `time.monotonic`; 0: none has.
        self._first = 0.0
        #: Whether answers under way are to end now.
        self._forced = False
        self._reloading = False
        self._queue, self._spawn, self._reload = arbiter.signal, arbiter.spawn_worker, arbiter.reload
        self._reap, self._stop = arbiter.reap_workers, arbiter.stop
        for method in (self.signal, self.spawn_worker, self.reload, self.reap_workers, self.stop):
            setattr(arbiter, method.__name__, method)

    def signal(self, sig: int, frame: FrameType | None) -> None:
        """The handler of all signals: queue it. A second SIGTERM counts as SIGQUIT, which ends what is under way."""
        if sig in STOPS:
            self._first = self._first or time.monotonic()
            if sig == signal.SIGTERM and time.monotonic() - self._first > SAME_SIGNAL_SECONDS:
                sig = signal.SIGQUIT
            self._forced = self._forced or sig != signal.SIGTERM
        self._queue(sig, frame)

    def stop(self, graceful: bool = True) -> None:
        """Stop the workers. gunicorn takes signals from its queue in batches and obeys the first that stops."""
        self._stop(graceful and not self._forced)

    def reload(self) -> None:
        """Replace the workers, unless the server is to stop, and wait for the old ones until it is."""
        if self._first:
            return
        self._reloading = True
        self._succession.leaving = tuple(self._arbiter.WORKERS)
        try:
            self._reload()
        except _StoppedError:
            pass  # the main loop takes the signal from the queue
        finally:
            self._reloading = False
            self._succession.leaving = ()

    def reap_workers(self) -> None:
        """See which workers have ended.

        gunicorn raises `HaltServer` for each that says it could not boot, also out of the stop that the first one
        brought about: that would end in a traceback and exit code 1, before the hook `on_exit`.
        """
        try:
            self._reap()
        except HaltServer:
            if self._arbiter.LISTENERS:  # else it is stopping already
                raise
        if self._reloading and self._first:
            raise _StoppedError

    def spawn_worker(self) -> int:
        """Fork a worker, which lets signals to stop in when it has handlers of its own (`accept_signals`).

        Before that it has copies of the arbiter's, which put them where nobody looks.
        """
        before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
        try:
            return self._spawn()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def accept_signals() -> None:
    """Let signals to stop into this worker. To be called once its handlers are there."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPS)
