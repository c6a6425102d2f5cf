"""Malformed HTTP/1.1, byte by byte: what a raw socket sends to see whether a server stays unharmed.

Shapes of request lines, header floods, lengths, chunks, truncated and pipelined messages, other protocols, smuggling,
and random damage to sound requests; a seed makes the same ones again. Knows RFC 9112 and how each shape may be
answered; knows nothing of sockets or of what the server does.
"""

from __future__ import annotations

import json
import random
from typing import Final, Literal, NamedTuple

#: How the client ends its side: it closes the sending half and reads on; it only reads on; it closes; it resets.
Ending = Literal["half-close", "read", "close", "reset"]

#: A path that nobody asks for. If a server answers for it, it has taken a part of one message for another one.
CANARY: Final = b"/smuggled"

_CANARY_REQUEST: Final = b"GET " + CANARY + b" HTTP/1.1\r\nHost: x\r\n\r\n"
_HOST: Final = b"Host: x\r\n"
_GET: Final = b"GET /health HTTP/1.1\r\n" + _HOST + b"\r\n"
_POST: Final = b"POST /tokenize HTTP/1.1\r\n" + _HOST + b"Content-Type: application/json\r\n"


class Message(NamedTuple):
    """What one connection sends."""

    kind: str
    data: bytes
    ending: Ending
    refused: bool
    """It is malformed beyond doubt: the answer must be one 4xx or 501, and the connection must end."""
    ambiguous: bool
    """Two readings of it are possible. Whichever a server takes, it must not answer for `CANARY`."""
    pieces: int
    """In how many parts it is sent."""


def _post(body: bytes, *headers: bytes) -> bytes:
    return _POST + b"".join(header + b"\r\n" for header in headers) + b"\r\n" + body


def _sound(body: bytes = b'{"content":"sound"}') -> bytes:
    return _post(body, b"Content-Length: %d" % len(body))


def _chat() -> bytes:
    body = json.dumps({"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2, "stream": True}).encode()
    return b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body


#: Request lines that RFC 9112, 3 does not allow (of a target that is not printable ASCII: RFC 3986, 2).
_BAD_LINES: Final = (
    b"NONSENSE", b"GET", b"GET /health", b"GET  /health  HTTP/1.1", b"GET /health HTTP/1.1 x", b" GET /health HTTP/1.1",
    b"GET\t/health\tHTTP/1.1", b"get /health HTTP/1.1", b"G\x00T /health HTTP/1.1", b"GET /health HTTP/9.9",
    b"GET /health HTTP/1.1x", b"GET /health HTTP/11", b"GET /health http/1.1", b"GET /health HTTP/2.0",
    b"GET /health FTP/1.1", b"GET /\xff\xfe HTTP/1.1", b"GET /\x00 HTTP/1.1", b"GET /a\rb HTTP/1.1",
    b"GET /a\nb HTTP/1.1",
    b"(GET) /health HTTP/1.1", b"GET /" + b"a" * 9000 + b" HTTP/1.1", b"\x16\x03\x01 / HTTP/1.1", b": HTTP/1.1", b"  ",
)  # fmt: skip

#: Unusual lines that may be answered in any way but a harmful one.
_ODD_LINES: Final = (
    b"OPTIONS * HTTP/1.1", b"CONNECT x:443 HTTP/1.1", b"GET http://x/health HTTP/1.1", b"GET http://[::1 HTTP/1.1",
    b"TRACE / HTTP/1.1", b"GET //health HTTP/1.1", b"GET /../../etc/passwd HTTP/1.1", b"GET /%00 HTTP/1.1",
    b"GET /health?%%% HTTP/1.1", b"GET /health#x HTTP/1.1", b"GET ?x HTTP/1.1", b"GET health HTTP/1.1",
    b"GET /health HTTP/1.0", b"GET /page/..%2f..%2fetc%2fpasswd HTTP/1.1", b"PATCH /health HTTP/1.1",
    b"GET /" + b"%41" * 2000 + b" HTTP/1.1", b"DELETE /v1/models/" + b"x" * 4000 + b" HTTP/1.1",
)  # fmt: skip

#: Header lines that RFC 9110, 5 and RFC 9112, 5 do not allow.
_BAD_HEADERS: Final = (
    b"no colon", b": no name", b"Name : value", b" Folded: value", b"A: b\r\n folded", b"A: \x00", b"A: b\rc",
    b"A: b\nC: d",
    b"A: \x7f", b"A\x00: b", b"A b: c", b"(A): b", b"\xffA: b", b"Host: y", b"A: " + b"a" * 20000, b"Expect: a miracle",
)  # fmt: skip

_BAD_LENGTHS: Final = (
    b"-1", b"+5", b"0x5", b"5.0", b"1e3", b"5,6", b"5 5", b"five", b"\xd9\xa5", b"", b"5\r\nContent-Length: 6",
    b"\x0b5",
)  # fmt: skip

#: Chunked bodies that break RFC 9112, 7.1.
_BAD_CHUNKS: Final = (
    b"x\r\nhello\r\n0\r\n\r\n", b"-5\r\nhello\r\n0\r\n\r\n", b"0x5\r\nhello\r\n0\r\n\r\n", b"5\r\nhelloXX0\r\n\r\n",
    b"\r\nhello\r\n0\r\n\r\n", b"5 5\r\nhello\r\n0\r\n\r\n", b"+5\r\nhello\r\n0\r\n\r\n",
    b"5\r\nhello world\r\n0\r\n\r\n", b"5_0\r\nhello\r\n0\r\n\r\n", b"5;a\rb\r\nhello\r\n0\r\n\r\n",
)  # fmt: skip

#: Chunked bodies whose end never comes, or comes oddly.
_ODD_CHUNKS: Final = (
    b"5\r\nhel", b"ffffffffffffffff\r\nhello\r\n", b"f" * 5000, b"5\r\nhello\r\n0\r\nA: b\r\n\r\n", b"0\r\n",
    b"5" + b";x" * 9000,
    b"0\r\nContent-Length: 5\r\n\r\nhello", b"00000000000000005\r\nhello\r\n0\r\n\r\n", b"",
    b"1\r\n{\r\n" * 2000 + b"0\r\n\r\n",
    b"0\r\n" + b"A: b\r\n" * 5000 + b"\r\n",
    b"5\nhello\n0\n\n",
)  # fmt: skip

#: Spellings of Transfer-Encoding that some servers take for "chunked" and others do not.
_CODINGS: Final = (
    b"Transfer-Encoding: chunked", b"Transfer-Encoding: xchunked", b"Transfer-Encoding : chunked",
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", b"Transfer-Encoding: identity, chunked",
    b"Transfer-Encoding: chunked, identity", b"Transfer-Encoding: chunked, chunked", b"Transfer-Encoding:\x0bchunked",
    b"Transfer-Encoding: \x00chunked", b"Transfer-Encoding: 'chunked'", b"X: y\nTransfer-Encoding: chunked",
    b"X: y\rTransfer-Encoding: chunked", b"Transfer-Encoding\r\n : chunked", b"Transfer-Encoding: CHUNKED",
    b"Transfer-Encoding: chunked;q=1", b"Transfer-Encoding: gzip, chunked", b"Transfer_Encoding: chunked",
    b" Transfer-Encoding: chunked", b"Transfer-Encoding:\r\n chunked", b"\x00Transfer-Encoding: chunked",
)  # fmt: skip

#: First bytes of other protocols.
_FOREIGN: Final = (
    bytes.fromhex("16030100c8010000c40303") + bytes(range(189)),  # a TLS 1.2 ClientHello
    bytes.fromhex("16030100050100000103"),
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9),
    b"SSH-2.0-OpenSSH_9.2\r\n", b"EHLO x\r\nQUIT\r\n", b"*1\r\n$4\r\nPING\r\n",
    b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\r\n" + _GET,
    b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c" + bytes(12) + _GET,  # PROXY protocol, version 2
    b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: eA==\r\n\r\n\x81",
    b"GET /health HTTP/1.1\r\nHost: x\r\nUpgrade: h2c\r\nConnection: Upgrade\r\nHTTP2-Settings: AAMAAABk\r\n\r\n",
    b"\x00" * 4096, b"\xff" * 4096, b"\r\n" * 4096, b"\n" * 4096, b"\r" * 100_000, b" " * 100_000, b"a" * 100_000, b"",
    b"\x03\x00\x00\x13\x0e\xe0\x00\x00\x00\x00\x00\x01\x00\x08\x00\x03\x00\x00\x00",  # RDP
    b"<policy-file-request/>\x00", b"\x80\x2e\x01\x00\x02", b"GET /health\r\n",
)  # fmt: skip


class Generator:
    """Makes messages; the same seed makes the same ones."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        self._kinds = (
            self._line, self._headers, self._flood, self._length, self._chunks, self._truncated, self._pipelined,
            self._foreign, self._smuggled, self._mutated, self._binary,
        )  # fmt: skip

    def message(self) -> Message:
        """Return the next message."""
        return self._chance.choice(self._kinds)()

    def _made(self, kind: str, data: bytes, *, refused: bool = False, ambiguous: bool = False) -> Message:
        chance = self._chance
        # A server cannot know that more will not come, so a message that may have no end needs one from the client.
        endings: tuple[Ending, ...] = ("half-close", "half-close", "half-close", "half-close", "close", "reset")
        ending = chance.choice(("read", *endings) if refused else endings)
        return Message(kind, data, ending, refused, ambiguous, chance.choice((1, 1, 1, 2, 5)))

    def _line(self) -> Message:
        if self._chance.random() < 0.5:
            line = self._chance.choice(_BAD_LINES)
            return self._made("request line", line + b"\r\n" + _HOST + b"\r\n", refused=True)
        return self._made("request line", self._chance.choice(_ODD_LINES) + b"\r\n" + _HOST + b"\r\n")

    def _headers(self) -> Message:
        lines = [_HOST, self._chance.choice(_BAD_HEADERS) + b"\r\n"]
        return self._made("header", b"GET /health HTTP/1.1\r\n" + b"".join(lines) + b"\r\n", refused=True)

    def _flood(self) -> Message:
        chance = self._chance
        count = chance.choice((101, 150, 1000, 20_000))
        line = b"X-%d: " % chance.randrange(10**9) + b"y" * chance.choice((1, 90)) + b"\r\n"
        return self._made(
            "header flood",
            b"GET /health HTTP/1.1\r\n" + _HOST + chance.choice((b"A: b\r\n", line)) * count + b"\r\n",
            refused=True,
        )

    def _length(self) -> Message:
        chance = self._chance
        if chance.random() < 0.5:
            data = _post(b"hello", b"Content-Length: " + chance.choice(_BAD_LENGTHS))
            return self._made("length", data, refused=True)
        body = b'{"content":"%s"}' % (b"x" * chance.choice((0, 100, 10_000)))
        wrong = chance.choice((len(body) + 1, len(body) * 2, 2**31, 2**63, 10**30, len(body) - 1, 0))
        return self._made("length", _post(body, b"Content-Length: %d" % wrong))

    def _chunks(self) -> Message:
        coding = b"Transfer-Encoding: chunked"
        if self._chance.random() < 0.5:
            return self._made("chunks", _post(self._chance.choice(_BAD_CHUNKS), coding), refused=True)
        return self._made("chunks", _post(self._chance.choice(_ODD_CHUNKS), coding))

    def _truncated(self) -> Message:
        chunked = _post(b"5\r\n12345\r\n0\r\n\r\n", b"Transfer-Encoding: chunked")
        whole = self._chance.choice((_GET, _sound(), _chat(), chunked))
        return self._made("truncated", whole[: self._chance.randrange(len(whole))])

    def _pipelined(self) -> Message:
        """Sound and broken requests on one connection, answered in turn up to the first broken one."""
        chance = self._chance
        parts = [chance.choice((_GET, _sound(), _sound(b"{"), _chat())) for _ in range(chance.randrange(2, 6))]
        if chance.random() < 0.5:
            parts.insert(chance.randrange(len(parts)), chance.choice(_BAD_LINES) + b"\r\n\r\n")
        return self._made("pipelined", b"".join(parts))

    def _foreign(self) -> Message:
        return self._made("another protocol", self._chance.choice(_FOREIGN))

    def _smuggled(self) -> Message:
        coding = self._chance.choice(_CODINGS)
        body = b"0\r\n\r\n" + _CANARY_REQUEST  # by length one body, by chunks an empty one and a request
        return self._made("smuggling", _post(body, b"Content-Length: %d" % len(body), coding), ambiguous=True)

    def _mutated(self) -> Message:
        """A sound request with some bytes replaced, inserted, removed or doubled."""
        chance = self._chance
        data = bytearray(chance.choice((_GET, _sound(), _chat())))
        for _ in range(chance.choice((1, 2, 5, 20))):
            at = chance.randrange(len(data))
            match chance.randrange(4):
                case 0:
                    data[at] = chance.randrange(256)
                case 1:
                    data[at:at] = chance.choice((b"\r", b"\n", b"\x00", b" ", b":", b"\xff", b"\r\n\r\n"))
                case 2:
                    del data[at : at + chance.randrange(1, 9)]
                case _:
                    data[at:at] = data[at : at + chance.randrange(1, 40)]
            if not data:
                break
        return self._made("mutated", bytes(data))

    def _binary(self) -> Message:
        return self._made("binary", self._chance.randbytes(self._chance.choice((1, 10, 1000, 50_000))))
