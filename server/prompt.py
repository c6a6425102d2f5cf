"""From messages to token ids: the chat template or MODEL_PROMPT_TEMPLATE, then the tokenizer.

Text that people wrote must not turn into the model's control tokens, or a message could forge the turn of another
role. Wherever such text holds the spelling of a control token, it is cut inside that spelling and the two sides are
tokenized apart; all other text is tokenized exactly as it always is. Knows messages, templates and the vocabulary.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from engine import Timings
from llama_native import TokenAttr, Vocab
from server.errors import context_length_exceeded, invalid, unavailable
from server.reasoning import TAGS
from server.schema.chat import Message
from server.structured.formats import ToolFormat
from server.structured.messages import as_text, with_parsed_arguments
from server.template import ChatTemplate, TemplateBusyError, TemplateError

#: Token ids, shape (n,).
Tokens = npt.NDArray[np.int32]

#: Marks a cut in a text on its way through the template: noncharacters (Unicode 23.7) around what nobody can guess, so
#: that no text holds it.
_CUT: Final = f"\ufdd0{secrets.token_hex(8)}\ufdd1"


class Grounds(NamedTuple):
    """What goes from documents into a prompt: passages, and the one sentence of them that matters most."""

    context: str
    sentence: str


NO_GROUNDS: Final = Grounds("", "")


class PromptBuilder:
    """Makes prompts for one model."""

    def __init__(
        self,
        vocab: Vocab,
        template: ChatTemplate,
        prompt_template: str | None,
        context_size: int,
        grounded: str = "{context}\n\n{query}",
    ) -> None:
        """`prompt_template` is MODEL_PROMPT_TEMPLATE or None; `context_size` the tokens a request may use.

        `grounded` is KNOWLEDGE_PROMPT: the last user message with passages from documents.
        """
        self._grounded = grounded
        self._vocab = vocab
        self._template = template
        self._prompt_template = prompt_template
        self._context_size = context_size
        self._control = _control_tokens(vocab, template.source + (prompt_template or ""))

    def chat(
        self,
        messages: list[Message],
        variables: dict[str, Any] | None,
        timings: Timings,
        tools: list[dict[str, Any]] | None = None,
        grounds: Grounds = NO_GROUNDS,
        param: str = "messages",
    ) -> npt.NDArray[np.int32]:
        """Return the prompt for the assistant's next message as token ids, shape (n,), BOS included where due.

        `tools` are what the model is told that it may call; `grounds` go into the last user message, or where
        MODEL_PROMPT_TEMPLATE has them; `param` is what errors about the messages name. Raises `ApiError`: for messages
        the template refuses, for text that is longer than any prompt can be, and while the template cannot be used.
        """
        with timings.phase("template"):
            text = self._text(messages, variables, tools, grounds, param)
        with timings.phase("tokenize"):
            self._check_length(text, param)
            return self.tokenize(text)

    def text(self, messages: list[Message], variables: dict[str, Any] | None) -> str:
        """Return the text of that prompt, without BOS unless the template writes it. Raises `ApiError` as `chat`."""
        return self._text(messages, variables, None, NO_GROUNDS, "messages").replace(_CUT, "")

    @property
    def tool_format(self) -> ToolFormat:
        """How the model writes calls of tools."""
        return self._template.tool_format

    def completion(self, text: str, timings: Timings) -> Tokens:
        """Return the ids of a text to go on with, control tokens recognised. Raises `ApiError` if it is too long."""
        with timings.phase("tokenize"):
            self._check_length(text, "prompt")
            return self.tokenize(text)

    def tokenize(self, text: str) -> Tokens:
        """Return the ids of `text`, control tokens recognised except across cuts, with BOS if the model wants one."""
        parts = [self._vocab.tokenize(part, parse_special=True) for part in text.split(_CUT) if part]
        bos = self._vocab.bos
        if self._vocab.add_bos and bos is not None and not (parts and parts[0].size and parts[0][0] == bos):
            parts.insert(0, np.array([bos], dtype=np.int32))
        return np.concatenate(parts) if parts else np.empty(0, dtype=np.int32)

    def close(self) -> None:
        """End the template's process."""
        self._template.close()

    def _text(
        self,
        messages: list[Message],
        variables: dict[str, Any] | None,
        tools: list[dict[str, Any]] | None,
        grounds: Grounds,
        param: str,
    ) -> str:
        texts = [message.text(f"{param}[{index}]") for index, message in enumerate(messages)]
        if self._prompt_template is not None:
            if tools:
                raise invalid("tools", "this server's MODEL_PROMPT_TEMPLATE has no place for tools")
            return self._fill(messages, texts, grounds, param)
        at = _last_user(messages)
        if at is not None and grounds.context:
            texts[at] = _format(self._grounded, grounds, texts[at])
        try:
            return self._render(messages, texts, variables, tools)
        except TemplateError as error:
            raise invalid(param, str(error)) from error
        except TemplateBusyError as error:
            raise unavailable(f"The chat template cannot be used now: {error}.", "template_busy", 1) from error
        except RecursionError as error:
            raise invalid(param, "they, their tools or template variables are nested too deeply") from error

    def _render(
        self,
        messages: list[Message],
        texts: list[str],
        variables: dict[str, Any] | None,
        tools: list[dict[str, Any]] | None,
    ) -> str:
        plain = []
        for message, text in zip(messages, texts, strict=True):
            fields = {key: value for key, value in msgspec.to_builtins(message).items() if value is not None}
            plain.append({**fields, "content": text})
        variables = self._cut_all(variables or {})
        if not self._template.knows_tools:
            return self._template.render(self._cut_all(as_text(plain, tools)), variables)
        # Most templates write the arguments of earlier calls with `tojson`, some join them to other text.
        parsed = with_parsed_arguments(plain)
        try:
            return self._template.render(self._cut_all(parsed), variables, self._cut_all(tools))
        except TemplateError:
            if parsed == plain:
                raise
            return self._template.render(self._cut_all(plain), variables, self._cut_all(tools))

    def _fill(self, messages: list[Message], texts: list[str], grounds: Grounds, param: str) -> str:
        """Fill MODEL_PROMPT_TEMPLATE: {query} is the last user message, {context} the passages found, perhaps none."""
        at = _last_user(messages)
        if at is None:
            raise invalid(param, "a user message is needed to fill the prompt")
        cut = Grounds(self._cut(grounds.context), self._cut(grounds.sentence))
        return _format(self._prompt_template or "", cut, self._cut(texts[at]))

    def _cut_all(self, value: Any) -> Any:
        """Return `value` with every string inside it cut, keys of dictionaries included."""
        if isinstance(value, str):
            return self._cut(value)
        if isinstance(value, list):
            return [self._cut_all(item) for item in value]
        if isinstance(value, dict):
            return {self._cut_all(key): self._cut_all(item) for key, item in value.items()}
        return value

    def _cut(self, text: str) -> str:
        """Put a cut behind the first character of every spelling of a control token."""
        return self._control.sub(lambda match: match[1] + _CUT, text) if self._control else text

    def _check_length(self, text: str, param: str) -> None:
        """Refuse, before it is tokenized, text that no tokenization makes short enough to leave room for an answer."""
        size = len(text.replace(_CUT, "").encode())
        least = -(-size // self._vocab.longest_token)
        if least >= self._context_size:
            raise context_length_exceeded(f"at least {least}", self._context_size - 1, param)


def _last_user(messages: Sequence[Message]) -> int | None:
    """Return the index of the last user message."""
    return next((index for index in reversed(range(len(messages))) if messages[index].role == "user"), None)


def _format(template: str, grounds: Grounds, query: str) -> str:
    """Put all into `template`; braces that they contain stay as they are."""
    values = {"{query}": query, "{context}": grounds.context, "{sentence}": grounds.sentence}
    return re.sub(r"\{(?:query|context|sentence)\}", lambda match: values[match[0]], template)


def _marks(text: str, template: str) -> bool:
    """Whether a user-defined token with this text has a meaning in prompts of `template`.

    The tags of thoughts have none that could be forged, and templates look for them in earlier answers.
    """
    if not text.strip() or any(text in tags for tags in TAGS):
        return False
    return text in template or text.startswith("<|") or text.endswith("|>")


def _control_tokens(vocab: Vocab, template: str) -> re.Pattern[str] | None:
    """Return a pattern for the first character of each spelling of a control token, overlapping ones included.

    llama.cpp finds "user-defined" tokens in any text, even where it does not parse special ones. Most are text (line
    breaks, tags of HTML), but some are markers that `template` writes: those of roles in gpt-oss, of tools in Qwen.
    """
    by_first: dict[str, set[str]] = {}
    for token in range(vocab.n_tokens):
        attr = vocab.attr(token)
        if attr & (TokenAttr.CONTROL | TokenAttr.UNKNOWN | TokenAttr.USER_DEFINED):
            text = vocab.token_bytes(token, special=True).decode("utf-8", "replace")
            if len(text) > 1 and (not attr & TokenAttr.USER_DEFINED or _marks(text, template)):
                by_first.setdefault(text[0], set()).add(re.escape(text[1:]))
    if not by_first:
        return None
    alternatives = (f"{re.escape(first)}(?={'|'.join(sorted(rests))})" for first, rests in by_first.items())
    return re.compile(f"({'|'.join(alternatives)})")
