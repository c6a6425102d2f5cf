"""The engine's own figures as Prometheus metrics, read from one snapshot at the moment of the scrape.

Knows `EngineStats`, the engine's plan, and who waits for a turn before the engine. Nothing is counted here, so a scrape
costs requests nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from itertools import accumulate

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily
from prometheus_client.registry import Collector

from engine import Engine, Tally
from server.turns import Turns


class EngineCollector(Collector):
    """The metrics of one engine and its line, all with the label `instance_label`."""

    def __init__(self, engine: Engine, turns: Turns, instance_label: str) -> None:
        self._engine = engine
        self._turns = turns
        self._label = instance_label

    def collect(self) -> Iterable[Metric]:
        """Yield every metric with its value now."""
        stats, turns = self._engine.stats(), self._turns
        counters = stats.counters
        yield self._gauge("requests_running", "Requests being computed.", stats.running)
        yield self._gauge(
            "requests_waiting", "Requests waiting for their turn or a free sequence.", stats.waiting + turns.waiting
        )
        yield self._gauge(
            "queue_age_seconds",
            "How long the first waiting request has waited.",
            max(stats.oldest_wait, turns.oldest_wait),
        )
        yield self._gauge("sequences", "Sequences of the KV cache.", stats.sequences)
        yield self._gauge("sequences_cached", "Idle sequences that hold a reusable prefix.", stats.sequences_cached)
        yield self._gauge("kv_cells", "Cells of the KV cache, one a token.", stats.kv_cells)
        yield self._gauge("kv_cells_used", "Cells in use, by running requests or as prefix cache.", stats.kv_cells_used)
        yield self._gauge(
            "kv_cache_usage_ratio",
            "Share of the KV cells that running requests hold, 0 to 1.",
            stats.kv_cells_busy / stats.kv_cells,
        )
        yield self._cache_config(stats.kv_cells)
        yield self._counter("kv_evictions", "Sequences that lost cached tokens to another prompt.", stats.evictions)
        yield self._counter("kv_evicted_tokens", "Cached tokens lost to another prompt.", stats.evicted_tokens)
        yield self._counter("prefill_tokens", "Prompt tokens computed.", counters.prefill_tokens)
        yield self._counter("decoded_tokens", "Answer tokens made.", counters.generated_tokens)
        yield self._counter("engine_steps", "Calls of llama_decode.", counters.steps)
        yield self._counter("engine_busy_seconds", "Time the engine spent in steps.", counters.busy_seconds)
        yield self._counter("engine_decode_seconds", "Of that, in llama_decode.", counters.decode_seconds)
        yield self._counter("engine_sampling_seconds", "Of that, choosing tokens.", counters.sampling_seconds)
        yield self._counter("requests_cancelled", "Requests whose client went away.", counters.cancelled)
        yield self._counter("requests_failed", "Accepted requests that ended with an error.", counters.failed)
        yield self._histogram("step_seconds", "Duration of an engine step.", counters.step_seconds)
        yield self._histogram(
            "step_decode_tokens", "Streams that got their next token in a step.", counters.decode_rows
        )
        yield self._histogram("step_prefill_tokens", "Prompt tokens computed in a step.", counters.prefill_rows)
        yield self._plan()

    def _gauge(self, name: str, meaning: str, value: float) -> Metric:
        family = GaugeMetricFamily(f"lucid_{name}", meaning, labels=("instance_label",))
        family.add_metric((self._label,), value)
        return family

    def _counter(self, name: str, meaning: str, value: float) -> Metric:
        family = CounterMetricFamily(f"lucid_{name}", meaning, labels=("instance_label",))
        family.add_metric((self._label,), value)
        return family

    def _histogram(self, name: str, meaning: str, tally: Tally) -> Metric:
        family = HistogramMetricFamily(f"lucid_{name}", meaning, labels=("instance_label",))
        bounds = [*(f"{bound:g}" for bound in tally.bounds), "+Inf"]
        family.add_metric((self._label,), list(zip(bounds, accumulate(tally.counts), strict=True)), tally.total)
        return family

    def _cache_config(self, cells: int) -> Metric:
        """The form in which the Gateway API Inference Extension reads it: blocks, here of one token each."""
        family = GaugeMetricFamily(
            "lucid_cache_config_info",
            "Size of the KV cache for inference gateways.",
            labels=("instance_label", "block_size", "num_gpu_blocks"),
        )
        family.add_metric((self._label, "1", str(cells)), 1)
        return family

    def _plan(self) -> Metric:
        plan, calibration = self._engine.plan, self._engine.calibration
        values = {name: str(value) for name, value in asdict(plan).items()}
        values["kv_type"] = plan.kv_type.name.lower()
        values["calibrated"] = "off" if calibration is None else "cached" if calibration.cached else "measured"
        family = InfoMetricFamily("lucid_engine", "Settings the engine runs with.", labels=("instance_label",))
        family.add_metric((self._label,), values)
        return family
