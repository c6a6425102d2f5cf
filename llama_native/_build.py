"""Builds the cffi extension `llama_native._native` (API mode: the C compiler checks every declaration).

It reads the declarations in decl/, one file per topic, and compiles them together with the C++ helpers in shim/ and the
kernels in kernels/. It knows where llama.cpp's headers and libraries are (environment variable LLAMA_PREFIX,
with include/ and lib/ inside, and those of ggml's internal headers that the kernels need in include/internal/) and
nothing else about how they were built. setup.py calls it, and chooses the C++ standard.
"""

from __future__ import annotations

import hashlib
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
SOURCES = (
    "shim/guard",
    "shim/log",
    "shim/calls",
    "shim/maximum",
    "shim/relay",
    "shim/step",
    "shim/teams",
    "shim/token_queue",
    "kernels/attention",
    "kernels/attention_op",
    "kernels/buffer",
    "kernels/copies",
    "kernels/huge_pages",
    "kernels/pages",
    "kernels/planning",
    "kernels/processor",
    "kernels/product_op",
    "kernels/q4_1",
    "kernels/q8_0",
    "kernels/vectors",
)

#: Headers that say whether a prefix is one of build_llama.sh's.
HEADERS = ("llama.h", "internal/ggml-cpu/traits.h")
REMEDY = "leave LLAMA_PREFIX unset, or set it to the folder that build_llama.sh prints"

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


def _kernels_version() -> str:
    """A short digest of the kernels' sources: what was measured with others is not true of these."""
    digest = hashlib.sha256()
    for path in sorted(HERE.glob("kernels/*.[ch]pp")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def _builder() -> FFI:
    prefix = os.environ.get("LLAMA_PREFIX")
    if not prefix:
        sys.exit("llama_native: set LLAMA_PREFIX to the folder that build_llama.sh prints")
    include, library = Path(prefix, "include"), Path(prefix, "lib")
    for header in HEADERS:
        if not (include / header).is_file():
            sys.exit(f"llama_native: there is no {header} in {include}; {REMEDY}")

    builder = FFI()
    for name in DECLARATIONS:
        builder.cdef((HERE / "decl" / f"{name}.h").read_text())
    builder.cdef("static const char *const lucid_kernels_version;")
    root = HERE.parent
    sources = [os.path.relpath(HERE / f"{name}.cpp", root) for name in SOURCES]
    builder.set_source(
        "llama_native._native",
        f'{SOURCE}static const char *const lucid_kernels_version = "{_kernels_version()}";\n',
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
