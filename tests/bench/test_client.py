"""The load generator against our real server: counts, gaps, order, failures."""

from __future__ import annotations

import socket
import threading
import time
from dataclasses import replace
from itertools import pairwise
from typing import Self

import pytest

from bench import workloads
from bench.client import Endpoint, LoadGenerator
from bench.http import body, load, main
from bench.ports import free_port
from bench.processes import ServerProcess
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


class HoldingRelay:
    """Forwards one connection to the server and holds the answer back for a moment, in the middle of the stream."""

    def __init__(self, server: ServerProcess, events: int, hold: float) -> None:
        self._server = server
        self._events = events
        self._hold = hold
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._relay)
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.held = 0.0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._thread.join(60)
        self._listener.close()

    def _relay(self) -> None:
        self._listener.settimeout(60)
        with (
            self._listener.accept()[0] as client,
            socket.create_connection(("127.0.0.1", self._server.port), 60) as upstream,
        ):
            upstream.sendall(client.recv(65536))
            seen = 0
            while data := upstream.recv(65536):
                client.sendall(data)
                seen += data.count(b"data:")
                if seen >= self._events and not self.held:
                    begin = time.perf_counter()
                    time.sleep(self._hold)
                    self.held = time.perf_counter() - begin


def test_a_stream_that_is_held_back_shows_as_the_longest_gap(server: ServerProcess) -> None:
    with HoldingRelay(server, events=10, hold=1.0) as relay:
        endpoint = Endpoint(relay.url, body("rusty_llm", 40))
        summary = summarize(LoadGenerator(endpoint, workloads.build("chat", 1, "held"), 1).run())
    assert (summary.errors, summary.output_tokens) == (0, 40)
    assert summary.itl_max >= 0.95 * relay.held
    assert summary.total_p50 >= summary.ttft_p50 + relay.held


def test_errors_of_the_server_are_counted(endpoint: Endpoint) -> None:
    bad = replace(endpoint, body={**endpoint.body, "temperature": "hot"})
    summary = summarize(load(bad, "chat", 2, 3, "bad", warm=False))
    assert (summary.requests, summary.errors, summary.output_tokens) == (3, 3, 0)
    assert "HTTP 400" in summary.first_errors[0]


def test_nobody_listening(endpoint: Endpoint) -> None:
    dead = replace(endpoint, url=f"http://127.0.0.1:{free_port()}")
    summary = summarize(load(dead, "multi-turn", 2, 8, "dead", warm=False))
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
