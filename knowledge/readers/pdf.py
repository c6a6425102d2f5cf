"""PDF to text by PDFium, a paragraph break between pages. Runs in the sandbox."""

from __future__ import annotations

import pypdfium2

from knowledge.readers.errors import SkippedError


def read_pdf(data: bytes) -> str:
    """Returns the text of all pages. Raises `SkippedError` for encrypted and damaged files and for pictures of text."""
    try:
        document = pypdfium2.PdfDocument(data)
    except pypdfium2.PdfiumError as error:
        raise SkippedError("it is a PDF with a password" if "password" in str(error).lower() else str(error)) from error
    pages = []
    for number in range(len(document)):
        page = document[number]
        text = page.get_textpage()
        pages.append(text.get_text_bounded().replace("\r\n", "\n").replace("\ufffe", "").strip())
        text.close()
        page.close()
    content = "\n\n".join(page for page in pages if page)
    if pages and not content:
        raise SkippedError("its pages hold no text (scanned pictures?)")
    return content
