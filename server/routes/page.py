"""GET / and /page/...: the page, a chat that draws where an answer's time went.

Hand-written files of server/page/, read once; a browser runs them as they are. Only files that exist there are
served, by name, so a path from outside never reaches the file system. Knows content types, caching and the headers
that confine the page; knows nothing of what the page does.
"""

from __future__ import annotations

import functools
import hashlib
from importlib.resources import files
from typing import Final, NamedTuple

from werkzeug.exceptions import NotFound
from werkzeug.wrappers import Response

from server.exchange import Exchange
from server.service import Service

INDEX: Final = "index.html"

CONTENT_TYPES: Final = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}

#: The page may load its own files and talk to this server, nothing else (Content Security Policy Level 3). With
#: `trusted-types 'none'` a browser that knows Trusted Types refuses every way of turning text into markup.
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)

HEADERS: Final = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    # Kept by the browser, but asked about each time: after an upgrade nobody runs half of an old page.
    "Cache-Control": "no-cache",
}


class Asset(NamedTuple):
    """A file of the page."""

    content: bytes
    content_type: str
    etag: str


@functools.cache
def assets() -> dict[str, Asset]:
    """Return the page's files by name."""
    found = {}
    for file in (files("server") / "page").iterdir():
        suffix = "." + file.name.rpartition(".")[2]
        if suffix in CONTENT_TYPES:
            content = file.read_bytes()
            found[file.name] = Asset(content, CONTENT_TYPES[suffix], hashlib.sha256(content).hexdigest()[:32])
    return found


def index(service: Service, exchange: Exchange) -> Response:
    """Return the page itself."""
    return show(service, exchange, INDEX)


def show(_service: Service, exchange: Exchange, name: str) -> Response:
    """Return the file `name` of the page; 304 if the browser has it already, 404 if there is none."""
    asset = assets().get(name)
    if asset is None:
        raise NotFound
    response = Response(asset.content, content_type=asset.content_type, headers=HEADERS)
    response.set_etag(asset.etag)
    response.make_conditional(exchange.request)
    exchange.status = response.status_code
    return response
