"""The load generator against our real server: counts, gaps, order, failures."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from dataclasses import replace
from itertools import pairwise

import pytest

from bench import workloads
from bench.client import Endpoint, LoadGenerator, Run
from bench.http import body, load, main
from bench.processes import ServerProcess, free_port
from bench.summary import summarize


def test_counts_tokens_as_the_server_and_as_chunks(endpoint: Endpoint) -> None:
    run = load(endpoint, "chat", concurrency=3, requests=7, seed="count")
    summary = summarize(run)
    assert (summary.requests, summary.errors, summary.uncounted) == (7, 0, 0)
    assert summary.output_tokens == 7 * 12
    for answer in run.answers:
        assert (answer.completion_tokens, answer.finish_reason, answer.counted) == (12, "length", "usage")
        assert 1 <= len(answer.token_times) <= 12
        assert sum(answer.gaps) == pytest.approx(answer.token_times[-1] - answer.token_times[0])
        assert answer.started < answer.token_times[0] <= answer.token_times[-1] <= answer.ended
    assert 0 < summary.ttft_p50 <= summary.ttft_p95
    assert 0 < summary.itl_p50 <= summary.itl_p95 <= summary.itl_max
    assert 0 < summary.client_cpu < summary.wall


def test_never_more_requests_in_flight_than_clients(endpoint: Endpoint) -> None:
    run = load(endpoint, "chat", concurrency=2, requests=6, seed="flight")
    moments = [(answer.started, 1) for answer in run.answers] + [(answer.ended, -1) for answer in run.answers]
    in_flight = peak = 0
    for _, change in sorted(moments):
        in_flight += change
        peak = max(peak, in_flight)
    assert peak == 2


def test_a_conversation_carries_its_answers(endpoint: Endpoint) -> None:
    run = load(endpoint, "multi-turn", concurrency=2, requests=2 * workloads.TURNS, seed="turns")
    assert all(answer.error is None for answer in run.answers)
    for conversation in range(2):
        turns = [answer for answer in run.answers if answer.conversation == conversation]
        assert [answer.turn for answer in turns] == list(range(workloads.TURNS))
        for earlier, later in pairwise(turns):
            assert later.started >= earlier.ended
            assert later.prompt_tokens > earlier.prompt_tokens + workloads.NEXT_TURN_WORDS


def test_a_pause_of_the_server_is_the_longest_gap(server: ServerProcess) -> None:
    endpoint = Endpoint(server.url, body("rusty_llm", 400))
    results: list[Run] = []
    loading = threading.Thread(target=lambda: results.append(load(endpoint, "chat", 2, 2, "pause")))
    loading.start()
    time.sleep(1.0)
    paused = time.perf_counter()
    os.killpg(os.getpgid(server.pid), signal.SIGSTOP)
    try:
        time.sleep(0.7)
        pause = time.perf_counter() - paused
    finally:
        os.killpg(os.getpgid(server.pid), signal.SIGCONT)
    loading.join()
    summary = summarize(results[0])
    assert summary.errors == 0
    assert summary.itl_max >= 0.9 * pause


def test_errors_of_the_server_are_counted(endpoint: Endpoint) -> None:
    bad = replace(endpoint, body={**endpoint.body, "temperature": "hot"})
    summary = summarize(load(bad, "chat", 2, 3, "bad", warmup=0))
    assert (summary.requests, summary.errors, summary.output_tokens) == (3, 3, 0)
    assert "HTTP 400" in summary.first_errors[0]


def test_nobody_listening(endpoint: Endpoint) -> None:
    dead = replace(endpoint, url=f"http://127.0.0.1:{free_port()}")
    summary = summarize(load(dead, "multi-turn", 2, 8, "dead", warmup=0))
    assert summary.errors == summary.requests == 2
    assert "cannot send the request" in summary.first_errors[0]


def test_a_silent_server_fails_the_request_in_bounded_time(endpoint: Endpoint) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        quiet = replace(endpoint, url=f"http://127.0.0.1:{silent.getsockname()[1]}", idle_timeout=0.2)
        run = LoadGenerator(quiet, workloads.build("chat", 3), 2).run()
    assert len(run.answers) == 3
    assert all(answer.error == "no byte for 0.2 s" for answer in run.answers)


@pytest.mark.parametrize("url", ["https://127.0.0.1:1", "ftp://x", "127.0.0.1:8080", "http://"])
def test_urls_that_cannot_be_loaded(url: str) -> None:
    with pytest.raises(ValueError, match="not an http"):
        Endpoint(url, {})
    with pytest.raises(SystemExit) as left:
        main(["--url", url])
    assert left.value.code == 2
