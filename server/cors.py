"""Cross-origin requests: which pages' scripts may use the API from a browser (the Fetch standard, 3.3).

Off unless CORS_ORIGINS names origins. Answers preflights and adds the headers to every response, errors and streams
included. Credentials are never allowed: API keys travel in the Authorization header, not in cookies. Knows headers;
knows nothing of what is answered.
"""

from __future__ import annotations

import re
from typing import Final

from werkzeug.datastructures import Headers
from werkzeug.wrappers import Request, Response

#: What scripts may read of an answer beside its body and a few harmless headers.
EXPOSED: Final = "X-Request-Id, Retry-After, WWW-Authenticate"

#: How long a browser may remember a preflight's answer, in seconds.
MAX_AGE: Final = "600"

#: A list of header names (RFC 9110, 5.6.2), such as OpenAI's SDK asks for: authorization,content-type,x-stainless-os
_NAMES = re.compile(r"[\w!#$%&'*+.^`|~,\- ]{0,4096}", re.ASCII)


class Cors:
    """The origins that are allowed."""

    def __init__(self, origins: tuple[str, ...], methods: str) -> None:
        """`origins` as browsers write them, or "*" alone for all; `methods` are all that any route answers."""
        self._any = "*" in origins
        self._origins = frozenset(origins)
        self._methods = methods

    def add(self, request: Request, headers: Headers) -> None:
        """Add to the headers of a response what the browser needs to hand it to the page."""
        if not self._origins:
            return
        if not self._any:
            headers.add("Vary", "Origin")
        origin = self._allowed(request)
        if origin is not None:
            headers["Access-Control-Allow-Origin"] = origin
            headers["Access-Control-Expose-Headers"] = EXPOSED

    def preflight(self, request: Request) -> Response | None:
        """Return the answer to a browser that asks whether a page may send a request; None if it is something else.

        A preflight from an origin that is not allowed is none of ours: it gets the answer of any OPTIONS request,
        which lacks the headers that would permit anything.
        """
        wanted = request.headers.get("Access-Control-Request-Method")
        if request.method != "OPTIONS" or wanted is None or self._allowed(request) is None:
            return None
        response = Response(status=204)
        response.headers["Access-Control-Allow-Methods"] = self._methods
        names = request.headers.get("Access-Control-Request-Headers", "")
        if names and _NAMES.fullmatch(names):
            response.headers["Access-Control-Allow-Headers"] = names
        response.headers["Access-Control-Max-Age"] = MAX_AGE
        response.headers.add("Vary", "Access-Control-Request-Headers")
        return response

    def _allowed(self, request: Request) -> str | None:
        """Return the value of Access-Control-Allow-Origin for this request; None if its origin is not allowed."""
        origin = request.headers.get("Origin")
        if origin is None:
            return None
        if self._any:
            return "*"
        return origin if origin in self._origins else None
