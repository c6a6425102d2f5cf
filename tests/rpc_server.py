"""Real `ggml-rpc-server` processes on loopback, each of them one CPU device that others may borrow."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
from pathlib import Path
from typing import Self

from bench.ports import free_port

ROOT = Path(__file__).resolve().parent.parent


def build() -> Path:
    """The prefix of the build in use, with the RPC backend added to it: two files, some seconds, once."""
    options = shlex.split(os.environ.get("LLAMA_OPTIONS", ""))
    command = ["bash", str(ROOT / "build_llama.sh"), *options, "--rpc"]
    return Path(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.strip())


class RpcServer:
    """One server process. It may be killed, and started again on its port."""

    def __init__(self, prefix: Path) -> None:
        self._program = prefix / "bin" / "ggml-rpc-server"
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        """Start the process; it listens a moment later."""
        command = [str(self._program), "--port", str(self.port), "--threads", "1"]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def kill(self) -> None:
        """End it as a power cut would, as far as its clients can tell."""
        self._process.kill()
        self._process.wait()

    def pause(self) -> None:
        """Stop it, so that it answers no more while its connections stay open."""
        self._process.send_signal(signal.SIGSTOP)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
