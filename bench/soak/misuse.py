"""Bad input: requests that must be refused with a certain status and an error body, and clients that vanish."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any, Final

from bench.soak.asks import CHAT, MODEL, Address, Ask, new_code, wrong_error
from bench.soak.exchange import Exchange, Leave, Response, post

_USER: Final = [{"role": "user", "content": "Say hello."}]
_JSON: Final = "Content-Type: application/json"


def _schema(schema: dict[str, Any]) -> dict[str, Any]:
    return {"messages": _USER, "response_format": {"type": "json_schema", "json_schema": {"schema": schema}}}


#: Method, path, body and the status it gets.
BAD: Final[Sequence[tuple[str, str, object, int]]] = (
    ("POST", CHAT, b"{", 400),
    ("POST", CHAT, b"\xff\xfe[]", 400),
    ("POST", CHAT, b"[" * 5000, 400),
    ("POST", CHAT, {}, 400),
    ("POST", CHAT, {"messages": []}, 400),
    ("POST", CHAT, {"messages": [{"role": "wizard", "content": "x"}]}, 400),
    ("POST", CHAT, {"messages": _USER, "temperature": 5}, 400),
    ("POST", CHAT, {"messages": _USER, "max_tokens": -1}, 400),
    ("POST", CHAT, {"messages": _USER, "n": 100000}, 400),
    ("POST", CHAT, {"messages": [{"role": "user", "content": "word " * 30000}], "knowledge": False}, 400),
    ("POST", CHAT, {"messages": _USER, "model": "no-such-model"}, 404),
    ("POST", CHAT, {"messages": _USER, "tools": [{"type": "function"}]}, 400),
    ("POST", CHAT, _schema({"type": "object", "not": {"type": "string"}}), 400),
    ("POST", CHAT, _schema({"type": "string", "pattern": "(?=a)b"}), 400),
    ("POST", "/v1/completions", {"prompt": []}, 400),
    ("POST", "/v1/completions", {"prompt": [[2**31 - 1]], "model": MODEL}, 400),
    ("POST", "/v1/responses", {"input": "x", "previous_response_id": "resp_1"}, 400),
    ("POST", "/v1/embeddings", {"input": ""}, 400),
    ("POST", "/v1/embeddings", {"input": ["word " * 2000]}, 400),
    ("POST", "/v1/knowledge/search", {"query": "x", "threshold": 7}, 400),
    ("GET", CHAT, None, 405),
    ("DELETE", "/v1/models", None, 405),
    ("GET", "/v1/../../etc/passwd", None, 404),
    ("POST", "/nowhere", {}, 404),
)

#: What is no proper HTTP, and the status it gets.
MALFORMED: Final[Sequence[tuple[bytes, int]]] = (
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
    (b"GET /health\r\n\r\n", 400),
    (b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: minus one\r\n\r\n", 400),
    (b"GET / HTTP/1.1\r\nX-Long: " + b"x" * 20000 + b"\r\n\r\n", 431),
)


def bad(address: Address, random: Random) -> Ask:
    """A request that is proper HTTP and yet must be refused."""
    method, path, asked, status = random.choice(BAD)
    code = new_code(random)
    request = post(address, path, asked, code, method)
    return Ask(f"bad {method} {path}", code, request, _is_error, status, generations=0, refusable=status == 400)


def unsupported_type(address: Address, random: Random) -> Ask:
    """A body that does not say that it is JSON. A full queue is told of before anything of a body is looked at."""
    code = new_code(random)
    request = post(address, CHAT, {"messages": _USER}, code).replace(_JSON.encode(), b"Content-Type: text/plain")
    return Ask("text/plain", code, request, _is_error, 415, generations=0)


def too_large(address: Address, random: Random) -> Ask:
    """A body whose announced length is over the limit; none of it is sent. Also refused unseen by a full queue."""
    code = new_code(random)
    request = post(address, CHAT, b"", code).replace(b"Content-Length: 0", b"Content-Length: 1000000000")
    return Ask("too large", code, request, _is_error, 413, generations=0)


def malformed(_: Address, random: Random) -> Ask:
    """Bytes that are no proper HTTP request."""
    request, status = random.choice(MALFORMED)
    return Ask("malformed", "", request, _is_error, status, generations=0, refusable=False, named=False)


def _is_error(_: Exchange, response: Response) -> str | None:
    return wrong_error(response)


def leave(random: Random) -> Leave:
    """When and how to vanish: before the request is complete, in the queue, in prefill, mid-stream."""
    incomplete = random.random() < 0.25
    share = random.random() if incomplete else 1.0
    return Leave(share, random.choice((0.0, 0.02, 0.2, 1.0)) * random.random(), random.random() < 0.5)
