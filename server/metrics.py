"""What Prometheus sees: every metric of the requests declared once, and the observations of each finished exchange.

Durations are in seconds. Knows exchanges and their `Timings`, from which every duration is read; the engine's, the
host's and the knowledge base's own figures are collectors beside it. docs/METRICS.md is checked against all of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.registry import Collector

from engine import Course
from server.metrics_sum import WORKERS_LOST
from server.vitals import Ending

if TYPE_CHECKING:
    from server.exchange import Exchange

#: From 50 microseconds to five minutes.
BUCKETS: Final = (
    0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0, 25.0, 60.0, 120.0, 300.0,
)  # fmt: skip

#: Tokens of one request.
TOKEN_BUCKETS: Final = tuple(float(2**n) for n in range(18))

#: The `finish_reason` of a whole answer; of others `inference_response_duration` would say nothing.
COMPLETE: Final = frozenset({"stop", "length", "tool_calls"})

#: Every value of the label `finish_reason`; "other" stands for any that is not listed.
FINISH_REASONS: Final = COMPLETE | {"cancelled", "error", "none", "other"}

#: The label `kind` of requests that the engine has accepted; "other" stands for those that it never saw.
GENERATION: Final = "generation"

#: The error codes of requests that are refused because something is at its limit.
REFUSALS: Final = frozenset({"queue_full", "queue_timeout", "too_many_requests"})


class Metrics:
    """The metrics of one server process, in a registry of their own, all with the label `instance_label`."""

    def __init__(self, instance_label: str, *, counting: bool = True) -> None:
        """With `counting` off nothing is observed."""
        self._counting = counting
        self.registry = CollectorRegistry()
        self.instance_label = instance_label
        prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
        self._token_creation = self._seconds("token_creation_duration", "Time to create one token, in seconds.")
        self._inference_response = self._seconds(
            "inference_response_duration", "Time of a whole response, tokenization and context included, in seconds."
        )
        self._embedding = self._seconds(
            "embedding_duration", "Time to embed a query and look up its context, in seconds."
        )
        self._time_to_first_token = self._seconds(
            "lucid_time_to_first_token_seconds", "From the request's begin to the first text of its answer."
        )
        self._inter_token = self._seconds(
            "lucid_inter_token_latency_seconds", "Time from one token of an answer to the next."
        )
        self._decode_per_token = self._seconds(
            "lucid_decode_seconds_per_token", "Decode and sampling time of a request for each token after its first."
        )
        self.phases = self._labelled_seconds(
            "lucid_phase_seconds", "Time that a request spent in one phase of its critical path.", "kind", "phase"
        )
        self.beside = self._labelled_seconds(
            "lucid_beside_seconds", "Time that a request spent in one phase while its next token was computed.", "phase"
        )
        self.durations = self._labelled_seconds(
            "lucid_request_seconds", "Time from a request's begin to its last byte, whatever the outcome.", "route"
        )
        self.requests = Counter(
            "lucid_requests",
            "Requests answered, by route, HTTP status (499: the client went away) and finish_reason.",
            ("instance_label", "route", "status", "finish_reason"),
            registry=self.registry,
        )
        self._rejected = Counter(
            "lucid_requests_rejected",
            "Requests refused because the server was at its limit, by the code of the error.",
            ("instance_label", "reason"),
            registry=self.registry,
        )
        for reason in REFUSALS:
            self._rejected.labels(instance_label, reason)
        self._prompt_tokens = self._counter("lucid_prompt_tokens", "Tokens of prompts, cached ones included.")
        self._cached_tokens = self._counter("lucid_cached_tokens", "Prompt tokens found in the KV cache.")
        self._generated_tokens = self._counter("lucid_generated_tokens", "Tokens of answers.")
        self._request_prompt = self._tokens("lucid_request_prompt_tokens", "Prompt tokens of a request.")
        self._request_cached = self._tokens("lucid_request_cached_tokens", "Of those, found in the KV cache.")
        self._request_generated = self._tokens("lucid_request_generated_tokens", "Tokens of a request's answer.")

        lost = Counter(
            WORKERS_LOST,
            "Worker processes that ended although nobody stopped them; counted by the master process.",
            ("instance_label", "cause"),
            registry=self.registry,
        )
        for ending in set(Ending) - {Ending.STOPPED}:
            lost.labels(instance_label, ending.label)

    def watch(self, collector: Collector) -> None:
        """Show what `collector` knows from now on; it is asked at each scrape."""
        self.registry.register(collector)

    def observe_tokens(self, course: Course, seen: int) -> int:
        """Observe the tokens created since the first `seen` ones; return how many there are now."""
        if not self._counting:
            return seen
        count = len(course.token_times)
        for index in range(seen, count):
            seconds = course.token_second(index)
            self._token_creation.observe(seconds)
            if index:
                self._inter_token.observe(seconds)
        return count

    def observe(self, exchange: Exchange) -> None:
        """Count a finished exchange, with its trace as the exemplar where it has one."""
        if not self._counting:
            return
        label, finish_reason, trace = self.instance_label, exchange.finish_reason or "none", exchange.exemplar
        timings = exchange.timings
        reason = finish_reason if finish_reason in FINISH_REASONS else "other"
        self.requests.labels(label, exchange.route, str(exchange.status), reason).inc(1, trace)
        self.durations.labels(label, exchange.route).observe(timings.total_seconds, trace)
        phases = timings.phases
        if "search" in phases:
            self._embedding.observe(phases.get("embed", 0.0) + phases["search"], trace)
        kind = GENERATION if exchange.requests else "other"
        for phase, seconds in phases.items():
            self.phases.labels(label, kind, phase).observe(seconds, trace)
        if kind != GENERATION:
            if exchange.error_code in REFUSALS:
                self._rejected.labels(label, exchange.error_code).inc(1, trace)
            return
        for phase, seconds in timings.beside.items():
            self.beside.labels(label, phase).observe(seconds, trace)
        if exchange.first_token_seconds is not None:
            self._time_to_first_token.observe(exchange.first_token_seconds, trace)
        if finish_reason in COMPLETE:
            self._inference_response.observe(timings.total_seconds, trace)
        course = timings.path()
        if course is not None and len(course.token_times) > 1:
            tokens = course.token_times
            self._decode_per_token.observe((tokens[-1] - tokens[0]) / (len(tokens) - 1), trace)
        self._prompt_tokens.inc(exchange.prompt_tokens)
        self._cached_tokens.inc(exchange.cached_tokens)
        self._generated_tokens.inc(exchange.completion_tokens)
        self._request_prompt.observe(exchange.prompt_tokens, trace)
        self._request_cached.observe(exchange.cached_tokens, trace)
        self._request_generated.observe(exchange.completion_tokens, trace)

    def _seconds(self, name: str, meaning: str) -> Histogram:
        return self._histogram(name, meaning, BUCKETS)

    def _tokens(self, name: str, meaning: str) -> Histogram:
        return self._histogram(name, meaning, TOKEN_BUCKETS)

    def _histogram(self, name: str, meaning: str, buckets: tuple[float, ...]) -> Histogram:
        histogram = Histogram(name, meaning, ("instance_label",), buckets=buckets, registry=self.registry)
        return histogram.labels(self.instance_label)

    def _labelled_seconds(self, name: str, meaning: str, *labels: str) -> Histogram:
        return Histogram(name, meaning, ("instance_label", *labels), buckets=BUCKETS, registry=self.registry)

    def _counter(self, name: str, meaning: str) -> Counter:
        return Counter(name, meaning, ("instance_label",), registry=self.registry).labels(self.instance_label)
