"""A pool of threads that makes do with those it has where the system gives it no more.

It starts a thread only when there is work for one, so a limit on processes (`pids.max`, `ulimit -u`) shows late: then
work waits for the threads that there are. Knows threads, not what they do.
"""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor

log = logging.getLogger("server")


class Threads(ThreadPoolExecutor):
    """A ThreadPoolExecutor whose `submit` does not fail for want of threads."""

    def _adjust_thread_count(self) -> None:
        """Start a thread if none is idle. `submit` calls this when the work is queued already."""
        try:
            super()._adjust_thread_count()
        except RuntimeError as error:
            log.warning("no more than %d threads: %s", len(self._threads), error)
