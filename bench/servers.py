"""How each server that we compare is started: ours, llama-server (two ways) and llama-cpp-python's.

All get the same model file, threads, number of slots and context; what else they are told is written here, once.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.llama_tools import ToolMissingError
from bench.processes import ServerProcess, free_port

TUNED_FLAGS: tuple[str, ...] = ("-fa", "off")
"""What made llama-server fastest here beyond its defaults; docs/BENCHMARKS.md lists what was tried."""

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
    """A server to measure: `start` launches a fresh process; `extra` is added to every request body."""

    name: str
    start: Callable[[], ServerProcess]
    model_name: str = "rusty_llm"
    extra: dict[str, Any] = field(default_factory=dict)
    note: str = ""


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
    return Peer(name, start, note=f"python -m server, {shown or 'its defaults'}")


def llama_server(common: Common, program: Path, name: str = "llama-server", flags: tuple[str, ...] = ()) -> Peer:
    """llama-server with its defaults and `flags` added; leading NAME=VALUE words are environment variables."""
    words = list(flags)
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

    return Peer(name, start, note=" ".join(flags) or "its defaults")


def llama_cpp_python(common: Common) -> Peer:
    """llama-cpp-python's server; it answers one request at a time and brings its own libllama.

    At its defaults, a new request cuts the running one short: that is switched off. It knows no ignore_eos: a logit
    bias forbids the tokens that end an answer.

    Raises ToolMissingError when the package or its server extra is not installed.
    """
    if importlib.util.find_spec("llama_cpp") is None or importlib.util.find_spec("starlette_context") is None:
        raise ToolMissingError(
            "llama-cpp-python's server is not installed; run: pip install 'llama-cpp-python[server]'"
        )

    def start() -> ServerProcess:
        port = free_port()
        command = [
            *(sys.executable, "-m", "llama_cpp.server", "--model", common.model, "--host", "127.0.0.1"),
            *("--port", str(port), "--n_threads", str(common.threads), "--n_ctx", str(common.slot_context)),
            *("--interrupt_requests", "false", "--verbose", "false"),
        ]
        return ServerProcess(command, port, ready="/v1/models")

    return Peer("llama-cpp-python", start, extra={"logit_bias": _end_bias(common.model)}, note="its own libllama")


def _end_bias(model: str) -> dict[str, float]:
    from llama_native import Model, ModelParams

    with Model(model, ModelParams(vocab_only=True)) as loaded:
        return {str(token): -100.0 for token in loaded.vocab.eog_tokens}
