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
from books import Books
from server_process import PATIENCE, ROOT, ServerProcess, eventually

from bench.ports import free_port
from server import config
from server.exchange import Exchange
from server.metrics import Metrics
from server.tracing import Tracer

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PARENT = "00f067aa0ba902b7"
SERVER_KIND = 2
ERROR = 2


class Traced(NamedTuple):
    """A server that sends its spans, where to, and the file that they arrive in."""

    server: ServerProcess
    endpoint: str
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
        "LOG_FORMAT": "json",
    }
    try:
        with ServerProcess(folder / "log", **{**settings, **variables}) as server:
            server.wait_ready()
            yield Traced(server, settings["OTEL_EXPORTER_OTLP_ENDPOINT"], received)
    finally:
        receiver.terminate()
        receiver.wait(PATIENCE)


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Traced]:
    folder = tmp_path_factory.mktemp("traced")
    (folder / "data").mkdir()
    (folder / "data" / "gate.txt").write_text("The sign of the Pelham gate is a green lantern.")
    knowledge = {"KNOWLEDGE_MODE": "hybrid", "KNOWLEDGE_URL": str(folder / "store.sqlite")}
    yield from start(folder, DATA_PATH=str(folder / "data"), **knowledge)


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
            "knowledge": False,
        },
        traceparent=f"00-{TRACE}-{PARENT}-01",
        Host="lucid.example:8000",
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
        "server.address": "lucid.example",
        "server.port": 8000,
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


def test_the_log_line_has_the_fields_that_are_documented(
    traced: Traced, conversation: tuple[dict[str, Any], list[dict[str, Any]], dict[str, Any]]
) -> None:
    span, _, last_chunk = conversation
    name = span["attributes"]["lucid.request_id"]
    records = [json.loads(line) for line in traced.server.output.splitlines()]
    (line,) = [record for record in records if record.get("request_id") == name]
    text = (ROOT / "docs" / "TRACING.md").read_text()
    fields = {
        field for row in re.findall(r"^\| (`.*?) \|", text, re.MULTILINE) for field in re.findall(r"`(\w+)`", row)
    }
    assert set(line) == fields
    attributes = span["attributes"]
    expected = {
        "level": "info",
        "logger": "server.access",
        "method": "POST",
        "path": "/v1/chat/completions",
        "route": "/v1/chat/completions",
        "status": 200,
        "trace_id": TRACE,
        "prompt_tokens": attributes["gen_ai.usage.input_tokens"],
        "cached_tokens": attributes["gen_ai.usage.cache_read.input_tokens"],
        "generated_tokens": 8,
        "finish_reason": "length",
    }
    assert expected.items() <= line.items()
    assert line["ttft_seconds"] == pytest.approx(attributes["gen_ai.response.time_to_first_chunk"], abs=1e-6)
    assert 0 < line["ttft_seconds"] < line["total_seconds"]
    assert line["phases"]["queue"] == pytest.approx(last_chunk["timings"]["phases"]["queue"], abs=1e-6)


def test_an_answer_from_documents_shows_its_look_up(traced: Traced) -> None:
    eventually(lambda: traced.server.get("/v1/knowledge").json["chunks"] == 1, "the document is indexed")
    trace = "7" * 32
    messages = [{"role": "user", "content": "What is the sign of the Pelham gate?"}]
    answer = traced.server.post(
        "/v1/chat/completions", {"messages": messages, "max_tokens": 2}, traceparent=f"00-{trace}-{PARENT}-01"
    )
    assert [citation["file"] for citation in answer.json["citations"]] == ["gate.txt"]
    spans = traced.spans(trace)
    (own,) = [span for span in spans if span["kind"] == SERVER_KIND]
    (embed,), (search,), (queue,) = (
        [span for span in spans if span["name"] == name] for name in ("embed", "search", "queue")
    )
    assert embed["parent"] == search["parent"] == own["span"]
    assert own["begin"] < embed["begin"] < embed["end"] <= search["begin"] < search["end"] < queue["begin"]
    phases = answer.json["timings"]["phases"]
    for child in (embed, search):
        assert (child["end"] - child["begin"]) / 1e9 == pytest.approx(phases[child["name"]], abs=1e-6)
    assert "lantern" not in traced.received.read_text()


def test_embeddings_have_a_span_of_their_own_model(traced: Traced) -> None:
    trace = "3" * 32
    answer = traced.server.post("/v1/embeddings", {"input": ["a b", "c"]}, traceparent=f"00-{trace}-{PARENT}-01")
    spans = traced.spans(trace)
    (span,) = [span for span in spans if span["kind"] == SERVER_KIND]
    assert span["name"] == "embeddings embed"
    expected = {
        "gen_ai.operation.name": "embeddings",
        "gen_ai.request.model": "embed",
        "gen_ai.response.model": "embed",
        "gen_ai.usage.input_tokens": answer.json["usage"]["prompt_tokens"],
    }
    assert expected.items() <= span["attributes"].items()
    assert not {name for name in span["attributes"] if "output" in name or "cache" in name}
    assert {child["name"] for child in spans if child is not span} == {"parse", "turn", "tokenize", "embed", "write"}


def test_what_clients_make_up_is_in_no_name(traced: Traced) -> None:
    trace = "4" * 32
    answer = traced.server.request("BREW", "/secret", traceparent=f"00-{trace}-{PARENT}-01", Host="[bad:1")
    assert answer.status == 404
    (span,) = [span for span in traced.spans(trace) if span["kind"] == SERVER_KIND]
    assert span["name"] == "HTTP"
    attributes = span["attributes"]
    assert (attributes["http.request.method"], attributes["http.request.method_original"]) == ("_OTHER", "BREW")
    assert not {"http.route", "server.address", "server.port"} & set(attributes)


def test_the_systems_clock_may_be_set(traced: Traced, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each span begins when its request did, by what the clock says then."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", traced.endpoint)
    metrics, tracer = Metrics("x"), Tracer(config.read({}))
    begins = {}
    for number, day in enumerate((0, 1, -1)):
        trace = f"{number + 10:032x}"
        begins[trace] = now = time.time_ns() + day * 86_400 * 10**9
        environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/", "HTTP_TRACEPARENT": f"00-{trace}-{PARENT}-01"}
        with monkeypatch.context() as patch:
            patch.setattr(time, "time_ns", lambda now=now: now)
            exchange = Exchange(environ, metrics, tracer)
        exchange.finish()
    tracer.close()
    for trace, begin in begins.items():
        (span,) = [span for span in traced.spans(trace) if span["kind"] == SERVER_KIND]
        assert abs(span["begin"] - begin) < 10**9 and 0 < span["end"] - span["begin"] < 60 * 10**9


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
        body: dict[str, Any] = {"messages": [{"role": "user", "content": "swordfish"}], "max_tokens": 4, "n": 2}
        answer = traced.server.post("/v1/chat/completions", body, traceparent=f"00-{TRACE}-{PARENT}-01").json
        (span,) = [span for span in traced.spans(TRACE) if span["kind"] == SERVER_KIND]
        assert span["resource"]["service.name"] == "mine"
        asked = json.loads(span["attributes"]["gen_ai.input.messages"])
        assert asked == [{"role": "user", "parts": [{"type": "text", "content": "swordfish"}]}]
        told = json.loads(span["attributes"]["gen_ai.output.messages"])
        texts = [choice["message"]["content"] for choice in answer["choices"]]
        assert [message["parts"][0]["content"] for message in told] == texts
        assert span["attributes"]["gen_ai.request.choice.count"] == 2
        assert span["attributes"]["gen_ai.response.finish_reasons"] == ["length", "length"]

        for prompts, texts in (
            (["1, 2, 3, 4,", "Once"], ["1, 2, 3, 4,", "Once"]),
            ([1, 2], ["<|im_start|><|im_end|>"]),
        ):
            trace = f"5{len(texts)}" * 16
            body = {"prompt": prompts, "max_tokens": 8, "stop": ["6"], "temperature": 0, "ignore_eos": True}
            answer = traced.server.post("/v1/completions", body, traceparent=f"00-{trace}-{PARENT}-01").json
            (span,) = [span for span in traced.spans(trace) if span["kind"] == SERVER_KIND]
            asked = json.loads(span["attributes"]["gen_ai.input.messages"])
            assert [message["parts"][0]["content"] for message in asked] == texts
            told = json.loads(span["attributes"]["gen_ai.output.messages"])
            choices = [(choice["text"], choice["finish_reason"]) for choice in answer["choices"]]
            assert [(message["parts"][0]["content"], message["finish_reason"]) for message in told] == choices
            assert span["attributes"]["gen_ai.response.finish_reasons"] == ["stop", "length"][2 - len(texts) :]

        trace = "6" * 32  # what cannot be used is refused, and told without its text
        body = {"messages": [{"role": "user", "content": None}]}
        assert traced.server.post("/v1/chat/completions", body, traceparent=f"00-{trace}-{PARENT}-01").status == 400
        (span,) = [span for span in traced.spans(trace) if span["kind"] == SERVER_KIND]
        assert "gen_ai.input.messages" not in span["attributes"]


def test_requests_do_not_notice_an_exporter_that_is_down(launch: Callable[..., ServerProcess]) -> None:
    server = launch(
        OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{free_port()}",
        OTEL_BSP_SCHEDULE_DELAY="50",
        OTEL_BSP_MAX_QUEUE_SIZE="8",
        OTEL_BSP_MAX_EXPORT_BATCH_SIZE="8",
        MODEL_PARALLEL="2",
        HTTP_WORKERS="4",
    )
    server.wait_ready()
    books = Books(server)
    for _ in range(12):  # more spans than the queue holds
        assert server.chat("Hello", max_tokens=2).status == 200
    books.expect(("200", "length", 12))
    books.check()
    assert server.stop() == 0


def test_an_endpoint_that_is_no_url_is_refused(launch: Callable[..., ServerProcess]) -> None:
    server = launch(OTEL_EXPORTER_OTLP_ENDPOINT="collector:4318")
    assert server.wait_exit() == 2
    assert "OTEL_EXPORTER_OTLP_ENDPOINT='collector:4318' is not valid" in server.output
