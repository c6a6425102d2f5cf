"""Tells a reasoning model's thoughts from its answer, by the tags that such models put around them.

Only thoughts at the very beginning of an answer count, as models are trained to write them; a tag further on is text
about tags. Some chat templates open the tag in the prompt, so that the answer begins inside. Knows tags and characters;
knows nothing of messages or tokens.
"""

from __future__ import annotations

from typing import Final

from engine.stops import overlap
from llama_native import TokenAttr, Vocab

#: Opening and closing tags: DeepSeek-R1, Qwen and most others; variants of it; Seed-OSS; Magistral; Command A.
TAGS: Final = (
    ("<think>", "</think>"),
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("<seed:think>", "</seed:think>"),
    ("[THINK]", "[/THINK]"),
    ("<|START_THINKING|>", "<|END_THINKING|>"),
)


def tag_tokens(vocab: Vocab) -> frozenset[int]:
    """Return the control tokens that are tags; control tokens have no text otherwise."""
    tags = {tag.encode() for pair in TAGS for tag in pair}
    return frozenset(
        token
        for token in range(vocab.n_tokens)
        if vocab.token_bytes(token, special=True) in tags and vocab.attr(token) & TokenAttr.CONTROL
    )


def opened_by(prompt: str) -> str | None:
    """Return the closing tag of the thoughts that the end of `prompt` opens, if it does."""
    end = prompt.rstrip()
    return next((closing for opening, closing in TAGS if end.endswith(opening)), None)


class ReasoningSplitter:
    """Splits the text of one answer, as it comes, into thoughts and content.

    White space around the thoughts belongs to the tags and is dropped.
    """

    def __init__(self, closing: str | None = None) -> None:
        """`closing` is the tag that ends the thoughts the prompt has opened."""
        self._closing = closing
        self._held = ""
        self._starting = True  # nothing but white space since the last tag, or since the beginning
        self._over = False  # all further text is content

    @property
    def found(self) -> bool:
        """True once there are thoughts."""
        return self._closing is not None

    @property
    def over(self) -> bool:
        """True once all further text is content."""
        return self._over

    @property
    def transparent(self) -> bool:
        """True once all further text is content as it stands."""
        return self._over and not self._starting

    def feed(self, text: str) -> tuple[str, str]:
        """Take the next text; return (thoughts, content) that are certain now."""
        if self.transparent:
            return "", text
        text = self._held + text
        self._held = ""
        if self._over:
            text = text.lstrip()
            self._starting = not text
            return "", text
        if self._closing is None:
            return self._open(text)
        return self._think(text, self._closing)

    def flush(self) -> tuple[str, str]:
        """Return what is held back: the answer is over."""
        held, self._held = self._held, ""
        return (held.rstrip(), "") if self._closing is not None and not self._over else ("", held)

    def _open(self, text: str) -> tuple[str, str]:
        """Look for an opening tag at the beginning."""
        begin = text.lstrip()
        for opening, closing in TAGS:
            if begin.startswith(opening):
                self._closing = closing
                return self._think(begin[len(opening) :], closing)
        if any(opening.startswith(begin) for opening, _ in TAGS):  # "" is the beginning of every tag
            self._held = text
            return "", ""
        self._over, self._starting = True, False
        return "", text

    def _think(self, text: str, closing: str) -> tuple[str, str]:
        """Look for the closing tag."""
        if self._starting:
            text = text.lstrip()
        at = text.find(closing)
        if at >= 0:
            self._over = self._starting = True
            _, content = self.feed(text[at + len(closing) :])
            return text[:at].rstrip(), content
        end = len(text[: len(text) - overlap(text, closing)].rstrip())
        self._held = text[end:]
        self._starting = self._starting and not end
        return text[:end], ""
