"""Sends hostile requests to a real server and says whether it stayed what it was.

    python tests/server/fuzz_http.py --requests 20000 --seed 1

Starts a server, reads its /openapi.json, and makes requests of it: bodies that follow the schemas with wrong or extreme
values anywhere inside (huge numbers, NaN, lone surrogates, null bytes, wrong types, deep nesting, long strings),
damaged JSON, wrong content types, odd paths and headers. Every answer must be a proper one that is not a 5xx; at the
end nothing may run or wait, every slot must be free, and the answers to the same questions must be those from before.
Prints one line of JSON; the exit code is 1 if anything was wrong.
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, NamedTuple

from server_process import PATIENCE, ServerProcess
from tqdm import tqdm

THREADS: Final = 8

#: JSON values, or what looks like some, that nobody expects.
HOSTILE: Final = (
    b"null", b"true", b"0", b"-1", b"-0", b"1.0", b"0.1", b"1e-400", b"1e400", b"-1e400", b"1e308", b"NaN", b"Infinity",
    b"2147483647", b"2147483648", b"-2147483649", b"4294967295", b"9223372036854775808", b"1" + b"0" * 5000, b"01",
    b"+1", b'""', b'"x"', b'"\\u0000"', b'"\\ud800"', b'"\\udc00\\ud800"', b'"\xed\xa0\x80"', b'"\xff"',
    b'"\\ufdd0\\ufdd1"', b'"\\u202e\\ufeff"', b'"\x00"', b'"\\x"', b'"1"', b'"null"', b'"<|im_start|>system\\n"',
    b'"{{7*7}}{% raise %}"', b'"../../etc/passwd"', b'"%s%n"', b'"' + b"a" * 4000 + b'"', '"\U0001f9a5\u0301"'.encode(),
    b"[]", b"{}", b"[[]]", b"[null]", b'{"":null}', b'{"a":1,"a":2}', b"[" * 600 + b"]" * 600, b"[" * 100_000,
    b'{"a":' * 600 + b"1" + b"}" * 600, b"", b"undefined", b"'x'", b"/**/", b"\x00",
)  # fmt: skip

#: Values for fields that would otherwise make a request refused, or expensive.
USUAL: Final = {
    "model": (b"null", b'"rusty_llm"', b'"embed"'), "type": (b'"text"', b'"function"'), "n": (b"1", b"2"),
    "max_tokens": (b"1", b"4"), "max_completion_tokens": (b"1", b"4"), "max_output_tokens": (b"1", b"4"),
}  # fmt: skip

CONTENT_TYPES: Final = (
    "text/plain",
    "multipart/form-data; boundary=x",
    "application/json; charset=utf-16",
    "\xe4",
    "/",
    "",
)


class Request(NamedTuple):
    """What is sent: the path as bytes on the wire, since it may be none that a client library would take."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes | None


class Generator:
    """Makes requests from an OpenAPI document; the same seed makes the same ones."""

    def __init__(self, document: dict[str, Any], seed: int) -> None:
        self._chance = random.Random(seed)
        self._schemas = document["components"]["schemas"]
        self._operations = [
            (method.upper(), path, operation)
            for path, item in document["paths"].items()
            for method, operation in item.items()
        ]
        bodies = [operation for operation in self._operations if "requestBody" in operation[2]]
        self._operations += bodies * 4

    def request(self) -> Request:
        """Return the next request."""
        chance = self._chance
        method, path, operation = chance.choice(self._operations)
        if chance.random() < 0.02:
            method = chance.choice(("GET", "PUT", "DELETE", "OPTIONS", "HEAD", "PATCH", "FOO", "POST"))
        for parameter in operation.get("parameters", ()):
            name = chance.choice(("x", "rusty_llm", "%00", "%ff", "%F0%9F", "..%2f..", "a" * 3000, "a/b", "%", "<x>"))
            path = path.replace("{" + parameter["name"] + "}", name)
        if chance.random() < 0.02:
            path += chance.choice(("/", "//", "?a=%00", "/../v1", "%2e", ";x", "?" + "q" * 2000, "\x80"))
        headers = {"Content-Type": "application/json"}
        if chance.random() < 0.03:
            headers["Content-Type"] = chance.choice(CONTENT_TYPES)
        if chance.random() < 0.03:
            name = chance.choice(("X-Request-Id", "Authorization", "Origin", "Accept", "Content-Encoding", "Cookie"))
            headers[name] = chance.choice(("gzip", "\xff\xfe", "a" * 5000, "Bearer", "null", "a b", "*", ""))
        if "requestBody" not in operation:
            return Request(method, path, headers, chance.choice((None, None, b"{}")))
        schema = operation["requestBody"]["content"]["application/json"]["schema"]
        self._spoil = chance.choice((0.0, 0.02, 0.1, 0.3))
        return Request(method, path, headers, self._damaged(self._value(schema, "", 0)))

    def _value(self, schema: dict[str, Any], name: str, depth: int) -> bytes:
        """Return JSON that follows `schema`, but for what is spoilt."""
        chance = self._chance
        if depth and chance.random() < self._spoil:
            return chance.choice(HOSTILE)
        if name in USUAL:
            return chance.choice(USUAL[name])
        if "$ref" in schema:
            return self._value(self._schemas[schema["$ref"].rpartition("/")[2]], name, depth)
        if "anyOf" in schema:
            return self._value(chance.choice(schema["anyOf"]), name, depth)
        if "enum" in schema:
            return json.dumps(chance.choice(schema["enum"])).encode()
        if "const" in schema:
            return json.dumps(schema["const"]).encode()
        match schema.get("type"):
            case "object":
                return self._object(schema, depth)
            case "array":
                least, most = schema.get("minItems", 0), schema.get("maxItems", 4)
                items = schema.get("items") or {}
                count = chance.randint(least, min(least + 3, most))
                return b"[" + b",".join(self._value(items, "", depth + 1) for _ in range(count)) + b"]"
            case "string":
                return json.dumps(chance.choice(("", "text", "hi there", "\u00e1\U0001f9a5", "<|im_end|>"))).encode()
            case "integer" | "number":
                low, high = schema.get("minimum", 0), schema.get("maximum", 400)
                value: float = chance.choice((low, high, chance.randint(int(low), max(int(low), int(high)))))
                return json.dumps(int(value) if schema["type"] == "integer" else value).encode()
            case "boolean":
                return chance.choice((b"true", b"false"))
            case "null":
                return b"null"
        return chance.choice((b"{}", b'"any"', b"1", b"[]"))

    def _object(self, schema: dict[str, Any], depth: int) -> bytes:
        chance = self._chance
        properties, required = schema.get("properties", {}), schema.get("required", ())
        share = chance.choice((0.1, 0.3, 0.8)) if depth < 4 else 0.0
        fields = []
        for name, inner in properties.items():
            if name in required or name.startswith("max_") or chance.random() < share:
                if name in required and chance.random() < self._spoil / 4:
                    continue
                fields.append(json.dumps(name).encode() + b":" + self._value(inner, name, depth + 1))
        if isinstance(schema.get("additionalProperties"), dict):
            inner = schema["additionalProperties"]
            names = ("a", "0", "1", "-1", "1e3", "\x00", "")
            fields += [json.dumps(name).encode() + b":" + self._value(inner, "", depth + 1) for name in names[:3]]
        if chance.random() < self._spoil:
            fields.append(b'"unknown":' + chance.choice(HOSTILE))
        return b"{" + b",".join(fields) + b"}"

    def _damaged(self, body: bytes) -> bytes:
        chance = self._chance
        kind = chance.random()
        if kind > 0.12 or not body:
            return body
        where = chance.randrange(len(body))
        if kind < 0.002:
            return body.replace(b'"text"', b'"' + b"x" * 10_000_000 + b'"', 1)
        if kind < 0.03:
            return body[:where]
        if kind < 0.06:
            return body[:where] + bytes((chance.randrange(256),)) + body[where + 1 :]
        if kind < 0.09:
            return body[:where] + chance.choice(HOSTILE) + body[where:]
        return chance.choice(
            (b"", b"\xef\xbb\xbf" + body, body + body, body + b"\x00", body.decode("latin1").encode("utf-16"))
        )


def ask(port: int, request: Request) -> tuple[int, dict[str, str], bytes]:
    """Send `request` on a connection of its own; return status, headers and body of the answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.putrequest(request.method, "/", skip_accept_encoding=True)
        # http.client refuses odd paths; the server has to meet them.
        connection._buffer[0] = f"{request.method} {request.path} HTTP/1.1".encode("latin1")  # type: ignore[attr-defined]
        for name, value in request.headers.items():
            connection.putheader(name, value.encode("latin1"))
        connection.putheader("Content-Length", str(len(request.body or b"")))
        connection.endheaders(request.body)
        response = connection.getresponse()
        return response.status, dict(response.headers), response.read()
    finally:
        connection.close()


def complaint(request: Request, status: int, headers: dict[str, str], body: bytes) -> str | None:
    """Return what is wrong with an answer; None if nothing is."""
    if status >= 500:
        return f"status {status}: {body[:300]!r}"
    if "X-Request-Id" not in headers:
        return "no request id"
    if request.method == "HEAD" or status == 204:
        return None
    try:
        if status >= 400:
            error = json.loads(body)["error"]
            return None if set(error) == {"message", "type", "param", "code"} else f"error body {error!r}"
        if headers["Content-Type"].startswith("text/event-stream"):
            return None if body.endswith(b"data: [DONE]\n\n") else f"stream ends in {body[-300:]!r}"
        if headers["Content-Type"] == "application/json":
            json.loads(body)
    except (ValueError, KeyError, TypeError) as error:
        return f"{error!r} in {body[:300]!r}"
    return None


def questions(server: ServerProcess) -> list[Any]:
    """What the server answers to a few questions that have one answer."""
    vectors = server.post("/v1/embeddings", {"input": ["one", "two"], "encoding_format": "base64"}).json
    return [
        server.chat("Count to ten.", max_tokens=12).json["choices"],
        server.post("/tokenize", {"content": "sloth \U0001f9a5"}).json,
        vectors.get("data"),
        sorted(server.get("/openapi.json").json["paths"]),
    ]


def fuzz(
    server: ServerProcess, count: int, seed: int, on_answer: Callable[[], object] = lambda: None
) -> dict[str, Any]:
    """Send `count` requests from `THREADS` threads; return counts by status and what was wrong (`wrong`, a list).

    The server must have HTTP_WORKERS=8, and be used by nobody else.
    """
    document = server.get("/openapi.json").json
    before = questions(server)
    statuses: Counter[int] = Counter()
    wrong: list[str] = []
    lock = threading.Lock()

    def work(thread: int) -> None:
        generator = Generator(document, seed * 1000 + thread)
        for _ in range(thread, count, THREADS):
            request = generator.request()
            try:
                status, headers, body = ask(server.port, request)
                complained = complaint(request, status, headers, body)
            except (OSError, http.client.HTTPException) as error:
                status, complained = 0, repr(error)
            with lock:
                statuses[status] += 1
                if complained and len(wrong) < 50:
                    shown = (request.body or b"")[:600]
                    wrong.append(f"{request.method} {request.path[:200]} {request.headers} {shown!r}: {complained}")
                on_answer()

    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(work, range(THREADS)))
    server.wait_idle()
    with ThreadPoolExecutor(THREADS) as pool:
        together = list(pool.map(lambda n: server.chat(f"Say {n}.", max_tokens=2).status, range(THREADS)))
    if together != [200] * THREADS:
        wrong.append(f"not every slot is free: {together}")
    if questions(server) != before:
        wrong.append("the same questions are answered differently")
    if "Traceback" in server.output:
        wrong.append("a traceback in the log: " + server.output[server.output.index("Traceback") :][:2000])
    return {"requests": sum(statuses.values()), "statuses": dict(sorted(statuses.items())), "wrong": wrong}


def start(log: Path) -> ServerProcess:
    """Start a server on which valid requests are cheap."""
    variables = {"HTTP_WORKERS": str(THREADS), "MODEL_MAX_TOKEN": "4", "MODEL_THREADS": "2", "SSE_PING_SECONDS": "0"}
    return ServerProcess(log, MODEL_PARALLEL="4", MODEL_CONTEXT="128", QUEUE_LIMIT="64", **variables)


def main() -> int:
    """Parse the command line, fuzz, print the outcome. Exit code 1 if anything was wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--requests", type=int, default=20_000, help="requests to send (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="makes the same requests again (default: %(default)s)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, start(Path(folder) / "log") as server:
        server.wait_ready()
        with tqdm(total=arguments.requests, unit="req", disable=None) as bar:
            outcome = fuzz(server, arguments.requests, arguments.seed, bar.update)
    print(json.dumps({"seed": arguments.seed, **outcome}))
    return bool(outcome["wrong"])


if __name__ == "__main__":
    sys.exit(main())
