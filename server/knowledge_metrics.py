"""The size of the knowledge base as Prometheus metrics, read from its store at each scrape.

Knows what a store says about itself; counts nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from knowledge.store import StoreError, StoreStats

log = logging.getLogger("server")


class KnowledgeMetrics(Collector):
    """Files, chunks, tokens and bytes of one knowledge base; nothing while its store cannot be asked."""

    def __init__(self, stats: Callable[[], StoreStats], instance_label: str) -> None:
        self._stats = stats
        self._label = instance_label

    def collect(self) -> Iterable[Metric]:
        """Yield every metric with its value now."""
        try:
            stats = self._stats()
        except StoreError as error:
            log.warning("the knowledge base does not say how large it is: %s", error)
            return
        yield self._gauge("files", "Files that can be searched.", stats.n_files)
        yield self._gauge("files_skipped", "Files with content of which nothing can be searched.", stats.n_skipped)
        yield self._gauge("chunks", "Passages that can be found.", stats.n_chunks)
        yield self._gauge("tokens", "Tokens of all passages.", stats.n_tokens)
        yield self._gauge("bytes", "Size of the store.", stats.n_bytes)

    def _gauge(self, name: str, meaning: str, value: float) -> Metric:
        family = GaugeMetricFamily(f"lucid_knowledge_{name}", meaning, labels=("instance_label",))
        family.add_metric((self._label,), value)
        return family
