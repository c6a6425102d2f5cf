"""How long a scrape takes while the server is busy: a thread beside the clients that asks for /metrics all the time.

Knows the metrics' port; counts seconds and nothing of what a scrape holds.
"""

from __future__ import annotations

import http.client
import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from bench.drain import get

#: Seconds between two scrapes.
EVERY: Final = 0.25


@contextmanager
def scraping(metrics_port: int) -> Iterator[list[float]]:
    """Scrape during the `with` block; gives the seconds that each scrape took, infinite for one without an answer."""
    over = threading.Event()
    seconds: list[float] = []

    def run() -> None:
        while not over.wait(EVERY):
            begin = time.perf_counter()
            try:
                answered = bool(get(metrics_port, "/metrics"))
            except (OSError, http.client.HTTPException):
                answered = False
            seconds.append(time.perf_counter() - begin if answered else math.inf)

    thread = threading.Thread(target=run, name="scraper")
    thread.start()
    try:
        yield seconds
    finally:
        over.set()
        thread.join()
