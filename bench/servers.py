"""How each server that we compare is started: ours, llama-server (as it comes and hand-tuned), llama-cpp-python's.

All get the same model file, threads, number of slots and context; what else they are told is written here, once.
"""

from __future__ import annotations

import argparse
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench import ENVIRONMENT
from bench.llama_tools import ToolMissingError, library_folder, pinned
from bench.ports import free_port
from bench.processes import ServerProcess
from engine import plan

TUNED: tuple[str, ...] = ("-fa off", "GOMP_SPINCOUNT=1000")
"""What may make llama-server faster than its defaults on a CPU, and is always tried. Which of them is faster depends on
the workload: flash attention is the slower choice at depth. GOMP_SPINCOUNT=1000 is what our server gives itself."""

MORE_TUNED: tuple[str, ...] = (
    "GOMP_SPINCOUNT=1000 -fa off",
    "GLIBC_TUNABLES=glibc.malloc.hugetlb=1",
    "-ub 64",
    "-b 128 -ub 128",
    "-fa off -b 128 -ub 128",
    "-kvu",
    "-fa off -kvu",
    "--cache-reuse 64",
)
"""More to try, on request. Huge pages, as our server asks for them; prompts in pieces of a flash-attention tile, or
small ones that stall streams for less; one table of cells for all slots; parts of a cached prompt that have moved."""

_ROOT = Path(__file__).resolve().parent.parent


def setting(text: str) -> tuple[str, str]:
    """NAME=VALUE on a command line: a variable of a server. Raises argparse.ArgumentTypeError for anything else."""
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value


@dataclass(frozen=True, slots=True)
class Common:
    """What every server gets: model file, compute threads, slots, context tokens of a slot."""

    model: str
    threads: int
    slots: int
    slot_context: int


@dataclass(frozen=True, slots=True)
class Peer:
    """A server to measure: `start` launches a fresh process; `extra` is added to every request body.

    `step_seconds`: its step-time target, if it has one. `kernels`: it uses Lucid's kernels. `one_at_a_time`: it answers
    one request after the other.
    """

    name: str
    start: Callable[[], ServerProcess]
    model_name: str = "rusty_llm"
    extra: dict[str, Any] = field(default_factory=dict)
    note: str = ""
    step_seconds: float | None = None
    kernels: bool = False
    one_at_a_time: bool = False


def ours(common: Common, environment: dict[str, str] | None = None, name: str = "lucid") -> Peer:
    """`python -m server` with its own choices; no knowledge, so that prompts are the same as everyone's.

    As many requests may wait as come, as with the others. `environment` sets further configuration variables.
    """

    def start() -> ServerProcess:
        port = free_port()
        variables = {
            "MODEL_PATH": common.model,
            "MODEL_THREADS": str(common.threads),
            "MODEL_PARALLEL": str(common.slots),
            "MODEL_CONTEXT": str(common.slot_context),
            "KNOWLEDGE_MODE": "off",
            "QUEUE_LIMIT": "1000",
            "HTTP_ADDRESS": f"127.0.0.1:{port}",
            "PROMETHEUS_HTTP_ADDRESS": f"127.0.0.1:{free_port()}",
            "PYTHONPATH": str(_ROOT),
        }
        return ServerProcess([sys.executable, "-m", "server"], port, variables | (environment or {}))

    shown = " ".join(f"{variable}={value}" for variable, value in (environment or {}).items())
    step, kernels = (
        (environment or {}).get(variable) or ENVIRONMENT.get(variable) or default
        for variable, default in (("MODEL_STEP_MS", "0"), ("MODEL_KERNELS", "on"))
    )
    seconds = int(step) / 1000 if step.isdecimal() else 0.0  # the server itself refuses anything else
    return Peer(
        name,
        start,
        note=f"python -m server, {shown or 'its defaults'}",
        step_seconds=seconds or plan.STEP_SECONDS,
        kernels=kernels.lower() == "on",
    )


def llama_server(common: Common, program: Path, flags: str = "") -> Peer:
    """llama-server with its defaults and `flags` added; leading NAME=VALUE words are environment variables."""
    words = shlex.split(flags)
    environment = {}
    while words and "=" in words[0] and not words[0].startswith("-"):
        variable, _, value = words.pop(0).partition("=")
        environment[variable] = value

    def start() -> ServerProcess:
        port = free_port()
        command = [
            *(str(program), "-m", common.model, "-t", str(common.threads), "-np", str(common.slots)),
            *("-c", str(common.slots * common.slot_context), "--host", "127.0.0.1", "--port", str(port)),
            *("--offline", "--no-ui", *words),
        ]
        return ServerProcess(command, port, environment, ready="/health")

    return Peer(f"llama-server {flags}".rstrip(), start, note=flags or "its defaults")


def llama_cpp_python(common: Common, python: str = sys.executable) -> Peer:
    """llama-cpp-python's server, run by the interpreter `python` on our libllama; it answers one request at a time.

    At its defaults, a new request cuts the running one short: that is switched off. It knows no ignore_eos: a logit
    bias forbids the tokens that end an answer.

    Raises ToolMissingError when `python` cannot import it, or has it in another version than our library's source.
    """
    library = {"LLAMA_CPP_LIB_PATH": str(library_folder())}
    code = "import llama_cpp.server.app; print(llama_cpp.__version__)"
    environment = {**ENVIRONMENT, **library}
    try:
        found = subprocess.run([python, "-c", code], capture_output=True, text=True, timeout=120, env=environment)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ToolMissingError(f"llama-cpp-python's server: {error}") from None
    version = found.stdout.split()[-1] if found.returncode == 0 else "none"
    if version != (wanted := pinned("version")):
        raise ToolMissingError(
            f"llama-cpp-python's server: {python} has {version}, not {wanted}; run: "
            f"CMAKE_ARGS=-DLLAMA_BUILD=OFF {python} -m pip install 'llama-cpp-python[server]=={wanted}'"
        )

    def start() -> ServerProcess:
        port = free_port()
        command = [
            *(python, "-m", "llama_cpp.server", "--model", common.model, "--host", "127.0.0.1"),
            *("--port", str(port), "--n_threads", str(common.threads), "--n_ctx", str(common.slot_context)),
            *("--interrupt_requests", "false", "--verbose", "false"),
        ]
        return ServerProcess(command, port, library, ready="/v1/models")

    bias = {"logit_bias": _end_bias(common.model)}
    return Peer("llama-cpp-python", start, extra=bias, note="the same libllama", one_at_a_time=True)


def _end_bias(model: str) -> dict[str, float]:
    from llama_native import Model, ModelParams

    with Model(model, ModelParams(vocab_only=True)) as loaded:
        return {str(token): -100.0 for token in loaded.vocab.eog_tokens}
