"""CSV and JSON to text in which every value stands beside its name, so that a chunk out of the middle makes sense.

Lines end at line feeds alone, as both formats say: their values may hold what Unicode counts as line ends, too. Runs in
the sandbox, because names that are repeated make little data long.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from typing import Any

from knowledge.readers.plain import read_plain

_SAMPLE = 1 << 14


def read_csv(data: bytes) -> str:
    """Returns a paragraph for each row, "column: value" a line. The first row names the columns.

    Quotes that are wrong lose the columns of what follows, never its text.
    """
    text = read_plain(data)
    try:
        dialect: Any = csv.Sniffer().sniff(text[:_SAMPLE], ",;\t|")
    except csv.Error:
        dialect = csv.excel
    csv.field_size_limit(len(text) + 1)  # a quote that is never closed makes one field of all the rest
    rows = [row for row in csv.reader(io.StringIO(text, newline=""), dialect) if any(row)]
    if not rows:
        return ""
    header, *rest = rows
    if not rest:
        return "\n".join(header)
    return "\n\n".join("\n".join(_named(header, row)) for row in rest)


def _named(header: list[str], row: list[str]) -> Iterator[str]:
    for i, value in enumerate(row):
        if value.strip():
            yield f"{header[i].strip()}: {value.strip()}" if i < len(header) and header[i].strip() else value.strip()


def read_json(data: bytes) -> str:
    """Returns "name: value" lines, with the path of nested names; a paragraph for each object of a list.

    What is not quite JSON (comments, say) is read as plain text.
    """
    return _rendered(read_plain(data))


def read_jsonl(data: bytes) -> str:
    """Returns a paragraph for each line, as `read_json` does for one value."""
    return "\n\n".join(_rendered(line) for line in read_plain(data).split("\n") if line.strip())


def _rendered(text: str) -> str:
    try:
        return _paragraphs(json.loads(text))
    except (ValueError, RecursionError):
        return text


def _paragraphs(value: Any) -> str:
    items = value if isinstance(value, list) else [value]
    return "\n\n".join("\n".join(_lines(item, "")) for item in items)


def _lines(value: Any, path: str) -> Iterator[str]:
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _lines(item, f"{path}.{name}" if path else str(name))
    elif isinstance(value, list):
        for item in value:
            yield from _lines(item, path)
    elif value is not None and value != "":
        text = value if isinstance(value, str) else json.dumps(value)
        yield f"{path}: {text}" if path else text
