"""llama.cpp's log, in Python's `logging` under the name "llama_native".

Importing this module redirects the log of llama.cpp and ggml; nothing reaches stderr unless the program configures
logging. Lines below the logger's level are dropped in C and cost no GIL. The level is read when a model or a context
is created and by `sync_level()`. Callable from any thread; at interpreter exit the log goes silent.
"""

from __future__ import annotations

import atexit
import logging
from collections.abc import Iterator
from contextlib import contextmanager

from llama_native.ffi import C, ffi, text

logger = logging.getLogger("llama_native")
logger.addHandler(logging.NullHandler())

# ggml_log_level -> logging
_LEVELS = {1: logging.DEBUG, 2: logging.INFO, 3: logging.WARNING, 4: logging.ERROR}
_SILENT = 5


def _ignore(*_: object) -> None:
    """A logging handler failed; raising into C would only print to stderr."""


@ffi.def_extern(name="lucid_on_log", onerror=_ignore)  # type: ignore[untyped-decorator]
def _on_log(level: int, line: object) -> None:
    logger.log(_LEVELS.get(level, logging.INFO), "%s", text(line))


def sync_level() -> None:
    """Drops, in C, every line that the logger would drop anyway. Call it after changing the logger's level."""
    wanted = logger.getEffectiveLevel()
    C.lucid_log_level(min((level for level, value in _LEVELS.items() if value >= wanted), default=_SILENT))


@contextmanager
def silence() -> Iterator[None]:
    """Drops all lines of all threads meanwhile."""
    C.lucid_log_level(_SILENT)
    try:
        yield
    finally:
        sync_level()


C.lucid_guard_install()
sync_level()
C.lucid_log_install(C.lucid_on_log)
atexit.register(C.lucid_log_stop)
