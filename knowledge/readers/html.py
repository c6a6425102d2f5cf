"""HTML to Markdown, which keeps headings, lists and tables for the chunking to see. Runs in the sandbox."""

from __future__ import annotations

import re

from bs4 import BeautifulSoup
from markdownify import MarkdownConverter

from knowledge.readers.errors import SkippedError

_HIDDEN = ("script", "style", "template", "noscript", "svg", "nav", "iframe")
#: Of a form only these: ASP.NET and SharePoint put the whole body of a page into one.
_CONTROLS = ("input", "button", "select", "datalist", "textarea", "output", "progress", "meter")


def read_html(data: bytes) -> str:
    """Returns the text of a page as Markdown; links and images leave their text.

    Raises `SkippedError` for a page that has none, such as one whose text is made by its scripts.
    """
    page = BeautifulSoup(data, "lxml")
    for element in page((*_HIDDEN, *_CONTROLS)):
        element.decompose()
    title = page.title.get_text(" ", strip=True) if page.title else ""
    body = page.body or page
    converter = MarkdownConverter(strip=["a", "img"], heading_style="ATX", bullets="-")
    text = re.sub(r"\n{3,}", "\n\n", converter.convert_soup(body)).strip()
    if data.strip() and not (title or text):
        raise SkippedError("it holds no text")
    return text if not title or title in text[: 4 * len(title) + 200] else f"# {title}\n\n{text}"
