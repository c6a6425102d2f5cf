"""Renders chat templates in a process of its own: the program that `server.template` starts.

Templates come from strangers. Jinja2's immutable sandbox keeps them from Python; that they end, and do not eat the
machine, no sandbox can promise. So this process has a limit on its memory, writes no files, and is killed by its
parent if it takes too long. The functions are those that Hugging Face Transformers gives its templates. Knows Jinja
and message dictionaries; imports nothing of this package.

Over the socket that is its standard input come JSON objects, each after its length in bytes (8 bytes, big-endian):
first {"source": the template}, then the values for each rendering. Each is answered in the same way by {"text": the
prompt or null, "error": the reason or null}.
"""

from __future__ import annotations

import datetime as dt
import json
import resource
import signal
import socket
import struct
import sys
from collections.abc import Callable, Iterator
from typing import Any, Final, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

#: Most memory of this process, in bytes of address space.
MAX_MEMORY: Final = 512 << 20

#: A prompt may be this many characters longer than all the text that went into it, before the template is stopped.
MAX_ADDED_CHARACTERS: Final = 1_000_000


class Generation(Extension):
    """`{% generation %}...{% endgeneration %}` marks the assistant's words for training; here it changes nothing."""

    tags = {"generation"}  # noqa: RUF012 - Jinja's interface

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """Return the body as it stands."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class EndlessTemplateError(Exception):
    """The template writes far more than it was given."""


def compile_template(source: str) -> jinja2.Template:
    """Return the compiled template. Raises jinja2.TemplateError."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, extensions=[loopcontrols, Generation]
    )
    environment.filters["tojson"] = _tojson
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment.from_string(source)


def render(template: jinja2.Template, values: dict[str, Any], given: int) -> str:
    """Return the text for `values`, which were `given` bytes as JSON. A template may raise anything."""
    limit = MAX_ADDED_CHARACTERS + given
    parts: list[str] = []
    for part in template.generate(values):
        parts.append(part)
        limit -= len(part)
        if limit < 0:
            raise EndlessTemplateError("it writes without end")
    return "".join(parts)


def _main() -> None:
    for limit, value in ((resource.RLIMIT_AS, MAX_MEMORY), (resource.RLIMIT_FSIZE, 0), (resource.RLIMIT_CORE, 0)):
        resource.setrlimit(limit, (value, value))
    # A service manager's signal to all processes is for the parent, which still answers: it ends us.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    channel = socket.socket(fileno=sys.stdin.fileno())
    requests = _requests(channel)
    source = next(requests, None)
    if source is None:
        return
    template: list[jinja2.Template] = []

    def compile_first() -> str:
        template.append(compile_template(json.loads(source)["source"]))
        return ""

    _answer(channel, compile_first)
    for data in requests:
        _answer(channel, lambda data=data: render(template[0], json.loads(data), len(data)))  # type: ignore[misc]


def _answer(channel: socket.socket, work: Callable[[], str]) -> None:
    """Send what `work` returns, or why it failed."""
    try:
        data = json.dumps({"text": work(), "error": None}).encode()
    except BaseException as error:  # noqa: BLE001 - a template is a program: it can raise anything that Python can
        data = json.dumps({"text": None, "error": _reason(error)}).encode()
    channel.sendall(struct.pack(">Q", len(data)) + data)


def _requests(channel: socket.socket) -> Iterator[bytes]:
    """Yield what the parent sends, until it closes its end."""
    with channel.makefile("rb") as stream:
        while header := stream.read(8):
            (length,) = struct.unpack(">Q", header)
            yield stream.read(length)


def _reason(error: BaseException) -> str:
    line = getattr(error, "lineno", None)
    return (str(error)[:500] or type(error).__name__) + (f" (line {line})" if line else "")


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(pattern: str) -> str:
    return dt.datetime.now().strftime(pattern)


def _tojson(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """As Transformers has it: Jinja's own filter escapes for HTML, which models are not trained on."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


if __name__ == "__main__":
    _main()
