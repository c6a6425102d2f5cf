"""`python -m server.healthcheck`: ask the server of this container whether it can answer; the image's HEALTHCHECK.

Exit code 0 while it can, also while it is full or drains; 1 with the reason while it loads, has failed, or does not
answer. Knows HTTP_ADDRESS and GET /health; no proxy comes between, and nothing of the server is loaded.
"""

from __future__ import annotations

import http.client
import json
import os
import sys
from typing import Final

#: Longest wait for the answer, in seconds; the image's HEALTHCHECK gives up a second later.
PATIENCE: Final = 4.0

#: Where to ask a server that listens on every address, by what it calls them.
_EVERY: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}


def ask(address: str) -> str:
    """Return the status of the server that listens on `address` (host:port). Raises OSError or HTTPException."""
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    connection = http.client.HTTPConnection(_EVERY.get(host, host), int(port), timeout=PATIENCE)
    try:
        connection.request("GET", "/health")
        return str(json.loads(connection.getresponse().read())["status"])
    finally:
        connection.close()


def main() -> int:
    """Ask; return the exit code."""
    address = os.environ.get("HTTP_ADDRESS") or "127.0.0.1:8080"
    try:
        status = ask(address)
    except (OSError, http.client.HTTPException, ValueError) as error:
        status = f"{type(error).__name__}: {error}"
    if status != "ok":
        print(f"{address}: {status}", file=sys.stderr)
    return 0 if status == "ok" else 1


if __name__ == "__main__":
    sys.exit(main())
