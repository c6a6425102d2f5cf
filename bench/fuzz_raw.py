"""Send malformed HTTP over raw sockets to a real server and say whether it stayed what it was.

Starts a server and sends it request lines, headers, lengths and chunks that are wrong, floods, truncated and pipelined
requests, other protocols, smuggling and noise, from several connections at once. Every answer must be well-formed HTTP
and no 5xx; what is malformed beyond doubt must be refused, and no part of a message may be answered as another one. At
the end nothing may run or wait, descriptors and threads must be what they were, and so must the answer to a question.
"""

from __future__ import annotations

import argparse
import http.client
import json
import re
import socket
import struct
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, NamedTuple

from bench import servers
from bench.malformed import CANARY, Generator, Message
from bench.report import fail, progress, table, write_json

#: Connections at once.
THREADS: Final = 8

#: Longest wait for a server, in seconds; to wait longer counts as a hang.
PATIENCE: Final = 60.0

#: Silent connections that make a server start its threads; more than it has.
_SILENT: Final = 100

#: Answers are read up to this many bytes.
_MOST: Final = 1 << 22

_STATUS_LINE: Final = re.compile(rb"HTTP/1\.[01] ([1-5]\d\d) [^\r\n]*\r\n")

#: The client hung up, as a server that answers a closed sending side notes it.
_CLIENT_CLOSED: Final = 499


class Answer(NamedTuple):
    """One response of a connection."""

    status: int
    headers: dict[str, str]
    body: bytes


class Outcome(NamedTuple):
    """What came back."""

    sent: int
    statuses: dict[str, int]
    """How many connections ended with which first status; `none` without an answer, `reset` by the server."""
    kinds: dict[str, int]
    wrong: list[str]
    """What must not be, the first fifty of it."""


class Held(NamedTuple):
    """What a server process, named by its id, holds while it has nothing to do."""

    worker: int
    descriptors: int
    threads: int


def exchange(port: int, message: Message) -> tuple[bytes, bool]:
    """Send `message` on a connection of its own; return what came back, and whether the server reset the connection.

    Raises TimeoutError if the server neither answers nor closes.
    """
    received = bytearray()
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        cuts = [len(message.data) * part // message.pieces for part in range(message.pieces + 1)]
        try:
            for begin, end in pairwise(cuts):
                sock.sendall(message.data[begin:end])
            if message.ending == "reset":
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            if message.ending in ("reset", "close"):
                return b"", False
            if message.ending == "half-close":
                sock.shutdown(socket.SHUT_WR)
            while len(received) < _MOST and (part := sock.recv(65536)):
                received += part
        except TimeoutError:
            raise
        except OSError:
            return bytes(received), True
    return bytes(received), False


def answers(data: bytes) -> list[Answer]:
    """Return the responses in `data` (RFC 9112, 6). Raises ValueError if it is anything else."""
    found = []
    while data:
        line = _STATUS_LINE.match(data)
        head, separator, rest = data.partition(b"\r\n\r\n")
        if line is None or not separator:
            raise ValueError(f"no response: {data[:200]!r}")
        status = int(line[1])
        fields = [field.split(b":", 1) for field in head.split(b"\r\n")[1:]]
        if any(len(field) != 2 for field in fields):
            raise ValueError(f"no headers: {head[:500]!r}")
        headers = {name.decode("ascii").lower(): value.strip().decode("ascii") for name, value in fields}
        if status < 200:
            data = rest
            continue
        if "content-length" in headers:
            length = int(headers["content-length"])
            if len(rest) < length:
                raise ValueError(f"a body of {length} bytes ends after {len(rest)}")
            body, data = rest[:length], rest[length:]
        elif headers.get("transfer-encoding") == "chunked":
            body, data = _dechunked(rest)
        else:
            body, data = rest, b""
        found.append(Answer(status, headers, body))
    return found


def _dechunked(data: bytes) -> tuple[bytes, bytes]:
    """Return a chunked body and what follows it; what is there of it if it breaks off."""
    body = b""
    while data:
        size, _, rest = data.partition(b"\r\n")
        length = int(size, 16)
        body, data = body + rest[:length], rest[length + 2 :]
        if length == 0:
            break
    return body, data


def complaint(message: Message, data: bytes, reset: bool) -> tuple[str, str | None]:
    """Return how a connection ended, in a word, and what was wrong with that."""
    if message.ending in ("close", "reset"):
        return "not read", None
    try:
        found = answers(data)
    except ValueError as error:
        return "garbled", str(error)
    word = str(found[0].status) if found else "reset" if reset else "none"
    for answer in found:
        if answer.status >= 500 and answer.status != 501:
            return word, f"answered {answer.status}: {answer.body[:300]!r}"
        if answer.status == _CLIENT_CLOSED and message.ending == "read":
            return word, "a client that is there is told that it is gone"
        if answer.status >= 400 and answer.body and set(json.loads(answer.body)["error"]) != {
            "message", "type", "param", "code"
        }:  # fmt: skip
            return word, f"no error body: {answer.body[:300]!r}"
        if message.ambiguous and CANARY in answer.body:
            return word, "a part of its body was answered as a request"
    if message.refused and [answer.status >= 400 for answer in found] != [True]:
        return word, "it was not refused" if found else "no answer"
    return word, None


def engine(port: int) -> dict[str, Any]:
    """GET /v1/engine."""
    document: dict[str, Any] = json.loads(_ask(port, "GET", "/v1/engine"))
    return document


def _ask(port: int, method: str, path: str, body: object = None) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        data = None if body is None else json.dumps(body)
        connection.request(method, path, data, {"Content-Type": "application/json"})
        return connection.getresponse().read()
    finally:
        connection.close()


def _question(port: int) -> object:
    """What the server answers to a question that has one answer."""
    body = {"messages": [{"role": "user", "content": "Count to ten."}], "max_tokens": 8, "temperature": 0}
    return json.loads(_ask(port, "POST", "/v1/chat/completions", body | {"cache_prompt": False}))["choices"]


def idle(port: int) -> Held | None:
    """Return what the server holds if nothing runs or waits in it, else None."""
    state = engine(port)
    if state["now"]["running"] or state["now"]["waiting"]:
        return None
    process = Path(f"/proc/{state['worker']}")
    return Held(state["worker"], *(sum(1 for _ in (process / kind).iterdir()) for kind in ("fd", "task")))


def _settled(port: int, most: Held | None = None) -> Held | None:
    """Wait until the server is idle and holds no more than `most`; return what it holds at last."""
    deadline = time.monotonic() + PATIENCE
    while True:
        held = idle(port)
        if held is not None and (most is None or _no_more(held, most)):
            return held
        if time.monotonic() > deadline:
            return held
        time.sleep(0.1)


def _no_more(held: Held, most: Held) -> bool:
    """Whether `held` is the same process's, and no more: one that took its place has leaked nothing yet."""
    return held.worker == most.worker and held.descriptors <= most.descriptors and held.threads <= most.threads


def _fill_threads(port: int) -> None:
    """Let the server start all its HTTP threads: each silent connection has one for a moment."""
    last = 0
    while (held := idle(port)) is None or held.threads > last:
        last = held.threads if held else last
        sockets = [socket.create_connection(("127.0.0.1", port), PATIENCE) for _ in range(_SILENT)]
        time.sleep(0.5)
        for sock in sockets:
            sock.close()


def fuzz(port: int, requests: int, seed: int, on_answer: Callable[[], object] = lambda: None) -> Outcome:
    """Send `requests` messages to the server on `port`, which nobody else uses, over `THREADS` connections at once."""
    question = _question(port)
    _fill_threads(port)
    before = _settled(port)
    statuses: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    wrong: list[str] = []
    lock = threading.Lock()

    def work(thread: int) -> None:
        generator = Generator(seed * THREADS + thread)
        for _ in range(thread, requests, THREADS):
            message = generator.message()
            try:
                word, complained = complaint(message, *exchange(port, message))
            except OSError as error:
                word, complained = "hang" if isinstance(error, TimeoutError) else "refused", repr(error)
            with lock:
                statuses[word] += 1
                kinds[message.kind] += 1
                if complained and len(wrong) < 50:
                    wrong.append(f"{message.kind}, {message.ending}: {message.data[:300]!r}: {complained}")
                on_answer()

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(work, range(THREADS)))
    after = _settled(port, before)
    if after is None:
        wrong.append("requests still run")
    elif before is None or not _no_more(after, before):
        wrong.append(f"it holds more than before, or was replaced: {before} became {after}")
    if _question(port) != question:
        wrong.append("the same question is answered differently")
    return Outcome(sum(kinds.values()), dict(sorted(statuses.items())), dict(sorted(kinds.items())), wrong)


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.fuzz_raw", description=__doc__)
    parser.add_argument("--model", default="model/model.gguf", help="the server's model (default: %(default)s)")
    parser.add_argument("--requests", type=int, default=10_000, help="messages to send (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="makes the same messages again (default: %(default)s)")
    parser.add_argument("--json", metavar="FILE", help="write the results there")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    parsed = parser.parse_args(arguments)
    if parsed.requests < 1:
        parser.error("--requests must be at least 1")
    return parsed


def main(arguments: Sequence[str] | None = None) -> int:
    """Start a server and send; exit code 1 when something was wrong."""
    options = parse_arguments(arguments)
    if not Path(options.model).is_file():
        fail(f"no such file: {options.model}")
    common = servers.Common(options.model, threads=2, slots=4, slot_context=256)
    peer = servers.ours(common, {"HTTP_WORKERS": str(THREADS), "MODEL_CALIBRATE": "off", "LOG_LEVEL": "error"})
    with peer.start() as server, progress(options.requests, "messages") as bar:
        server.wait_ready()
        begin = time.monotonic()
        outcome = fuzz(server.port, options.requests, options.seed, bar.update)
        seconds = time.monotonic() - begin
        if "Traceback" in (tail := server.log_tail(10_000)):
            outcome.wrong.append(f"a traceback in the log: {tail}")
    print(table(("first answer", "connections"), list(outcome.statuses.items()), options.markdown))
    print(table(("kind", "messages"), list(outcome.kinds.items()), options.markdown))
    print(f"{outcome.sent} messages in {seconds:.0f} s, {len(outcome.wrong)} wrong")
    for line in outcome.wrong:
        print(f"wrong: {line}")
    if options.json:
        shown = {"requests": options.requests, "seed": options.seed}
        write_json(options.json, "bench.fuzz_raw", shown, [outcome._asdict()])
    return 1 if outcome.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
