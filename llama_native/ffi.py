"""The one place that imports the compiled extension: `C` calls into libllama, `ffi` makes and reads C values.

Importing it also starts the backends and turns failed assertions of llama.cpp into return values of guarded calls
(see shim/guard.hpp). It knows nothing about what the values mean.
"""

from __future__ import annotations

import os
from typing import Any

# Compute threads meet at a barrier some hundred times a token. By default libgomp lets a thread spin there for many
# milliseconds, so that a host whose cores are shared (HTTP threads are enough) loses most of its speed to spinning.
# Read by libgomp when it is loaded, so it has to be set before the extension is; a value from outside wins.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

try:
    from llama_native._native import ffi as _ffi
    from llama_native._native import lib as _lib
except ImportError as error:
    raise ImportError(f"llama_native is not compiled, or its libllama is gone: run `make build` ({error})") from error

C: Any = _lib
ffi: Any = _ffi
NULL: Any = _ffi.NULL


def text(pointer: Any) -> str:
    """Returns the C string at `pointer` as str; "" for NULL; bytes that are not UTF-8 become U+FFFD."""
    if pointer == ffi.NULL:
        return ""
    return str(ffi.string(pointer).decode("utf-8", errors="replace"))
