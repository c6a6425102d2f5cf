"""Traces as an OTLP receiver in another process gets them."""

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import opentelemetry.semconv._incubating.attributes.gen_ai_attributes as gen_ai
import pytest
from server_process import PATIENCE, ServerProcess, eventually, free_port

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"
SERVER_KIND = 2
ERROR = 2


class Traced(NamedTuple):
    """A server that sends its spans, and the file that they arrive in."""

    server: ServerProcess
    received: Path

    def spans(self, trace: str) -> list[dict[str, Any]]:
        """All spans of a trace, when the server's own has arrived."""

        def read() -> list[dict[str, Any]]:
            spans = [json.loads(line) for line in self.received.read_text().splitlines() if line.endswith("}")]
            return [span for span in spans if span["trace"] == trace]

        eventually(lambda: any(span["kind"] == SERVER_KIND for span in read()), "the span arrives")
        return read()


def start(folder: Path, **variables: str) -> Iterator[Traced]:
    port = free_port()
    received = folder / "spans"
    with received.open("wb") as output:
        receiver = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("otlp_receiver.py")), str(port)], stdout=output
        )
    settings = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}",
        "OTEL_BSP_SCHEDULE_DELAY": "100",
        "MODEL_PARALLEL": "2",
        "MODEL_CONTEXT": "512",
    }
    try:
        with ServerProcess(folder / "log", **{**settings, **variables}) as server:
            server.wait_ready()
            yield Traced(server, received)
    finally:
        receiver.terminate()
        receiver.wait(PATIENCE)


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Traced]:
    yield from start(tmp_path_factory.mktemp("traced"))


@pytest.fixture(scope="module")
def conversation(traced: Traced) -> tuple[dict[str, Any], list[dict[str, Any]], dict[str, Any]]:
    """The span of a streamed chat with a caller's trace, its child spans, and the response's last chunk."""
    before = time.time_ns()
    answer = traced.server.post(
        "/v1/chat/completions",
        {
            "messages": [{"role": "user", "content": "The password is swordfish."}],
            "max_tokens": 8,
            "ignore_eos": True,
            "stream": True,
            "seed": 7,
            "temperature": 0.5,
            "stop": ["\n\n\n\n"],
        },
        traceparent=f"00-{TRACE}-{PARENT}-01",
    )
    after = time.time_ns()
    spans = traced.spans(TRACE)
    (own,) = [span for span in spans if span["kind"] == SERVER_KIND]
    assert before < own["begin"] < own["end"] < after + 1e9
    return own, [span for span in spans if span is not own], answer.events[-2]


def test_one_server_span_with_the_conventions_names(
    conversation: tuple[dict[str, Any], list[dict[str, Any]], dict[str, Any]],
) -> None:
    span, _, _ = conversation
    assert span["path"] == "/v1/traces"
    assert span["resource"]["service.name"] == "lucid-llm"
    assert (span["trace"], span["parent"]) == (TRACE, PARENT)
    assert span["name"] == "chat rusty_llm"
    attributes = span["attributes"]
    expected = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "lucid_llm",
        "gen_ai.request.model": "rusty_llm",
        "gen_ai.response.model": "rusty_llm",
        "gen_ai.request.max_tokens": 8,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.seed": 7,
        "gen_ai.request.stop_sequences": ["\n\n\n\n"],
        "gen_ai.request.stream": True,
        "gen_ai.response.finish_reasons": ["length"],
        "gen_ai.usage.output_tokens": 8,
        "http.request.method": "POST",
        "http.response.status_code": 200,
        "http.route": "/v1/chat/completions",
        "url.path": "/v1/chat/completions",
        "url.scheme": "http",
    }
    assert expected.items() <= attributes.items()
    known = {name for name in vars(gen_ai).values() if isinstance(name, str)}
    assert {name for name in attributes if name.startswith("gen_ai.")} <= known
    assert attributes["gen_ai.usage.input_tokens"] > attributes["gen_ai.usage.cache_read.input_tokens"] >= 0


def test_the_phases_are_child_spans_with_their_true_times(
    conversation: tuple[dict[str, Any], list[dict[str, Any]], dict[str, Any]],
) -> None:
    span, children, last_chunk = conversation
    assert all(child["parent"] == span["span"] and child["trace"] == TRACE for child in children)
    by_name = {child["name"]: child for child in children}
    order = ["parse", "turn", "template", "tokenize", "submit", "queue", "prefill", "decode"]
    assert set(by_name) == {*order, "detokenize", "write"}
    for before, after in pairwise(order):
        assert abs(by_name[after]["begin"] - by_name[before]["end"]) < 1000, (before, after)  # ns of rounding
    assert all(span["begin"] <= child["begin"] <= child["end"] <= span["end"] for child in children)
    seconds = {name: (child["end"] - child["begin"]) / 1e9 for name, child in by_name.items()}
    phases = last_chunk["timings"]["phases"]
    assert seconds["queue"] == pytest.approx(phases["queue"], abs=1e-6)
    in_engine = phases["prefill"] + phases["decode"] + phases["sampling"]
    assert seconds["prefill"] + seconds["decode"] == pytest.approx(in_engine, abs=1e-6)
    assert by_name["decode"]["attributes"]["lucid.tokens"] == 7
    assert by_name["write"]["begin"] < by_name["decode"]["end"]  # it streamed


def test_no_text_in_spans_unless_switched_on(traced: Traced, conversation: object) -> None:
    assert conversation
    assert "swordfish" not in traced.received.read_text()


def test_errors_and_a_caller_that_does_not_sample(traced: Traced) -> None:
    trace = TRACE[::-1]
    traced.server.post("/v1/chat/completions", b"{", traceparent=f"00-{trace}-{PARENT}-01")
    (span,) = [span for span in traced.spans(trace) if span["kind"] == SERVER_KIND]
    assert span["attributes"]["http.response.status_code"] == 400
    assert span["status"] != ERROR  # the client's mistake
    unsampled = "1" * 32
    traced.server.post("/v1/chat/completions", b"{", traceparent=f"00-{unsampled}-{PARENT}-00")
    later = "2" * 32
    traced.server.get("/health", traceparent=f"00-{later}-{PARENT}-01")
    assert [span["name"] for span in traced.spans(later) if span["kind"] == SERVER_KIND] == ["GET /health"]
    assert unsampled not in traced.received.read_text()


def test_exemplars_link_histograms_to_traces(traced: Traced, conversation: object) -> None:
    assert conversation
    text = traced.server.metrics_text(Accept="application/openmetrics-text; version=1.0.0")
    assert text.endswith("# EOF\n")
    for name in ("lucid_time_to_first_token_seconds_bucket", "inference_response_duration_bucket"):
        traces = re.findall(rf'^{name}{{.*# {{trace_id="(\w+)"}}', text, re.MULTILINE)
        assert traces and all(len(trace) == 32 for trace in traces)
    assert TRACE in text
    assert "trace_id" not in traced.server.metrics_text()  # the older format has no place for them


def test_text_is_in_spans_when_switched_on(tmp_path: Path) -> None:
    for traced in start(tmp_path, OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT="on", OTEL_SERVICE_NAME="mine"):
        body = {"messages": [{"role": "user", "content": "swordfish"}], "max_tokens": 4, "n": 2}
        answer = traced.server.post("/v1/chat/completions", body, traceparent=f"00-{TRACE}-{PARENT}-01").json
        (span,) = [span for span in traced.spans(TRACE) if span["kind"] == SERVER_KIND]
        assert span["resource"]["service.name"] == "mine"
        asked = json.loads(span["attributes"]["gen_ai.input.messages"])
        assert asked == [{"role": "user", "parts": [{"type": "text", "content": "swordfish"}]}]
        told = json.loads(span["attributes"]["gen_ai.output.messages"])
        texts = [choice["message"]["content"] for choice in answer["choices"]]
        assert [message["parts"][0]["content"] for message in told] == texts
        assert span["attributes"]["gen_ai.request.choice.count"] == 2


def test_requests_do_not_notice_an_exporter_that_is_down(launch: Callable[..., ServerProcess]) -> None:
    server = launch(
        OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{free_port()}",
        OTEL_BSP_SCHEDULE_DELAY="50",
        OTEL_BSP_MAX_QUEUE_SIZE="8",
        OTEL_BSP_MAX_EXPORT_BATCH_SIZE="8",
    )
    server.wait_ready()
    for _ in range(12):  # more spans than the queue holds
        assert server.chat("Hello", max_tokens=2).status == 200
    eventually(  # a request is counted once its connection has its last byte
        lambda: server.metric("lucid_requests_total", status="200", route="/v1/chat/completions") == 12,
        "all requests are counted",
    )
    assert server.stop() == 0


def test_an_endpoint_that_is_no_url_is_refused(launch: Callable[..., ServerProcess]) -> None:
    server = launch(OTEL_EXPORTER_OTLP_ENDPOINT="collector:4318")
    assert server.wait_exit() == 2
    assert "OTEL_EXPORTER_OTLP_ENDPOINT='collector:4318' is not valid" in server.output
