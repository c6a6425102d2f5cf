"""The Prometheus endpoint: the metrics that are promised, with the values that the requests had."""

import os
import re
from collections.abc import Callable

import pytest
from server_process import ServerProcess, eventually

ORIGINAL = ("token_creation_duration", "inference_response_duration", "embedding_duration")


def test_the_three_original_histograms_have_exactly_their_names(server: ServerProcess) -> None:
    text = server.metrics_text()
    for name in ORIGINAL:
        assert f"# TYPE {name} histogram" in text
        for suffix in ("_bucket{", "_sum{", "_count{"):
            assert f"\n{name}{suffix}" in text
        assert f'{name}_count{{instance_label="default"}}' in text
    assert "_created" not in text


def test_requests_move_the_metrics_by_what_they_did(server: ServerProcess) -> None:
    server.wait_idle()
    watched = {
        "token_creation_duration_count": 24,
        "inference_response_duration_count": 1,
        "lucid_generated_tokens_total": 24,
        "lucid_time_to_first_token_seconds_count": 1,
    }
    before = {name: server.metric(name) for name in watched}
    prompt_before, cached_before = (
        server.metric("lucid_prompt_tokens_total"),
        server.metric("lucid_cached_tokens_total"),
    )
    labels = {"route": "/v1/chat/completions", "status": "200", "finish_reason": "length"}
    requests_before = server.metric("lucid_requests_total", **labels)
    sum_before = server.metric("inference_response_duration_sum")
    body = server.chat("Count. " + os.urandom(4).hex(), max_tokens=24, ignore_eos=True).json
    eventually(lambda: server.metric("lucid_requests_total", **labels) == requests_before + 1, "the request is counted")
    for name, amount in watched.items():
        assert server.metric(name) == before[name] + amount, name
    assert server.metric("lucid_prompt_tokens_total") == prompt_before + body["usage"]["prompt_tokens"]
    cached = body["usage"]["prompt_tokens_details"]["cached_tokens"]
    assert server.metric("lucid_cached_tokens_total") == cached_before + cached
    # The histogram and the response read the same clock; the response was written while it still ran.
    assert server.metric("inference_response_duration_sum") - sum_before >= body["timings"]["total_seconds"]


@pytest.mark.parametrize(
    ("path", "body", "phases"),
    [
        ("/tokenize", {"content": "a"}, ["parse", "turn", "tokenize", "write"]),
        ("/v1/embeddings", {"input": "a"}, ["parse", "embed", "turn", "tokenize", "write"]),
        ("/v1/chat/completions", b"{", ["parse", "write"]),
        ("/nowhere", {}, ["write"]),
    ],
)
def test_phases_are_seen_of_requests_that_generate_nothing_too(
    server: ServerProcess, path: str, body: object, phases: list[str]
) -> None:
    server.wait_idle()
    before = {phase: server.metric("lucid_phase_seconds_count", kind="other", phase=phase) for phase in phases}
    prompts = server.metric("lucid_request_prompt_tokens_count")
    request_id = server.post(path, body).headers["X-Request-Id"]
    eventually(lambda: f" id={request_id}\n" in server.output, "the request is logged")
    for phase, count in before.items():
        assert server.metric("lucid_phase_seconds_count", kind="other", phase=phase) > count, phase
    assert server.metric("lucid_request_prompt_tokens_count") == prompts
    (line,) = [line for line in server.output.splitlines() if line.endswith(f" id={request_id}")]
    shown = re.search(r" phases=(\S+) ", line)
    assert shown and [part.partition(":")[0] for part in shown[1].split(",")] == phases


def test_the_log_line_for_people(server: ServerProcess) -> None:
    answer = server.chat("Hello", max_tokens=3, ignore_eos=True)
    usage, end = answer.json["usage"], f" id={answer.headers['X-Request-Id']}"
    eventually(lambda: f"{end}\n" in server.output, "the request is logged")
    (line,) = [line for line in server.output.splitlines() if line.endswith(end)]
    tokens = f"prompt={usage['prompt_tokens']} cached=0 tokens=3"
    phases = r"phases=parse:\d+\.\d{3},turn:\S+,prefill:\S+,write:\d+\.\d{3}"
    assert re.search(
        rf" INFO +server\.access: POST /v1/chat/completions 200 {tokens} ttft=\d+\.\d{{3}}s total=\d+\.\d{{3}}s "
        rf"{phases} finish=length id=\S+$",
        line,
    ), line


def test_errors_are_counted_by_route_and_status(server: ServerProcess) -> None:
    labels = {"route": "/v1/chat/completions", "status": "400", "finish_reason": "none"}
    before = server.metric("lucid_requests_total", **labels)
    server.post("/v1/chat/completions", b"{")
    eventually(lambda: server.metric("lucid_requests_total", **labels) == before + 1, "the error is counted")


def test_label_values_do_not_come_from_clients(server: ServerProcess) -> None:
    for path in ("/secret-path", "/v1/models/secret-model"):
        server.get(path)
    eventually(lambda: server.metric("lucid_requests_total", route="unmatched", status="404") >= 1, "counted")
    assert "secret" not in server.metrics_text()


def test_metrics_and_health_answer_while_every_worker_streams(launch: Callable[..., ServerProcess]) -> None:
    server = launch(HTTP_WORKERS="2", MODEL_CONTEXT="1024", INSTANCE_LABEL='a "b"')
    server.wait_ready()
    streams = [server.open_chat(f"Story {n}", stream=True, max_tokens=900, ignore_eos=True) for n in range(2)]
    for sock in streams:
        assert sock.recv(4096).startswith(b"HTTP/1.1 200 ")
    assert server.metric("lucid_requests_running", instance_label='a "b"') == 2
    assert server.get("/health").status == 200
    third = server.chat("One more")
    assert third.status == 503
    assert third.error["code"] == "too_many_requests"
    assert third.headers["Retry-After"] == "1"
    eventually(lambda: server.metric("lucid_requests_rejected_total", reason="too_many_requests") == 1, "it is counted")
    seen = server.metric("token_creation_duration_count")
    eventually(lambda: server.metric("token_creation_duration_count") > seen + 2, "tokens count while they are made")
    assert server.metric("lucid_requests_running", instance_label='a "b"') == 2
    for sock in streams:
        sock.close()
    eventually(lambda: server.chat("One more", max_tokens=1).status == 200, "there is room again")
