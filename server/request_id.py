"""The name of a request: the client's own if it is usable, else one of ours; sent back with the answer and logged.

Imports nothing of the engine: gunicorn's master process uses it, which must not load libllama before it forks.
"""

from __future__ import annotations

import re
import uuid

_USABLE = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")


def request_id(given: str = "") -> str:
    """Return `given`, the client's X-Request-Id, if it is short and harmless in logs; else a new name."""
    return given if _USABLE.fullmatch(given) else f"req_{uuid.uuid4().hex}"
