"""The size and age of the knowledge base as Prometheus metrics, asked for at each scrape.

A scrape waits a moment for the answer and takes the last one otherwise, so that a database which hangs delays no
scrape. Knows what the knowledge base says about itself; counts nothing.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from typing import Final

from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from knowledge.knowledge import KnowledgeStats
from knowledge.store import StoreError

log = logging.getLogger("server")

#: Seconds that a scrape waits for the knowledge base.
_WAIT: Final = 0.5


class KnowledgeMetrics(Collector):
    """Files, chunks, tokens, bytes and age of one knowledge base; nothing while its store cannot be asked."""

    def __init__(self, stats: Callable[[], KnowledgeStats], instance_label: str) -> None:
        self._stats = stats
        self._label = instance_label
        self._known: KnowledgeStats | None = None
        self._asking: threading.Thread | None = None

    def _ask(self) -> None:
        try:
            self._known = self._stats()
        except StoreError as error:
            self._known = None
            log.warning("the knowledge base does not say how large it is: %s", error)

    def collect(self) -> Iterable[Metric]:
        """Yield every metric with its value now, or at the last scrape."""
        asking = self._asking
        if asking is None or not asking.is_alive():
            asking = self._asking = threading.Thread(target=self._ask, name="knowledge-metrics", daemon=True)
            asking.start()
        asking.join(_WAIT)
        known = self._known
        if known is None:
            return
        stats = known.store
        yield self._gauge("files", "Files that can be searched.", stats.n_files)
        yield self._gauge("files_skipped", "Files with content of which nothing can be searched.", stats.n_skipped)
        yield self._gauge("chunks", "Passages that can be found.", stats.n_chunks)
        yield self._gauge("tokens", "Tokens of all passages.", stats.n_tokens)
        yield self._gauge("bytes", "Size of the store.", stats.n_bytes)
        if known.age is not None:
            yield self._gauge(
                "age_seconds",
                "Time since the store was last known to hold what the folder holds; 0 while changes are followed.",
                known.age,
            )

    def _gauge(self, name: str, meaning: str, value: float) -> Metric:
        family = GaugeMetricFamily(f"lucid_knowledge_{name}", meaning, labels=("instance_label",))
        family.add_metric((self._label,), value)
        return family
