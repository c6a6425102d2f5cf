"""HTML to Markdown, which keeps headings, lists and tables for the chunking to see. Runs in the sandbox."""

from __future__ import annotations

import re

from bs4 import BeautifulSoup
from markdownify import MarkdownConverter

_NO_TEXT = ("script", "style", "template", "noscript", "svg", "nav", "form", "iframe")


def read_html(data: bytes) -> str:
    """Returns the text of a page as Markdown; links and images leave their text."""
    page = BeautifulSoup(data, "lxml")
    for element in page(_NO_TEXT):
        element.decompose()
    title = page.title.get_text(" ", strip=True) if page.title else ""
    body = page.body or page
    converter = MarkdownConverter(strip=["a", "img"], heading_style="ATX", bullets="-")
    text = re.sub(r"\n{3,}", "\n\n", converter.convert_soup(body)).strip()
    return text if not title or title in text[: 4 * len(title) + 200] else f"# {title}\n\n{text}"
