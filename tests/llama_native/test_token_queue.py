"""Tokens between threads: nothing is lost, doubled or reordered, and nobody waits in vain."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from queue import Empty

import pytest

from llama_native import Outbox, TokenQueue


def test_tokens_and_objects_come_in_order() -> None:
    queue: TokenQueue[str] = TokenQueue()
    queue.put(0, 5)
    queue.put(3, "a")
    queue.put(1, 0)
    queue.put(2, "b")
    assert [queue.get() for _ in range(4)] == [(0, 5), (3, "a"), (1, 0), (2, "b")]


@pytest.mark.parametrize("timeout", [0.0, 0.02, -1.0])
def test_waiting_has_an_end(timeout: float) -> None:
    with pytest.raises(Empty):
        TokenQueue[str]().get(timeout)


def test_a_thread_that_waits_for_longer_than_a_slice_gets_what_comes() -> None:
    queue: TokenQueue[str] = TokenQueue()
    thread = threading.Thread(target=lambda: (time.sleep(1.2), queue.put(0, 7)))
    thread.start()
    assert queue.get() == (0, 7)
    thread.join()


def test_an_outbox_sends_to_several_queues_more_than_it_has_room_for() -> None:
    queues: list[TokenQueue[str]] = [TokenQueue() for _ in range(3)]
    outbox = Outbox()
    for number in range(200):
        outbox.add(queues[number % 3], number, number if number % 7 else str(number))
    outbox.send()
    outbox.send()  # there is nothing more
    for start, queue in enumerate(queues):
        expected = [(n, n if n % 7 else str(n)) for n in range(start, 200, 3)]
        assert [queue.get(0) for _ in expected] == expected
        with pytest.raises(Empty):
            queue.get(0)


def test_nothing_is_lost_between_many_threads() -> None:
    """Eight threads put into four queues, each of which a thread empties; every thread's own items stay in order."""
    queues: list[TokenQueue[tuple[int, int]]] = [TokenQueue() for _ in range(4)]
    taken: list[list[tuple[int, int]]] = [[] for _ in queues]

    def put(thread: int) -> None:
        outbox = Outbox()
        for number in range(500):
            item: int | tuple[int, int] = number if number % 5 else (thread, number)
            outbox.add(queues[number % 4], thread, item)
            if number % 3 == 0:
                outbox.send()
        outbox.send()

    def take(place: int) -> None:
        for _ in range(8 * 125):
            thread, item = queues[place].get(30)
            number = item if isinstance(item, int) else item[1]
            taken[place].append((thread, number))

    threads = [threading.Thread(target=put, args=(n,)) for n in range(8)]
    threads += [threading.Thread(target=take, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for place, items in enumerate(taken):
        for thread_number in range(8):
            assert [n for t, n in items if t == thread_number] == list(range(place, 500, 4))


def test_objects_that_nobody_took_are_let_go_with_their_queue() -> None:
    class Item:
        pass

    item = Item()
    watch = weakref.ref(item)
    queue: TokenQueue[Item] = TokenQueue()
    queue.put(0, item)
    del item, queue
    gc.collect()
    assert watch() is None
