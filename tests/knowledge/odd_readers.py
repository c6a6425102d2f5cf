"""Readers for the sandbox that no file needs; they leave a trace in the file that their data name."""

from __future__ import annotations

import time
from pathlib import Path


def read_slowly(data: bytes) -> str:
    """Takes longer than any test."""
    _leave_trace(data)
    time.sleep(3600)
    return ""


def read_with_what_is_missing(data: bytes) -> str:
    """Needs a package that is not there."""
    _leave_trace(data)
    raise ModuleNotFoundError("No module named 'nothing_like_it'", name="nothing_like_it")


def _leave_trace(data: bytes) -> None:
    with Path(data.decode().split("\n")[0]).open("a") as trace:
        trace.write("x")
