"""How models write tool calls in their answers, each family in its own way.

The format is read off the model's chat template, which shows the model its own earlier calls. Models whose template
knows nothing of tools are told to use the Hermes format. Knows the texts around a call; knows nothing of tokens.
"""

from __future__ import annotations

import json
import secrets
import string
from dataclasses import dataclass
from typing import Any, Final


@dataclass(frozen=True, slots=True)
class ToolFormat:
    """One way of writing calls: `begin`, then calls with `separator` between them, then `end`.

    A call is a JSON object of the function's name and, under `arguments_key`, its arguments; or, if there is
    `between`, the name, `between` and the arguments.
    """

    name: str
    trigger: str
    """The beginning of `begin` that no ordinary text contains. It may be a control token."""
    begin: str
    separator: str
    end: str
    arguments_key: str = "arguments"
    between: str = ""
    """What stands between name and arguments. It may be a control token."""
    bare: bool = False
    """An answer may also begin with a call, without `begin`, and need not have `end`."""
    id_length: int = 24
    """Letters and digits of a call's id."""
    id_prefix: str = "call_"

    def head(self, function: str) -> str:
        """Return what comes before the arguments of a call."""
        if self.between:
            return function + self.between
        return f'{{"name": "{function}", "{self.arguments_key}": '

    def call(self, function: str, arguments: str) -> str:
        """Return a call; `arguments` is JSON."""
        return f"{self.head(function)}{arguments}{self.tail}"

    @property
    def tail(self) -> str:
        """What comes behind the arguments of a call."""
        return "" if self.between else "}"

    def new_id(self) -> str:
        """Return an id for a call. Some templates refuse all that is not of their length."""
        alphabet = string.ascii_letters + string.digits
        return self.id_prefix + "".join(secrets.choice(alphabet) for _ in range(self.id_length))


#: NousResearch Hermes 2 Pro and later, Qwen 2.5 and 3, and many others.
HERMES: Final = ToolFormat("hermes", "<tool_call>", "<tool_call>\n", "\n</tool_call>\n<tool_call>\n", "\n</tool_call>")
#: Meta Llama 3.1 to 3.3.
LLAMA3: Final = ToolFormat("llama3", "<|python_tag|>", "<|python_tag|>", "; ", "", "parameters", bare=True)
#: Mistral 7B v0.3, Nemo, Small and Large until tokenizer version 7. Their template wants ids of nine characters.
MISTRAL: Final = ToolFormat("mistral", "[TOOL_CALLS]", "[TOOL_CALLS][", ", ", "]", id_length=9, id_prefix="")
#: Mistral's models since: Small 3.1, Medium 3, Magistral, Ministral 3, Devstral.
MISTRAL_ARGS: Final = ToolFormat(
    "mistral-args", "[TOOL_CALLS]", "[TOOL_CALLS]", "[TOOL_CALLS]", "", between="[ARGS]", id_length=9, id_prefix=""
)


def detect(template: str) -> ToolFormat:
    """Return the format that a chat template (its Jinja source) uses; the Hermes format if it shows none."""
    if "<tool_call>" in template:
        return HERMES
    if "[TOOL_CALLS]" in template:
        return MISTRAL_ARGS if "[ARGS]" in template else MISTRAL
    if "<|python_tag|>" in template or ("<|start_header_id|>" in template and '"parameters"' in template):
        return LLAMA3
    return HERMES


def instructions(tools: list[dict[str, Any]]) -> str:
    """Return the system text that tells a model of its tools, for templates that do not."""
    lines = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
    example = HERMES.begin + HERMES.call("function-name", "{...}") + HERMES.end
    return (
        "You may call one or more functions to assist with the user query. The functions are described by these JSON "
        f"objects:\n<tools>\n{lines}\n</tools>\nTo call a function, answer with its name and arguments like this:\n"
        f"{example}"
    )
