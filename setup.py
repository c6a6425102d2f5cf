"""Compiles the cffi extension of llama_native against the libllama that build_llama.sh makes.

LLAMA_PREFIX names a folder that build_llama.sh made: llama.cpp's include/ and lib/, with the headers of ggml's insides
that Lucid's kernels need in include/internal/. Without it build_llama.sh provides one, compiling llama.cpp first when
its cache holds none; LLAMA_OPTIONS holds options for it, such as `--cuda`. The extension finds its libraries by an
rpath to that folder. Everything else about the package is in pyproject.toml.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.build_ext import build_ext

# Commands that only describe the package must work without a compiled llama.cpp.
COMPILING = {"bdist_wheel", "build", "build_ext", "develop", "editable_wheel", "install"}


class BuildExtension(build_ext):
    """Compiles every time: the compiler's options carry the prefix, which a comparison of file times cannot see.

    The C++ sources are C++17. An extension's own options would reach cffi's C source too, which is none.
    """

    def finalize_options(self) -> None:
        """Set the options' final values."""
        super().finalize_options()
        self.force = True

    def build_extensions(self) -> None:
        """Compile and link."""
        self.compiler.compiler_so_cxx.append("-std=c++17")
        super().build_extensions()


def llama_prefix() -> str:
    """Return the folder with llama.cpp's headers and libraries; build it when none is named."""
    if prefix := os.environ.get("LLAMA_PREFIX"):
        return prefix
    script = Path(__file__).resolve().with_name("build_llama.sh")
    command = ["bash", str(script), *shlex.split(os.environ.get("LLAMA_OPTIONS", ""))]
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if result.returncode != 0:
        sys.exit(result.returncode)
    return result.stdout.strip()


if COMPILING & set(sys.argv):
    os.environ["LLAMA_PREFIX"] = llama_prefix()
    setup(cffi_modules=["llama_native/_build.py:ffibuilder"], cmdclass={"build_ext": BuildExtension})
else:
    setup()
