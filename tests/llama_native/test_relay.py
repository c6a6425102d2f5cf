"""The texts of tokens on their way to a socket in C, and what is left to Python."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from llama_native import Model, Relay, RelayEnd, TokenQueue, TokenTexts, Vocab
from llama_native.relay import CAPACITY, Relayed

Pair = tuple[socket.socket, socket.socket]

BEFORE, AFTER = b'{"a":"', b'"}\n'


def escaped(text: str) -> bytes:
    return json.dumps(text, ensure_ascii=False).encode()[1:-1]


@pytest.fixture(scope="module")
def vocab(chat_model: Model) -> Vocab:
    return chat_model.vocab


@pytest.fixture(scope="module")
def texts(vocab: Vocab) -> TokenTexts:
    return TokenTexts(vocab, escaped)


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(5)
        yield ours, theirs


def relay_to(ours: socket.socket, texts: TokenTexts, *, chunked: bool = False, patience: float = 5) -> Relay:
    relay = Relay(ours, texts, chunked=chunked, patience=patience)
    relay.frame(BEFORE, AFTER)
    return relay


def queue_of(*items: int | str) -> TokenQueue[str]:
    queue: TokenQueue[str] = TokenQueue()
    for item in items:
        queue.put(0, item)
    return queue


def received(theirs: socket.socket) -> bytes:
    """What has come so far."""
    theirs.setblocking(False)
    data = b""
    with contextlib.suppress(BlockingIOError):
        while part := theirs.recv(1 << 20):
            data += part
    return data


def in_chunks(data: bytes) -> list[bytes]:
    chunks = []
    while data:
        size, _, data = data.partition(b"\r\n")
        end = int(size, 16)
        chunks.append(data[:end])
        assert data[end : end + 2] == b"\r\n"
        data = data[end + 2 :]
    return chunks


@pytest.mark.parametrize("chunked", [False, True])
def test_every_token_that_is_text_by_itself_is_written(
    vocab: Vocab, texts: TokenTexts, pair: Pair, chunked: bool
) -> None:
    """The whole vocabulary, also beside what Python's own decoder and encoder make of it; the rest is left."""
    ours, theirs = pair
    queue: TokenQueue[str] = TokenQueue()
    relay = relay_to(ours, texts, chunked=chunked)
    written = 0
    for token in range(vocab.n_tokens):
        data = vocab.token_bytes(token)
        queue.put(0, token)
        end, times = relay.run(queue, 0.0)
        try:
            text = data.decode()
        except UnicodeDecodeError:
            assert (end, len(times), received(theirs)) == (RelayEnd.LEFT, 0, b"")
            assert queue.get(0) == (0, token)
            continue
        assert (end, len(times)) == (RelayEnd.TIME, 1)
        expected = BEFORE + escaped(text) + AFTER if text else b""
        got = received(theirs)
        assert (b"".join(in_chunks(got)) if chunked else got) == expected
        written += bool(text)
    assert written > vocab.n_tokens / 2


def test_chunks_of_every_size_are_framed(vocab: Vocab, texts: TokenTexts, pair: Pair) -> None:
    ours, theirs = pair
    (token,) = vocab.tokenize("a")
    relay = relay_to(ours, texts, chunked=True)
    for size in (0, 1, 14, 15, 16, 254, 255, 256, 4095, 65535):
        relay.frame(b"x" * size, b"")
        assert relay.run(queue_of(int(token)), 0.0).end is RelayEnd.TIME
        assert in_chunks(received(theirs)) == [b"x" * size + b"a"]


def test_it_stops_before_what_is_not_for_it(vocab: Vocab, pair: Pair) -> None:
    ours, theirs = pair
    a, b = (int(vocab.tokenize(letter)[0]) for letter in "ab")
    relay = relay_to(ours, TokenTexts(vocab, escaped, withheld={b}))
    queue = queue_of(a, a, b, a, "the end")
    end, times = relay.run(queue, 1)
    assert (end, len(times)) == (RelayEnd.LEFT, 2)
    assert queue.get(0) == (0, b)
    assert relay.run(queue, 1).end is RelayEnd.LEFT
    assert queue.get(0) == (0, "the end")
    assert received(theirs) == 3 * (BEFORE + b"a" + AFTER)


def test_a_token_outside_the_vocabulary_is_left(vocab: Vocab, texts: TokenTexts, pair: Pair) -> None:
    assert relay_to(pair[0], texts).run(queue_of(vocab.n_tokens), 1).end is RelayEnd.LEFT


def test_times_are_those_of_the_stopwatch(vocab: Vocab, texts: TokenTexts, pair: Pair) -> None:
    token = int(vocab.tokenize("a")[0])
    begin = time.perf_counter()
    end, times = relay_to(pair[0], texts).run(queue_of(*[token] * 5, "the end"), 60)
    assert (end, times.shape) == (RelayEnd.LEFT, (5, 3))
    flat = [begin, *times.ravel(), time.perf_counter()]
    assert np.all(np.diff(flat) >= 0)


def test_more_than_it_has_room_for_waits_for_the_next_turn(vocab: Vocab, texts: TokenTexts, pair: Pair) -> None:
    ours, theirs = pair
    token = int(vocab.tokenize("a")[0])
    queue = queue_of(*[token] * (CAPACITY + 3), "the end")
    relay = relay_to(ours, texts)
    relay.frame(b"", b"")
    first = relay.run(queue, 60)
    got = received(theirs)
    second = relay.run(queue, 60)
    assert (first.end, len(first.times), len(got)) == (RelayEnd.TIME, CAPACITY, CAPACITY)
    assert (second.end, len(second.times)) == (RelayEnd.LEFT, 3)
    assert got + received(theirs) == (CAPACITY + 3) * b"a"


def test_its_time_ends_though_tokens_keep_coming(vocab: Vocab, texts: TokenTexts, pair: Pair) -> None:
    token = int(vocab.tokenize("a")[0])
    end, times = relay_to(pair[0], texts).run(queue_of(token, token), 0.0)
    assert (end, len(times)) == (RelayEnd.TIME, 1)


def test_a_client_that_has_gone_is_noticed(vocab: Vocab, texts: TokenTexts, pair: Pair) -> None:
    ours, theirs = pair
    theirs.close()
    token = int(vocab.tokenize("a")[0])
    end, times = relay_to(ours, texts).run(queue_of(token, token), 1)
    assert (end, len(times)) == (RelayEnd.BROKEN, 1)


def test_a_client_that_does_not_read_is_given_up(vocab: Vocab, texts: TokenTexts, pair: Pair) -> None:
    ours, _ = pair
    token = int(vocab.tokenize("a")[0])
    relay = relay_to(ours, texts, patience=0.1)
    relay.frame(b"x" * 100_000, b"")
    begin = time.perf_counter()
    for _ in range(1000):
        end, _times = relay.run(queue_of(token), 1)
        if end is not RelayEnd.TIME:
            break
        begin = time.perf_counter()
    assert end is RelayEnd.BEHIND
    assert time.perf_counter() - begin >= 0.1


def test_a_client_that_reads_late_gets_everything(vocab: Vocab, texts: TokenTexts, pair: Pair) -> None:
    """A write that does not fit the socket's buffer is finished when there is room."""
    ours, theirs = pair
    token = int(vocab.tokenize("a")[0])
    relay = relay_to(ours, texts)
    relay.frame(b"x" * 3_000_000, b"y")
    got = bytearray()

    def read() -> None:
        time.sleep(0.2)
        while len(got) < 3_000_002:
            got.extend(theirs.recv(1 << 16))

    reader = threading.Thread(target=read)
    reader.start()
    assert relay.run(queue_of(token), 1).end is RelayEnd.TIME
    reader.join()
    assert bytes(got) == b"x" * 3_000_000 + b"ay"


def test_a_token_that_waited_too_long_is_not_written(vocab: Vocab, texts: TokenTexts, pair: Pair) -> None:
    ours, theirs = pair
    queue = queue_of(int(vocab.tokenize("a")[0]))
    time.sleep(0.05)
    assert relay_to(ours, texts, patience=0.02).run(queue, 1).end is RelayEnd.BEHIND
    assert received(theirs) == b""


class Waiting:
    """A relay that waits in a thread of its own, for those who put tokens to write them."""

    def __init__(self, relay: Relay, queue: TokenQueue[str]) -> None:
        self.ended: list[Relayed] = []
        self._thread = threading.Thread(target=lambda: self.ended.append(relay.run(queue, 30)))
        self._thread.start()
        time.sleep(0.1)

    def join(self) -> Relayed:
        self._thread.join()
        return self.ended[0]


def test_tokens_that_come_while_it_waits_are_written_by_who_puts_them(
    vocab: Vocab, texts: TokenTexts, pair: Pair
) -> None:
    ours, theirs = pair
    token = int(vocab.tokenize("a")[0])
    queue: TokenQueue[str] = TokenQueue()
    waiting = Waiting(relay_to(ours, texts), queue)
    event = BEFORE + b"a" + AFTER
    count = in_a_row = 0
    while in_a_row < 3:  # on a busy host the other thread may not wait yet
        assert count < 100, "what was put is never there at once"
        queue.put(0, token)
        count += 1
        at_once = received(theirs)
        in_a_row = in_a_row + 1 if at_once == event else 0
        if not at_once:
            theirs.settimeout(30)
            assert theirs.recv(1 << 16) == event
            time.sleep(0.05)
    queue.put(0, "the end")
    end, times = waiting.join()
    assert (end, times.shape) == (RelayEnd.LEFT, (count, 3))
    assert np.all(np.diff(times.ravel()) >= 0)
    assert queue.get(0) == (0, "the end")


def test_order_is_kept_whoever_writes(vocab: Vocab, texts: TokenTexts, pair: Pair) -> None:
    """Many tokens, put without a pause, to a client that reads slowly: some fit the socket at once, others do not."""
    ours, theirs = pair
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    letters = [int(vocab.tokenize(letter)[0]) for letter in "abcdefghijklmnopqrstuvwxyz"]
    queue: TokenQueue[str] = TokenQueue()
    relay = relay_to(ours, texts, patience=30)
    relay.frame(b"<" * 300, b">")
    count, got = 2000, bytearray()

    def write() -> None:
        written = 0
        while written < count:
            end, times = relay.run(queue, 0.05)
            assert end in (RelayEnd.TIME, RelayEnd.LEFT)
            written += len(times)

    theirs.settimeout(60)

    def read() -> None:
        while len(got) < 302 * count:
            got.extend(theirs.recv(3000))
            time.sleep(0.0001)

    threads = [threading.Thread(target=target) for target in (write, read)]
    for thread in threads:
        thread.start()
    for number in range(count):
        queue.put(0, letters[number % 26])
    for thread in threads:
        thread.join()
    texts_come = bytes(got).replace(b"<", b"").replace(b">", b"").decode()
    assert texts_come == ("abcdefghijklmnopqrstuvwxyz" * (count // 26 + 1))[:count]


def test_what_a_socket_does_not_take_at_once_is_finished(vocab: Vocab, texts: TokenTexts, pair: Pair) -> None:
    ours, theirs = pair
    token = int(vocab.tokenize("a")[0])
    queue: TokenQueue[str] = TokenQueue()
    relay = relay_to(ours, texts)
    relay.frame(b"x" * 3_000_000, b"y")
    waiting = Waiting(relay, queue)
    begin = time.perf_counter()
    queue.put(0, token)
    queue.put(0, token)
    queue.put(0, "the end")
    assert time.perf_counter() - begin < 2, "`put` waits for no client"
    data = b""
    while len(data) < 6_000_004:
        data += theirs.recv(1 << 20)
    assert data == 2 * (b"x" * 3_000_000 + b"ay")
    assert waiting.join().end is RelayEnd.LEFT


def test_a_client_that_goes_while_it_waits(vocab: Vocab, texts: TokenTexts, pair: Pair) -> None:
    ours, theirs = pair
    queue: TokenQueue[str] = TokenQueue()
    waiting = Waiting(relay_to(ours, texts), queue)
    theirs.close()
    queue.put(0, int(vocab.tokenize("a")[0]))
    assert waiting.join().end is RelayEnd.BROKEN
    queue.put(0, "nobody waits any more")
    assert queue.get(0) == (0, "nobody waits any more")


def test_a_client_that_stops_reading_while_it_waits(vocab: Vocab, texts: TokenTexts, pair: Pair) -> None:
    ours, _ = pair
    queue: TokenQueue[str] = TokenQueue()
    relay = relay_to(ours, texts, patience=0.2)
    relay.frame(b"x" * 3_000_000, b"y")
    waiting = Waiting(relay, queue)
    queue.put(0, int(vocab.tokenize("a")[0]))
    assert waiting.join().end is RelayEnd.BEHIND
