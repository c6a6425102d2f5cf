"""Where llama.cpp's own tools are, and what llama-bench and llama-batched-bench measured.

The tools come from `build_llama.sh --tools`: the same source and flags as the library that we load ourselves.
"""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent
_BUILD = _ROOT / "build_llama.sh"


class ToolMissingError(Exception):
    """A tool is not built; the message says how to build it."""


class ToolFailedError(Exception):
    """A tool ended with an error or printed what it should not."""


@lru_cache
def _prefix(*flags: str) -> Path:
    if not _BUILD.is_file():
        raise ToolMissingError(f"{_BUILD} is missing: run the benchmarks from a checkout")
    command = [str(_BUILD), "--print-prefix", *flags]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=_ROOT)
    if found.returncode != 0:
        raise ToolMissingError(found.stderr.strip() or f"{' '.join(command)} failed")
    return Path(found.stdout.strip())


def library_folder() -> Path:
    """Where the libllama lies that we load ourselves. Raises ToolMissingError outside a checkout."""
    return _prefix() / "lib"


def pinned(key: str) -> str:
    """What the pin of llama.cpp's source says: package, version, sha256 or commit. Raises ToolMissingError."""
    try:
        lines = (_ROOT / "vendor" / "llama.cpp" / "pin").read_text("utf-8").splitlines()
    except OSError as error:
        raise ToolMissingError(f"{error}: run the benchmarks from a checkout") from None
    return dict(line.split("=", 1) for line in lines if "=" in line)[key]


def tool(name: str, directory: str | None = None) -> Path:
    """Path of one of llama.cpp's programs, in `directory` or where build_llama.sh puts them.

    Raises ToolMissingError with the command that builds it.
    """
    path = Path(directory).resolve() / name if directory else _prefix("--tools") / "bin" / name
    if not path.is_file():
        raise ToolMissingError(
            f"{path} is missing" if directory else f"{name} is not built; run: ./build_llama.sh --tools"
        )
    return path


@dataclass(frozen=True, slots=True)
class NativeSettings:
    """What a native measurement runs with, the same for both sides. Sizes in tokens.

    `kernels`: whether our side may use Lucid's kernels, where it loads the model by these settings; llama.cpp's tools
    have their own.
    """

    model: str
    threads: int
    flash_attention: str = "auto"
    n_batch: int = 2048
    n_ubatch: int = 512
    kv_type: str = "f16"
    poll: int = 50
    kv_unified: bool = False
    tools: str | None = None
    kernels: bool = True

    def common_flags(self) -> list[str]:
        """These settings as flags that llama-bench and llama-batched-bench share."""
        return [
            *("-m", self.model, "-t", str(self.threads), "-fa", self.flash_attention),
            *("-b", str(self.n_batch), "-ub", str(self.n_ubatch)),
            *("-ctk", self.kv_type, "-ctv", self.kv_type, "--poll", str(self.poll)),
        ]


def _run(command: list[str], timeout: float) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL)
    if done.returncode != 0:
        raise ToolFailedError(f"{' '.join(command)} ended with code {done.returncode}:\n{done.stderr[-1000:]}")
    return done.stdout


def bench(settings: NativeSettings, prompt: int, generate: int, depth: int, timeout: float = 600.0) -> float:
    """One run of llama-bench, warm-up included, as tokens per second: `prompt` tokens or `generate` tokens at `depth`.

    One of the two must be 0. Raises ToolMissingError, ToolFailedError, subprocess.TimeoutExpired.
    """
    sizes = ["-p", str(prompt), "-n", str(generate), "-d", str(depth), "-r", "1", "-ngl", "0", "-o", "json"]
    output = _run([str(tool("llama-bench", settings.tools)), *settings.common_flags(), *sizes], timeout)
    return float(json.loads(output)[0]["avg_ts"])


def batched_bench(
    settings: NativeSettings, prompt: int, generate: int, sequences: int, timeout: float = 900.0
) -> float:
    """One run of llama-batched-bench: decode rate of `sequences` behind `prompt` tokens each, tokens/s over all.

    Raises ToolMissingError, ToolFailedError, subprocess.TimeoutExpired.
    """
    context = sequences * cells(prompt + generate)
    sizes = ["-npp", str(prompt), "-ntg", str(generate), "-npl", str(sequences), "-c", str(context), "-ngl", "0"]
    layout = ["--kv-unified"] if settings.kv_unified else ["--no-kv-unified"]
    program = str(tool("llama-batched-bench", settings.tools))
    output = _run([program, *settings.common_flags(), *layout, *sizes, "--output-format", "jsonl"], timeout)
    for line in output.splitlines():
        if line.startswith("{"):
            return float(json.loads(line)["speed_tg"])
    raise ToolFailedError("llama-batched-bench printed no result: is the context too small?")


def cells(tokens: int) -> int:
    """Context cells of a sequence that may have so many tokens: llama.cpp rounds up to a multiple of 256."""
    return -(-tokens // 256) * 256
