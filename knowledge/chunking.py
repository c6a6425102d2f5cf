"""A document's text to chunks of bounded length at natural boundaries.

The boundaries (headings, paragraphs, sentences, words) are found by semantic-text-splitter; lengths are counted with
the embedding model's tokenizer. Nothing is lost: chunks cover the text but for white space between them.
"""

from __future__ import annotations

from collections.abc import Callable

from semantic_text_splitter import MarkdownSplitter, TextSplitter

from knowledge.readers import Text
from knowledge.settings import SettingsError
from knowledge.store import Chunk
from llama_native import Vocab

#: Tokens that the special tokens and the seam between prefix and text may add.
_MARGIN = 8
#: A token counts for at most so many characters. Long runs that the vocabulary has one "unknown" token for would
#: otherwise make chunks without bound; and text that is surely too long need not be tokenized.
_CHARACTERS = 16


class Chunker:
    """Cuts texts into chunks of at most `size` tokens that share at most `overlap` tokens with the one before.

    :param max_tokens: the longest input of the embedding model.
    :param prefix: the document prefix that will be put before each chunk.
    :param check: called again and again while a text is cut, which may take minutes; what it raises ends that.
    :raises SettingsError: chunks of this size do not fit the model.
    """

    def __init__(
        self,
        vocab: Vocab,
        size: int,
        overlap: int,
        max_tokens: int,
        prefix: str = "",
        check: Callable[[], None] = lambda: None,
    ) -> None:
        largest = max_tokens - len(vocab.tokenize(prefix)) - _MARGIN
        if size > largest:
            raise SettingsError(
                f"KNOWLEDGE_CHUNK_TOKENS={size} is not valid; allowed: up to {largest} with this embedding model"
            )
        self._vocab, self._check = vocab, check
        self._limit = size * _CHARACTERS
        self._plain = TextSplitter.from_callback(self._length, size, overlap, trim=False)
        self._markdown = MarkdownSplitter.from_callback(self._length, size, overlap, trim=False)

    def split(self, text: Text) -> list[Chunk]:
        """Returns the chunks of a text in order; none for a text of white space."""
        splitter = self._markdown if text.markdown else self._plain
        chunks: list[Chunk] = []
        for start, content in splitter.chunk_indices(text.content):
            if content.strip():
                n_tokens = len(self._vocab.tokenize(content))
                chunks.append(Chunk(len(chunks), start, start + len(content), n_tokens, content))
        return chunks

    def _length(self, text: str) -> int:
        self._check()
        least = -(-len(text) // _CHARACTERS)
        return least if len(text) > self._limit else max(least, len(self._vocab.tokenize(text)))
