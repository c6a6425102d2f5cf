"""Builds the cffi extension `llama_native._native` (API mode: the C compiler checks every declaration).

It reads the declarations in decl/, one file per topic, and compiles them together with the C++ helpers in shim/. It
knows where llama.cpp's headers and libraries are (environment variable LLAMA_PREFIX, with include/ and lib/ inside)
and nothing else about how they were built. setup.py calls it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from cffi import FFI

HERE = Path(__file__).resolve().parent

# In this order: a declaration may use what an earlier file declares.
DECLARATIONS = (
    "types",
    "enums",
    "backend",
    "model",
    "vocab",
    "batch",
    "context",
    "memory",
    "sampler",
    "threadpool",
    "lora",
    "quantize",
    "shim",
    "callbacks",
)
SOURCES = ("shim/guard", "shim/log", "shim/calls", "shim/step", "shim/teams", "kernels/q4_1", "kernels/buffer")

SOURCE = """
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "llama.h"
#include "ggml-backend.h"
#include "ggml-cpu.h"
#include "ggml-rpc.h"
#include "decl/shim.h"
"""


def _builder() -> FFI:
    prefix = os.environ.get("LLAMA_PREFIX")
    if not prefix:
        sys.exit("llama_native: set LLAMA_PREFIX to the folder that holds llama.cpp's include/ and lib/")
    include, library = Path(prefix, "include"), Path(prefix, "lib")
    if not (include / "llama.h").is_file():
        sys.exit(f"llama_native: there is no llama.h in {include}")

    builder = FFI()
    for name in DECLARATIONS:
        builder.cdef((HERE / "decl" / f"{name}.h").read_text())
    root = HERE.parent
    sources = [os.path.relpath(HERE / f"{name}.cpp", root) for name in SOURCES]
    builder.set_source(
        "llama_native._native",
        SOURCE,
        sources=sources,
        include_dirs=[str(include), str(HERE)],
        library_dirs=[str(library)],
        libraries=["llama", "ggml", "ggml-cpu", "ggml-base", "stdc++"],
        runtime_library_dirs=[str(library)],
        extra_compile_args=["-O3", "-isystem", str(include / "internal")],
        depends=[str(path) for path in (*HERE.glob("decl/*.h"), *HERE.glob("shim/*"), *HERE.glob("kernels/*"))],
    )
    return builder


ffibuilder = _builder()
