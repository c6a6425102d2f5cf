"""Chat templates: Jinja programs, shipped inside GGUF files, that turn messages into one prompt text.

They come from strangers, so they run in Jinja2's immutable sandbox and their output is bounded. The functions are
those that Hugging Face Transformers gives its templates. Knows Jinja and message dictionaries; knows nothing of
tokens.
"""

from __future__ import annotations

import datetime as dt
import json
import logging
from collections.abc import Sequence
from typing import Any, Final, NoReturn

import jinja2
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from server.structured.formats import detect

log = logging.getLogger("server.template")

#: Used for a model that brings no template of its own, as llama.cpp does.
CHATML: Final = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

#: A prompt may be this many characters longer than all the text that went into it, before the template is stopped.
MAX_ADDED_CHARACTERS: Final = 1_000_000


class TemplateError(Exception):
    """The template cannot be compiled, or it failed on these messages; the message says why."""


class ChatTemplate:
    """A compiled chat template. Rendering is safe from any thread."""

    def __init__(self, source: str, bos_token: str, eos_token: str) -> None:
        """Compile `source`. Raises `TemplateError` if it is not a valid template."""
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, extensions=[loopcontrols]
        )
        environment.filters["tojson"] = _tojson
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = _strftime_now
        try:
            self._template = environment.from_string(source)
        except (jinja2.TemplateError, RecursionError) as error:
            raise TemplateError(f"the model's chat template is broken: {_reason(error)}") from error
        #: Templates written before the role existed do not know "developer"; "system" means the same to them.
        self._knows_developer = "developer" in source
        #: It shows the model its tools, and earlier calls; others know neither.
        self.knows_tools = "tools" in source
        #: How the model writes calls of tools.
        self.tool_format = detect(source)
        self._constants = {"bos_token": bos_token, "eos_token": eos_token, "documents": None}

    def render(
        self,
        messages: Sequence[dict[str, Any]],
        variables: dict[str, Any] | None = None,
        tools: list[dict[str, Any]] | None = None,
    ) -> str:
        """Return the prompt text that asks for the assistant's next message.

        `messages` are dictionaries with `role`, `content` (text) and what else the request gave. `variables` are
        further template variables. `tools` are shown by templates that know them. Raises `TemplateError` if the
        template fails or refuses the messages.
        """
        if not self._knows_developer:
            messages = [{**m, "role": "system"} if m["role"] == "developer" else m for m in messages]
        given = {"messages": messages, "tools": tools, "add_generation_prompt": True}
        values = {**(variables or {}), **self._constants, **given}
        limit = MAX_ADDED_CHARACTERS + sum(len(str(message)) for message in messages)
        parts: list[str] = []
        try:
            for part in self._template.generate(values):
                parts.append(part)
                limit -= len(part)
                if limit < 0:
                    raise TemplateError("the chat template writes without end")
        except TemplateError:
            raise
        except Exception as error:  # A template is a program: it can raise anything a Python expression can.
            raise TemplateError(f"the chat template refuses these messages: {_reason(error)}") from error
        return "".join(parts)


def _reason(error: BaseException) -> str:
    line = getattr(error, "lineno", None)
    return f"{error or type(error).__name__}" + (f" (line {line})" if line else "")


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
