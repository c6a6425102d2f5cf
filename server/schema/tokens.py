"""The bodies of /tokenize, /detokenize and /apply-template and their answers.

Knows llama-server's fields; knows nothing of the vocabulary.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from server.schema.chat import Message

#: Most tokens of one request to /detokenize.
MAX_TOKENS: Final = 2**20


class TokenizeRequest(msgspec.Struct, kw_only=True, frozen=True):
    """A text, or texts and token ids in any order, to tokenize."""

    content: str | list[str | int]
    add_special: bool | None = None
    parse_special: bool | None = None
    with_pieces: bool | None = None


class TokenPiece(msgspec.Struct, frozen=True):
    """A token and its text; its bytes where they are not whole characters."""

    id: int
    piece: str | list[int]


class TokenizeBody(msgspec.Struct, frozen=True):
    """The tokens of the text."""

    tokens: list[int | TokenPiece]


class DetokenizeRequest(msgspec.Struct, kw_only=True, frozen=True):
    """Tokens to turn into text."""

    tokens: Annotated[list[int], Meta(max_length=MAX_TOKENS)]


class DetokenizeBody(msgspec.Struct, frozen=True):
    """The text of the tokens, special tokens included; U+FFFD for bytes that are no characters."""

    content: str


class ApplyTemplateRequest(msgspec.Struct, kw_only=True, frozen=True):
    """A conversation to write as a prompt."""

    messages: Annotated[list[Message], Meta(min_length=1)]
    model: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None


class ApplyTemplateBody(msgspec.Struct, frozen=True):
    """The prompt's text."""

    prompt: str
