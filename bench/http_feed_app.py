"""What `bench.http_feed` serves under gunicorn: chunks as our server writes them, from one process or through two.

`/here/N/MS` makes N chunks, MS milliseconds apart, where they are sent; `/dirty/N/MS` fetches them from a gunicorn
"dirty" application, which makes them in a process of its own. `/pid` names that process. Chunks are rendered by the
server's own code. A prototype for a measurement, no part of the service.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from gunicorn.dirty import DirtyApp, get_dirty_client

from server.sse import DONE, ChunkRenderer

SELF: Final = "bench.http_feed_app:Chunks"


def chunks(count: int, pause: float) -> Iterator[bytes]:
    """Yield `count` chunks of one token each, `pause` seconds apart, then the end mark."""
    renderer = ChunkRenderer("chatcmpl-0123456789abcdef0123456789abcdef", 1700000000, "rusty_llm", include_usage=False)
    for _ in range(count):
        if pause:
            time.sleep(pause)
        yield renderer.content(0, " token")
    yield DONE


class Chunks(DirtyApp):
    """The dirty application."""

    def stream(self, count: int, pause: float) -> Iterator[bytes]:
        """Yield what `chunks` does."""
        return chunks(count, pause)

    def pid(self) -> int:
        """The process that this runs in."""
        return os.getpid()


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """The WSGI application."""
    start_response("200 OK", [("Content-Type", "text/event-stream")])
    where, *figures = environ["PATH_INFO"].strip("/").split("/")
    client = get_dirty_client(timeout=60.0)
    if where == "pid":
        return [str(client.execute(SELF, "pid")).encode()]
    count, pause = int(figures[0]), int(figures[1]) / 1000
    if where == "here":
        return chunks(count, pause)
    return client.stream(SELF, "stream", count, pause)  # type: ignore[return-value]
