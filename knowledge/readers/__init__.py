"""Files to text: one reader for each kind of file, chosen by the file's suffix.

A reader takes a file's bytes and gives its text, or raises `SkippedError` with the reason. All but plain text is read
in a process of its own with limits on time and memory (`sandbox.py`): its parser could hang, or its text grow.
Knows formats; which files there are and what becomes of the text are other modules' business.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import PurePosixPath

from knowledge.readers.errors import SkippedError

__all__ = ["MARKDOWN_SUFFIXES", "READER_VERSION", "SkippedError", "Text", "read"]

#: Raised whenever the readers or the chunking give other results for the same file: stores are then indexed again.
READER_VERSION = 3

MARKDOWN_SUFFIXES = frozenset({".md", ".markdown", ".mdown", ".mkd"})

#: Module and function for a suffix; everything else is plain text, if it is text at all.
_PARSERS = {
    ".csv": ("knowledge.readers.tables", "read_csv"),
    ".tsv": ("knowledge.readers.tables", "read_csv"),
    ".json": ("knowledge.readers.tables", "read_json"),
    ".jsonl": ("knowledge.readers.tables", "read_jsonl"),
    ".ndjson": ("knowledge.readers.tables", "read_jsonl"),
    ".htm": ("knowledge.readers.html", "read_html"),
    ".html": ("knowledge.readers.html", "read_html"),
    ".xhtml": ("knowledge.readers.html", "read_html"),
    ".pdf": ("knowledge.readers.pdf", "read_pdf"),
}
_SANDBOXED = frozenset(module for module, _ in _PARSERS.values())


@dataclass(frozen=True, slots=True)
class Text:
    """The text of a document. `markdown` tells that it has Markdown's structure."""

    content: str
    markdown: bool = False


def read(file: str, data: bytes, stop: threading.Event | None = None) -> Text:
    """Returns the text of a file with this name and content.

    :param stop: breaks off, when it is set, what may take long.
    :raises SkippedError: the file is no text, damaged, beyond the limits, its library is not installed, or `stop`.
    """
    suffix = PurePosixPath(file).suffix.lower()
    module, function = _PARSERS.get(suffix, ("knowledge.readers.plain", "read_plain"))
    if module in _SANDBOXED:
        from knowledge.readers import sandbox  # starts processes: only where it is needed

        content = sandbox.call(module, function, data, stop)
    else:
        reader: Callable[[bytes], str] = getattr(import_module(module), function)
        content = reader(data)
    # JSON can spell half a character ("\ud83d"), which no tokenizer and no database takes.
    content = content.encode(errors="replace").decode()
    return Text(content, suffix in MARKDOWN_SUFFIXES or module == "knowledge.readers.html")
