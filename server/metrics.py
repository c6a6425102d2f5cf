"""What Prometheus sees: every metric declared once, and the observations of each finished exchange.

Durations are in seconds. Knows `Timings` and token counts; docs/METRICS.md is checked against the declarations here.
The endpoint has a port and a thread of its own, so that it answers while every HTTP thread is busy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Histogram

from engine import Engine, Timings
from server.engine_metrics import EngineCollector

if TYPE_CHECKING:
    from server.config import Address
    from server.exchange import Exchange

#: From 50 microseconds to five minutes.
BUCKETS: Final = (
    0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0, 25.0, 60.0, 120.0, 300.0,
)  # fmt: skip

#: The `finish_reason` of a whole answer; of others `inference_response_duration` would say nothing.
COMPLETE: Final = frozenset({"stop", "length"})


class Metrics:
    """The metrics of one server process, in a registry of their own, all with the label `instance_label`."""

    def __init__(self, instance_label: str) -> None:
        self.registry = CollectorRegistry()
        self._label = instance_label
        prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
        label = ("instance_label",)
        self.token_creation = self._histogram("token_creation_duration", "Time to create one token, in seconds.")
        self.inference_response = self._histogram(
            "inference_response_duration", "Time of a whole response, tokenization and context included, in seconds."
        )
        self.embedding = self._histogram(
            "embedding_duration", "Time to embed a query and look up its context, in seconds."
        )
        self.time_to_first_token = self._histogram(
            "lucid_time_to_first_token_seconds", "From the request's first line to the first text of its answer."
        )
        self._phases = Histogram(
            "lucid_phase_seconds",
            "Time a request spent in one phase.",
            (*label, "phase"),
            buckets=BUCKETS,
            registry=self.registry,
        )
        self._requests = Counter(
            "lucid_requests",
            "Requests answered, by route, HTTP status (499: the client went away) and finish_reason.",
            (*label, "route", "status", "finish_reason"),
            registry=self.registry,
        )
        self._prompt_tokens = self._counter("lucid_prompt_tokens", "Tokens of prompts, cached ones included.")
        self._cached_tokens = self._counter("lucid_cached_tokens", "Prompt tokens found in the KV cache.")
        self._generated_tokens = self._counter("lucid_generated_tokens", "Tokens of answers.")

    def serve(self, address: Address) -> None:
        """Answer GET /metrics on `address` from a daemon thread. Raises OSError if the port cannot be had."""
        prometheus_client.start_http_server(address.port, address.host, self.registry)

    def watch(self, engine: Engine) -> None:
        """Show the engine's own figures from now on, read when Prometheus asks."""
        self.registry.register(EngineCollector(engine, self._label))

    def observe_tokens(self, timings: Timings, seen: int) -> int:
        """Observe the tokens created since the first `seen` ones; return how many there are now."""
        tokens = timings.token_seconds
        count = len(tokens)
        for index in range(seen, count):
            self.token_creation.observe(tokens[index])
        return count

    def observe(self, exchange: Exchange) -> None:
        """Count a finished exchange."""
        self._requests.labels(self._label, exchange.route, str(exchange.status), exchange.finish_reason or "none").inc()
        if not exchange.prompt_tokens:
            return
        for phase, seconds in exchange.timings.phases.copy().items():  # the engine thread may still add some
            self._phases.labels(self._label, phase).observe(seconds)
        if exchange.first_token_seconds is not None:
            self.time_to_first_token.observe(exchange.first_token_seconds)
        if exchange.finish_reason in COMPLETE:
            self.inference_response.observe(exchange.timings.total_seconds)
        self._prompt_tokens.inc(exchange.prompt_tokens)
        self._cached_tokens.inc(exchange.cached_tokens)
        self._generated_tokens.inc(exchange.completion_tokens)

    def _histogram(self, name: str, meaning: str) -> Histogram:
        histogram = Histogram(name, meaning, ("instance_label",), buckets=BUCKETS, registry=self.registry)
        return histogram.labels(self._label)

    def _counter(self, name: str, meaning: str) -> Counter:
        return Counter(name, meaning, ("instance_label",), registry=self.registry).labels(self._label)
