"""A reader that takes longer than any test, for the sandbox."""

from __future__ import annotations

import time
from pathlib import Path


def read_slowly(data: bytes) -> str:
    """Makes the file that `data` names, to tell that it has begun, and sleeps."""
    Path(data.decode()).touch()
    time.sleep(3600)
    return ""
