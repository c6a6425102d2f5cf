"""Runs build_llama.sh with a cache of its own, on tiny source trees and with tools hidden."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

Run = subprocess.CompletedProcess[str]
RunBuild = Callable[..., Run]

# What the script itself uses of the system, without any compiler or SDK.
BASIC_TOOLS = "bash sh env cat cp cut dirname find flock grep gzip head ln ls mkdir mktemp mv nproc paste rm rmdir sed \
sha256sum sort tail tar touch tr uname xargs python3"
COMPILERS = ("c++", "g++", "cc", "gcc", "as", "ld", "ar", "ranlib", "cmake", "ninja")


def toolchain_path() -> str:
    """PATH with cmake and ninja on it, which build_llama.sh may have installed into the user's cache."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return f"{os.environ['PATH']}:{cache / 'lucid-llm' / 'llama.cpp' / 'toolchain' / 'bin'}"


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """The folder that build_llama.sh of this test uses as the user's cache."""
    return tmp_path / "cache"


@pytest.fixture
def environment(cache: Path) -> dict[str, str]:
    """The environment of the script: a cache of its own, this Python, no options from outside."""
    hidden = {"LLAMA_CPP_SOURCE", "LLAMA_OPTIONS", "LLAMA_PREFIX", "CC", "CXX", "CUDACXX", "MAKEFLAGS", "MAKELEVEL"}
    hidden |= {"CFLAGS", "CXXFLAGS", "LDFLAGS", "CUDAFLAGS"}
    kept = {name: value for name, value in os.environ.items() if name not in hidden}
    return {**kept, "PATH": toolchain_path(), "XDG_CACHE_HOME": str(cache), "PYTHON": sys.executable}


@pytest.fixture
def run_build(root: Path, environment: dict[str, str]) -> RunBuild:
    """Run build_llama.sh with options; `source` builds that tree, other keywords go to the environment."""

    def run(*options: str, script: Path = root / "build_llama.sh", source: Path | None = None, **variables: str) -> Run:
        env = {**environment, **variables}
        if source is not None:
            env["LLAMA_CPP_SOURCE"] = str(source)
        command = ["bash", str(script), *options]
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)

    return run


@pytest.fixture
def path_with(tmp_path: Path) -> Callable[..., str]:
    """Make a PATH that holds the basic tools and those named, and nothing else."""

    def make(*names: str) -> str:
        folder = tmp_path / "bin"
        folder.mkdir()
        for name in (*BASIC_TOOLS.split(), *names):
            if found := shutil.which(name, path=toolchain_path()):
                (folder / name).symlink_to(found)
        return str(folder)

    return make
