"""A step's tokens for a second process, in one message through a local socket: what it costs, and how many get through.

The sketch of an engine that feeds several HTTP processes. The sender packs (stream, token) pairs and sends them once a
step; the receiver puts each token into its stream's queue, where threads that write to clients would take it.
"""

from __future__ import annotations

import queue
import socket
import statistics
import struct
import time
from multiprocessing import get_context
from typing import Final

PAIR: Final = struct.Struct("<II")
STEPS: Final = 3000


def _receive(connection: socket.socket, streams: int) -> None:
    """The second process: takes all steps, then says so."""
    inboxes: list[queue.SimpleQueue[int]] = [queue.SimpleQueue() for _ in range(streams)]
    for _ in range(STEPS):
        for stream, token in PAIR.iter_unpack(connection.recv(1 << 16)):
            inboxes[stream].put(token)
    connection.send(b"done")


def hand_over(streams: int) -> tuple[float, float]:
    """Tokens/s that reach the other process's queues, and the median of the sender's microseconds a step."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    process = get_context("spawn").Process(target=_receive, args=(theirs, streams), daemon=True)
    process.start()
    theirs.close()
    times = []
    ours.send(_step(streams, 0))  # the process is up once it takes the first of many
    begin = time.perf_counter()
    for step in range(1, STEPS):
        before = time.perf_counter()
        ours.send(_step(streams, step))
        times.append(time.perf_counter() - before)
    assert ours.recv(16) == b"done"
    seconds = time.perf_counter() - begin
    ours.close()
    process.join()
    return streams * (STEPS - 1) / seconds, 1e6 * statistics.median(times)


def _step(streams: int, step: int) -> bytes:
    return b"".join(PAIR.pack(stream, step) for stream in range(streams))
