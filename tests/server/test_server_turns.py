"""Requests take turns before the engine sees them: chats go on beside a flood of large texts."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from server_process import ServerProcess

from server import turns
from server.errors import ApiError
from server.turns import LARGE, Turns


def test_small_requests_do_not_wait_for_large_ones() -> None:
    line = Turns(places=1)
    with line.take(LARGE):
        with line.take(LARGE - 1):
            pass
        with pytest.raises(ApiError) as refused, line.take(LARGE):
            pass
    assert (refused.value.status, refused.value.body.error.code) == (503, "queue_full")
    with line.take(LARGE):  # the refused one took no place
        pass


def test_nobody_waits_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "PATIENCE", 0.1)
    monkeypatch.setattr(turns.os, "cpu_count", lambda: 2)
    line = Turns(places=9)
    for size in (1, LARGE):
        with line.take(size):
            with pytest.raises(ApiError) as refused, line.take(size):
                pass
            assert (refused.value.status, refused.value.body.error.code) == (503, "queue_timeout")
        with line.take(size):
            pass


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
            answers = [server.chat(f"Say {number}.", max_tokens=4) for number in range(2)]
        finally:
            over.set()
    assert [answer.status for answer in answers] == [200] * 2
    assert set.union(*floods) == {200, 503}
