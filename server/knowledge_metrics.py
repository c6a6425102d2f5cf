"""The size and age of the knowledge base as Prometheus metrics.

A scrape asks for newer figures in a thread and is answered with those that are known a moment later, so that a database
which hangs does not delay it. Knows what the knowledge base says about itself; counts nothing.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from typing import Final

from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from knowledge.store import StoreClosedError, StoreError, StoreStats

#: Seconds that a scrape waits for a store. SQLite takes one or two thousandths, PostgreSQL nearby a few.
AT_ONCE: Final = 0.02

log = logging.getLogger("server")


class KnowledgeMetrics(Collector):
    """Files, chunks, tokens, bytes and age of one knowledge base; nothing while its store cannot be asked.

    Sizes are of now where the store tells them at once. They stay while it hangs, until it fails.

    :param stats: what the store holds; may take long, and raise `StoreError`.
    :param age: seconds since the store was last known to be current, told at once; None if it never was.
    """

    def __init__(self, stats: Callable[[], StoreStats], age: Callable[[], float | None], instance_label: str) -> None:
        self._stats = stats
        self._age = age
        self._label = instance_label
        self._known: StoreStats | None = None
        self._asking: threading.Thread | None = None
        self._ask()

    def collect(self) -> Iterable[Metric]:
        """Yield every metric with its last known value."""
        age = self._age()
        self._ask()
        stats = self._known
        if stats is None:
            return
        yield self._gauge("files", "Files that can be searched.", stats.n_files - stats.n_skipped)
        yield self._gauge("files_skipped", "Files with content of which nothing can be searched.", stats.n_skipped)
        yield self._gauge("chunks", "Passages that can be found.", stats.n_chunks)
        yield self._gauge("tokens", "Tokens of all passages.", stats.n_tokens)
        yield self._gauge("bytes", "Size of the store.", stats.n_bytes)
        if age is not None:
            yield self._gauge(
                "age_seconds",
                "Time since the store was last known to hold what the folder holds; 0 while changes are followed.",
                age,
            )

    def _ask(self) -> None:
        """Ask in a thread, unless one is still waiting for its answer, and wait for a moment."""
        if self._asking is None or not self._asking.is_alive():
            self._asking = threading.Thread(target=self._answer, name="knowledge-metrics", daemon=True)
            self._asking.start()
            self._asking.join(AT_ONCE)

    def _answer(self) -> None:
        try:
            self._known = self._stats()
        except StoreClosedError:  # the server ends
            self._known = None
        except StoreError as error:
            self._known = None
            log.warning("the knowledge base does not say how large it is: %s", error)

    def _gauge(self, name: str, meaning: str, value: float) -> Metric:
        family = GaugeMetricFamily(f"lucid_knowledge_{name}", meaning, labels=("instance_label",))
        family.add_metric((self._label,), value)
        return family
