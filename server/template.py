"""Chat templates: Jinja programs, shipped inside GGUF files, that turn messages into one prompt text.

They come from strangers, so they run in a process of their own (`server.template_process`), with a limit on memory and
without our secrets in its environment, and are killed when they take too long. Knows that process and message
dictionaries; knows nothing of tokens.
"""

from __future__ import annotations

import logging
import socket
import struct
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec

from engine import clock
from knowledge.environment import bare_environment
from server.structured.formats import detect
from server.turns import Line

log = logging.getLogger("server.template")

#: Used for a model that brings no template of its own, as llama.cpp does.
CHATML: Final = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

#: How long a template may take, and how long messages wait for it before, in seconds. Real ones take microseconds for
#: each message.
RENDER_SECONDS: Final = 5.0

#: How long the process may take to start, Python and Jinja included, in seconds.
START_SECONDS: Final = 30.0

_PROGRAM: Final = Path(__file__).with_name("template_process.py")


class TemplateError(Exception):
    """The template cannot be compiled, or it failed on these messages; the message says why."""


class TemplateBusyError(Exception):
    """The template cannot be used now, through no fault of these messages; the message says why."""


class _Rendered(msgspec.Struct):
    """What the process answers: one of the two."""

    text: str | None
    error: str | None


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_Rendered).decode


class ChatTemplate:
    """A compiled chat template in its process. Safe from any thread, one rendering at a time."""

    def __init__(self, source: str, bos_token: str, eos_token: str) -> None:
        """Start the process and compile `source`. Raises `TemplateError` if it is not a valid template."""
        #: The Jinja program.
        self.source = source
        #: Templates written before the role existed do not know "developer"; "system" means the same to them.
        self._knows_developer = "developer" in source
        #: It shows the model its tools, and earlier calls; others know neither.
        self.knows_tools = "tools" in source
        #: How the model writes calls of tools.
        self.tool_format = detect(source)
        self._constants = {"bos_token": bos_token, "eos_token": eos_token, "documents": None}
        self._line = Line(1)
        self._closed = False
        try:
            self._process: _Process | None = _Process(source)
        except OSError as failure:
            raise TemplateError(f"the model's chat template cannot be compiled: {failure}") from failure

    def render(
        self,
        messages: Sequence[dict[str, Any]],
        variables: dict[str, Any] | None = None,
        tools: list[dict[str, Any]] | None = None,
    ) -> str:
        """Return the prompt text that asks for the assistant's next message.

        `messages` are dictionaries with `role`, `content` (text) and what else the request gave. `variables` are
        further template variables. `tools` are shown by templates that know them. Raises `TemplateError` if the
        template fails, refuses the messages, or takes too long or too much memory; `TemplateBusyError` if that befell
        others in front for so long that these messages had no turn, if the process cannot be started again, and after
        `close`.
        """
        if not self._knows_developer:
            messages = [{**m, "role": "system"} if m["role"] == "developer" else m for m in messages]
        given = {"messages": messages, "tools": tools, "add_generation_prompt": True}
        values = {**(variables or {}), **self._constants, **given}
        if not self._line.enter(RENDER_SECONDS):
            raise TemplateBusyError("other requests keep it busy")
        try:
            rendered = self._ask(values)
        except OSError as error:
            self._end()
            late = isinstance(error, TimeoutError)
            reason = f"takes more than {RENDER_SECONDS:g} s" if late else f"ended its process ({error})"
            log.error("the chat template %s; its process was killed", reason)
            raise TemplateError(f"the chat template {reason}") from error
        except msgspec.MsgspecError as error:  # lone surrogates
            raise TemplateError("the chat template writes what is not text") from error
        finally:
            self._line.leave()
        if rendered.text is None:
            raise TemplateError(f"the chat template refuses these messages: {rendered.error}")
        return rendered.text

    def _ask(self, values: dict[str, Any]) -> _Rendered:
        """Render in the process, in a new one if it has died since: that is not the fault of these messages."""
        if self._closed:
            raise TemplateBusyError("the server is shutting down")
        if self._process is None or self._process.dead:
            self._end()
            try:
                self._process = _Process(self.source)
            except (OSError, TemplateError) as error:  # the template has been compiled before
                log.error("the chat template's process cannot be started again: %s", error)
                raise TemplateBusyError("its process cannot be started") from error
        return self._process.ask(values, RENDER_SECONDS)

    def close(self) -> None:
        """End the process; no other is started. May be called twice."""
        self._closed = True
        self._line.enter(None)
        try:
            self._end()
        finally:
            self._line.leave()

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process = None


class _Process:
    """One child process with the compiled template."""

    def __init__(self, source: str) -> None:
        """Start it. Raises `TemplateError` if `source` is no valid template, OSError if the process does not start."""
        ours, theirs = socket.socketpair()
        self._socket = ours
        with theirs:
            try:
                self._child = subprocess.Popen(
                    [sys.executable, "-P", str(_PROGRAM)],
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    env=bare_environment(),
                    start_new_session=True,
                )
            except OSError:
                ours.close()
                raise
        try:
            error = self.ask({"source": source}, START_SECONDS).error
        except OSError:
            self.kill()
            raise
        if error is not None:
            self.kill()
            raise TemplateError(f"the model's chat template is broken: {error}")

    @property
    def dead(self) -> bool:
        """The process has ended."""
        return self._child.poll() is not None

    def ask(self, values: object, seconds: float) -> _Rendered:
        """Send `values`, return the answer. Raises OSError if the process ends or takes longer than `seconds`."""
        data = _encode(values)
        deadline = clock() + seconds
        self._socket.settimeout(seconds)
        self._socket.sendall(struct.pack(">Q", len(data)) + data)
        (length,) = struct.unpack(">Q", self._receive(8, deadline))
        return _decode(self._receive(length, deadline))

    def kill(self) -> None:
        """End the process now."""
        self._child.kill()
        self._child.wait()
        self._socket.close()

    def _receive(self, length: int, deadline: float) -> bytes:
        data = bytearray()
        while len(data) < length:
            self._socket.settimeout(max(0.001, deadline - clock()))
            part = self._socket.recv(min(length - len(data), 1 << 20))
            if not part:
                raise ConnectionResetError("it closed the connection")
            data += part
        return bytes(data)
