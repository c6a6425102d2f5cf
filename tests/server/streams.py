"""Clients that ask for one stream after another and keep how each ended."""

import http.client
import json
import threading
from typing import Self

from server_process import PATIENCE, eventually, user

#: How a request ended: "whole"; with an "error event"; "broken off" in the stream; "refused" with a 503; "dropped", its
#: connection made and no answer given; "unreachable", its connection refused. Anything else says what came.
Outcome = str


def ask(port: int, max_tokens: int) -> Outcome:
    """Ask for a stream of that many tokens; return how it ended."""
    body = json.dumps({"messages": user("Count."), "max_tokens": max_tokens, "stream": True, "ignore_eos": True})
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    status, data = 0, b""
    try:
        connection.connect()
    except ConnectionRefusedError:
        return "unreachable"
    try:
        connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        status = response.status
        while part := response.read1(65536):
            data += part
    except TimeoutError:
        return "hang"
    except (OSError, http.client.HTTPException):
        pass
    finally:
        connection.close()
    if status == 0:
        return "dropped"
    if status != 200:
        return "refused" if status == 503 and b'"error"' in data else f"{status} {data[:200]!r}"
    if data.endswith(b"data: [DONE]\n\n"):
        return "whole" if b'"finish_reason":"length"' in data else f"short: {data[-200:]!r}"
    return "error event" if b"event: error\ndata: " in data else "broken off"


class Streams:
    """`clients` threads that ask for streams of `max_tokens` until they are stopped."""

    def __init__(self, port: int, clients: int, max_tokens: int) -> None:
        self._stop = threading.Event()
        self.outcomes: list[Outcome] = []
        self._threads = [
            threading.Thread(target=self._ask, args=(port, max_tokens), daemon=True) for _ in range(clients)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(PATIENCE)

    def more(self, count: int) -> None:
        """Wait for that many further outcomes."""
        goal = len(self.outcomes) + count
        eventually(lambda: len(self.outcomes) >= goal, "requests are answered")

    def _ask(self, port: int, max_tokens: int) -> None:
        while not self._stop.is_set():
            outcome = ask(port, max_tokens)
            self.outcomes.append(outcome)
            if outcome in ("refused", "dropped", "unreachable"):
                self._stop.wait(0.05)
