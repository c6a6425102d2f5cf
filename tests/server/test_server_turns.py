"""Requests take turns before the engine sees them: chats go on beside a flood of large texts."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from server_process import ServerProcess, eventually

from engine import Timings, clock
from server import turns
from server.errors import ApiError
from server.turns import LARGE, Line, Turns


def test_small_requests_do_not_wait_for_large_ones() -> None:
    line = Turns(places=1)
    with line.take(LARGE, Timings()):
        with line.take(LARGE - 1, Timings()):
            pass
        with pytest.raises(ApiError) as refused, line.take(LARGE, Timings()):
            pass
    assert (refused.value.status, refused.value.body.error.code) == (503, "queue_full")
    with line.take(LARGE, Timings()):  # the refused one took no place
        pass


def test_nobody_waits_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "PATIENCE", 0.1)
    monkeypatch.setattr(turns, "available_cpus", lambda: 2)
    line = Turns(places=9)
    for size in (1, LARGE):
        timings = Timings()
        with line.take(size, Timings()):
            with pytest.raises(ApiError) as refused, line.take(size, timings):
                pass
            assert (refused.value.status, refused.value.body.error.code) == (503, "queue_timeout")
        assert timings.phases["turn"] >= 0.1
        with line.take(size, Timings()):
            pass


def test_a_line_is_first_come_first_served() -> None:
    """Whoever comes just when a place becomes free stands behind all who wait for it, as does whoever comes back."""
    line = Line(1)
    passed: list[int] = []

    def stand(number: int) -> None:
        assert line.enter(60)
        passed.append(number)
        line.leave()

    assert line.enter(0)
    assert not line.enter(0)  # whoever gives up leaves no gap behind
    with ThreadPoolExecutor(8) as pool:
        before = clock()
        for number in range(8):
            pool.submit(stand, number)
            eventually(lambda number=number: line.waiting == number + 1, "it stands in line")  # type: ignore[misc]
        assert 0 < line.oldest_wait < clock() - before
        line.leave()
        assert line.enter(60)
        assert passed == list(range(8))
        assert (line.waiting, line.oldest_wait) == (0, 0)
        line.leave()


def test_no_more_than_agreed_pass_at_once_and_no_place_gets_lost() -> None:
    line, inside, most = Line(3), 0, 0
    lock = threading.Lock()

    def pass_often(_: int) -> None:
        nonlocal inside, most
        for patience in [0.0, 1e-5, 60.0] * 100:
            if line.enter(patience):
                with lock:
                    inside += 1
                    most = max(most, inside)
                time.sleep(1e-6)
                with lock:
                    inside -= 1
                line.leave()

    with ThreadPoolExecutor(12) as pool:
        list(pool.map(pass_often, range(12)))
    assert most <= 3
    assert [line.enter(0) for _ in range(4)] == [True] * 3 + [False]


def test_a_chat_goes_on_beside_a_flood_of_large_texts(launch: Callable[..., ServerProcess]) -> None:
    """Without turns the chat would have to share the processors with a dozen of them."""
    server = launch(MODEL_PARALLEL="2", MODEL_CONTEXT="512", HTTP_WORKERS="32", QUEUE_LIMIT="4")
    server.wait_ready()
    over = threading.Event()

    def flood(_: int) -> set[int]:
        statuses = set()
        while not over.is_set():
            statuses.add(server.post("/tokenize", {"content": "a word " * 20_000}).status)
            time.sleep(0.05)
        return statuses

    with ThreadPoolExecutor(12) as pool:
        floods = pool.map(flood, range(12))
        try:
            while server.post("/tokenize", {"content": "a word " * 20_000}).status == 200:
                pass  # until the flood has come up
            eventually(lambda: server.metric("lucid_requests_waiting") > 0, "who waits for a turn is counted")
            answers = [server.chat(f"Say {number}.", max_tokens=4) for number in range(2)]
        finally:
            over.set()
    assert [answer.status for answer in answers] == [200] * 2
    assert set.union(*floods) == {200, 503}
    assert server.metric("lucid_requests_rejected_total", reason="queue_full") > 0
