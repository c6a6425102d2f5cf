"""One OpenTelemetry span for each request, with child spans for its phases, sent over OTLP/HTTP.

On when OTEL_EXPORTER_OTLP_ENDPOINT is set, which takes the extra `otel`. Names follow the semantic conventions for
HTTP servers and generative AI (semconv 1.37 and later). Spans are made from the request's `Timings` when it is over;
only its trace id exists from the start. Sending happens in the SDK's own thread, so an exporter that is down costs
requests nothing. Prompts and answers stay out of spans unless
OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT is on. Knows exchanges and the SDK, nothing of the engine's inside.
"""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import msgspec
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from engine import clock
from server.config import Config

if TYPE_CHECKING:
    from server.exchange import Exchange

#: `gen_ai.operation.name` by route.
OPERATIONS: Final = {
    "/v1/chat/completions": "chat",
    "/v1/responses": "chat",
    "/v1/completions": "text_completion",
    "/v1/embeddings": "embeddings",
}

PROVIDER: Final = "lucid_llm"

#: The methods that the conventions know (RFC 9110, RFC 5789); any other is `_OTHER`.
METHODS: Final = frozenset({"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE"})

#: Phases of the answering thread that run beside the engine: one span each, from the first time to the last.
_BESIDE: Final = ("detokenize", "write")

#: Seconds that the end of the process waits for the last spans to be sent.
_LAST_SPANS: Final = 2.0


class Tracer:
    """Makes and sends the spans of this process."""

    def __init__(self, config: Config) -> None:
        """Start the exporter's thread. Where it sends to and what it samples, the SDK reads from OTEL_* itself."""
        self._served = config.model_alias
        self._embedding = config.embedding_model.stem
        #: Whether prompts and answers go into spans.
        self.captures_content = config.otel_instrumentation_genai_capture_message_content
        self._provider = TracerProvider(resource=Resource.create({"service.name": config.otel_service_name}))
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("lucid-llm")
        self._propagator = TraceContextTextMapPropagator()

    def close(self) -> None:
        """Send what is left, for a moment at most."""
        last = threading.Thread(target=self._provider.shutdown, name="last-spans", daemon=True)
        last.start()
        last.join(_LAST_SPANS)

    def begin(self, exchange: Exchange) -> None:
        """Open the span of a request, as a child of the `traceparent` that came with it (W3C Trace Context)."""
        environ = exchange.request.environ
        carrier = {
            name: environ[f"HTTP_{name.upper()}"]
            for name in ("traceparent", "tracestate")
            if f"HTTP_{name.upper()}" in environ
        }
        # For each request anew: the system's clock may have been set, or stood still while the machine slept.
        exchange.epoch = time.time_ns() - int(clock() * 1e9)
        span = self._tracer.start_span(
            _method(exchange),
            self._propagator.extract(carrier),
            SpanKind.SERVER,
            start_time=_nanoseconds(exchange, exchange.timings.started),
        )
        exchange.span = span
        if span.is_recording():
            exchange.answered = {} if self.captures_content else None
            exchange.trace_id = f"{span.get_span_context().trace_id:032x}"

    def end(self, exchange: Exchange) -> None:
        """Fill and close the span of a finished request, and add its phases."""
        span = exchange.span
        if span is None or not span.is_recording():
            return
        attributes = _http(exchange)
        span.set_attributes(attributes)
        operation = OPERATIONS.get(exchange.route)
        if operation:
            facts = self._generation(exchange, operation)
            span.set_attributes(facts)
            span.update_name(f"{operation} {facts['gen_ai.request.model']}")
            if exchange.requests and self.captures_content:
                span.set_attributes(_content(exchange))
        elif "http.route" in attributes:
            span.update_name(f"{_method(exchange)} {exchange.route}")
        if exchange.status >= 500 or exchange.finish_reason == "error":
            span.set_attribute("error.type", str(exchange.status) if exchange.status >= 500 else "generation_failed")
            span.set_status(Status(StatusCode.ERROR))
        self._phases(exchange, span)
        span.end(_nanoseconds(exchange, exchange.timings.finished or clock()))

    def _generation(self, exchange: Exchange, operation: str) -> dict[str, Any]:
        """Return the attributes of generative AI; those that do not apply are absent."""
        model = self._embedding if operation == "embeddings" else self._served
        facts: dict[str, Any] = {
            "gen_ai.operation.name": operation,
            "gen_ai.provider.name": PROVIDER,
            "gen_ai.request.model": model,
        }
        if exchange.requests:
            asked = exchange.requests[0]
            sampling = asked.sampling
            facts |= {
                "gen_ai.request.max_tokens": asked.max_tokens,
                "gen_ai.request.temperature": sampling.temperature,
                "gen_ai.request.top_p": sampling.top_p,
                "gen_ai.request.top_k": sampling.top_k,
                "gen_ai.request.frequency_penalty": sampling.frequency_penalty,
                "gen_ai.request.presence_penalty": sampling.presence_penalty,
                "gen_ai.request.stream": exchange.streamed,
            }
            if sampling.seed is not None:
                facts["gen_ai.request.seed"] = sampling.seed
            if asked.stop:
                facts["gen_ai.request.stop_sequences"] = list(asked.stop)
            if len(exchange.requests) > 1:
                facts["gen_ai.request.choice.count"] = len(exchange.requests)
            facts |= {
                "gen_ai.usage.output_tokens": exchange.completion_tokens,
                "gen_ai.usage.cache_read.input_tokens": exchange.cached_tokens,
                "gen_ai.response.finish_reasons": _finish_reasons(exchange),
            }
        if exchange.prompt_tokens:
            facts |= {"gen_ai.response.model": model, "gen_ai.usage.input_tokens": exchange.prompt_tokens}
        if exchange.first_token_seconds is not None:
            facts["gen_ai.response.time_to_first_chunk"] = exchange.first_token_seconds
        return facts

    def _phases(self, exchange: Exchange, span: Span) -> None:
        """Add a child span for each phase, from when it truly began to when it ended."""
        timings, context = exchange.timings, set_span_in_context(span)

        def child(name: str, begin: float, end: float, **attributes: float) -> None:
            start = _nanoseconds(exchange, begin)
            phase = self._tracer.start_span(name, context, start_time=start, attributes=attributes)
            phase.end(_nanoseconds(exchange, end))

        busy: dict[str, list[float]] = {}
        for name, begin, end in timings.laps():
            if name in _BESIDE:
                span_of = busy.setdefault(name, [begin, end, 0.0])
                span_of[1] = end
                span_of[2] += end - begin
            elif name != "handoff":
                child(name, begin, end)
        course = timings.path()
        if course is not None:
            over = course.ended or timings.finished or clock()
            child("queue", course.submitted, course.admitted or over)
            if course.admitted is not None:
                first = min(course.token_times[0], over) if course.token_times else over
                child("prefill", course.admitted, first, **{"lucid.cached_tokens": exchange.cached_tokens})
                if over > first:
                    attributes = {
                        "lucid.tokens": len(course.token_times) - 1,
                        "lucid.sampling_seconds": course.sampling_seconds,
                    }
                    child("decode", first, over, **attributes)
        for name, (begin, end, seconds) in busy.items():
            child(name, begin, end, **{"lucid.busy_seconds": seconds})


def _nanoseconds(exchange: Exchange, at: float) -> int:
    """Return a time of `clock` in nanoseconds since the epoch."""
    return exchange.epoch + int(at * 1e9)


def _method(exchange: Exchange) -> str:
    """Return the method as names of spans have it."""
    return exchange.request.method if exchange.request.method in METHODS else "HTTP"


def _http(exchange: Exchange) -> dict[str, str | int]:
    """Return the attributes of an HTTP server's span; those that are not known are absent."""
    request = exchange.request
    facts: dict[str, str | int] = {
        "http.request.method": request.method if request.method in METHODS else "_OTHER",
        "http.response.status_code": exchange.status,
        "url.path": request.path,
        "url.scheme": request.scheme,
        "lucid.request_id": exchange.request_id,
    }
    if request.method not in METHODS:
        facts["http.request.method_original"] = request.method
    if exchange.route.startswith("/"):
        facts["http.route"] = exchange.route
    with contextlib.suppress(ValueError):  # what the client calls this server need not be an address
        host = urlsplit(f"//{request.headers.get('Host', '')}")
        if host.hostname:
            facts["server.address"] = host.hostname
        if host.port is not None:
            facts["server.port"] = host.port
    return facts


def _finish_reasons(exchange: Exchange) -> list[str]:
    """Return why each choice ended, in order; one that is not complete has the reason of the whole."""
    whole = exchange.finish_reason or "error"
    return [exchange.finish_reasons.get(index, whole) for index in range(len(exchange.requests))]


def _content(exchange: Exchange) -> dict[str, str]:
    """Return prompt and answer, in the conventions' JSON (gen-ai-input-messages.json, gen-ai-output-messages.json)."""
    asked = [{"role": message.role, "parts": [_text(message.text("messages"))]} for message in exchange.messages]
    texts = exchange.answered or {}
    answered = [
        {"role": "assistant", "parts": [_text("".join(texts.get(index, ())))], "finish_reason": reason}
        for index, reason in enumerate(_finish_reasons(exchange))
    ]
    content = {"gen_ai.input.messages": asked, "gen_ai.output.messages": answered}
    return {name: msgspec.json.encode(messages).decode() for name, messages in content.items() if messages}


def _text(text: str) -> dict[str, str]:
    return {"type": "text", "content": text}
