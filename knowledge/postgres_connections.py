"""Connections to PostgreSQL: where to, and when they give up, by a limit on the client's side for a whole block.

A database that is paused, or whose disk hangs, keeps its TCP connections alive and answers nothing; neither its own
timeouts nor those of the network ever end. Knows connections and time; what is asked of the database is not known here.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final, TypeVar

import psycopg
from psycopg.abc import PQGen
from psycopg.conninfo import conninfo_to_dict

from knowledge.store import StoreError

#: Seconds for a single exchange where no block says otherwise: on the threads of a pool.
DEFAULT: Final = 10.0

_Result = TypeVar("_Result")
_deadline: ContextVar[float | None] = ContextVar("deadline", default=None)


def location(url: str) -> str:
    """Returns where a `postgresql://` URL leads, for people: its database, host and port, and never its password.

    Raises `StoreError` for a URL that libpq does not take, or would take a part of the password in for something else.
    """
    authority, _, path = url.partition("://")[2].partition("?")[0].partition("/")
    try:
        parts = conninfo_to_dict(url)
        port = str(parts.get("port") or "")
        plain = authority.count("@") <= 1 and "@" not in path and re.fullmatch(r"[\d,]*", port)
    except psycopg.ProgrammingError:  # its message holds the password, or all of the URL
        plain = None
    if not plain:
        raise StoreError(
            "KNOWLEDGE_URL is not postgresql://user:password@host:port/database?parameter=value as libpq knows it; "
            "percent-encode special characters in its parts, as %25 for %, %2F for / and %40 for @"
        ) from None
    host, database = parts.get("host") or "localhost", parts.get("dbname") or "the user's database"
    return f"PostgreSQL, {database} on {host}" + (f":{port}" if port else "")


def connection_settings(connect_timeout: float, options: Mapping[str, object]) -> dict[str, Any]:
    """Returns the parameters of a connection with these settings of the database, and those common to all.

    A silent network counts as gone after some 10 seconds, on either side: a dead client's locks are free again then.
    """
    alive = {"keepalives_idle": 5, "keepalives_interval": 2, "keepalives_count": 3}
    silence = {"tcp_user_timeout": 10_000}
    common = {"jit": "off", "hnsw.iterative_scan": "strict_order"}
    theirs = {f"tcp_{name}": value for name, value in alive.items()}
    return {
        "autocommit": True,
        "connect_timeout": int(connect_timeout),
        "application_name": "lucid-llm",
        "options": " ".join(
            f"-c {name}={value}" for name, value in (common | theirs | silence | dict(options)).items()
        ),
        **alive,
        **silence,
    }


class SilentError(psycopg.OperationalError):
    """The database did not answer in time. The connection is closed."""


@contextmanager
def patience(seconds: float) -> Iterator[Callable[[], float]]:
    """Limits what this thread does with a `PatientConnection` within the block, all of it together.

    Gives a function that returns the seconds left, at least 0.
    """
    deadline = time.monotonic() + seconds
    token = _deadline.set(deadline)
    try:
        yield lambda: max(0.0, deadline - time.monotonic())
    finally:
        _deadline.reset(token)


class PatientConnection(psycopg.Connection[tuple[Any, ...]]):
    """A connection that raises `SilentError` when the block's time is over, and is closed then."""

    def wait(self, gen: PQGen[_Result], *arguments: Any, **options: Any) -> _Result:
        """Consumes a generator operating on the connection, as `psycopg.Connection.wait` does."""
        deadline = _deadline.get() or time.monotonic() + DEFAULT
        try:
            return super().wait(_until(deadline, gen), *arguments, **options)
        except SilentError:
            self.pgconn.finish()  # what comes later would be taken for the answer to something else
            raise


def _until(deadline: float, gen: PQGen[_Result]) -> PQGen[_Result]:
    """The generator, with an end: psycopg resumes it several times a second even when nothing has come."""
    try:
        wanted = next(gen)
        while True:
            ready = yield wanted
            if not ready and time.monotonic() >= deadline:
                raise SilentError("it does not answer in time")
            wanted = gen.send(ready)
    except StopIteration as end:
        result: _Result = end.value
        return result
