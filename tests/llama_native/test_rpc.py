"""Layers on other machines: two real servers on loopback compute the same, and what cannot work is said."""

from __future__ import annotations

import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import llama_native as ln
from tests.rpc_server import RpcServer, build

#: Largest difference of a logit, beside a standard deviation of about 5. Here the servers run the same kernels on the
#: same CPU, and it was 0; another CPU's vector instructions would add in another order.
TOLERANCE = 1e-3


@pytest.fixture(scope="session")
def prefix() -> Path:
    """The build with its RPC backend."""
    return build()


def child(root: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.llama_native.rpc_child", *arguments]
    return subprocess.run(
        command, cwd=root, env={**os.environ, **variables}, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.parametrize(
    ("mode", "shares", "layers"),
    # The demo model has 30 layers and an output layer; they go in order, by the shares.
    [("LAYER", "3,1", {"RPC0": 24, "RPC1": 7}), ("LAYER", "0,1", {"RPC1": 31}), ("NONE", "1,1", {"RPC1": 31})],
)
def test_two_servers_compute_the_same_logits(
    prefix: Path, root: Path, chat_model_path: Path, mode: str, shares: str, layers: dict[str, int]
) -> None:
    with RpcServer(prefix) as first, RpcServer(prefix) as second:
        done = child(root, str(chat_model_path), mode, shares, first.address, second.address)
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    assert report["before"] == ["CPU"]
    assert report["names"] == [["RPC0"], ["RPC1"]]
    assert report["again"]
    assert report["devices"] == ["CPU", "RPC0", "RPC1"]
    assert report["layers"] == layers
    assert report["spread"] > 1
    assert report["difference"] < TOLERANCE
    assert report["same_tokens"]


@contextmanager
def answering(answer: bytes | None) -> Iterator[str]:
    """An address where somebody takes a connection and answers with these bytes; None: stays silent."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(4096)
                if answer is not None:
                    connection.sendall(answer)
                else:
                    connection.recv(4096)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        thread.join()


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"", "is not an RPC server"),
        (b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n", "is not an RPC server"),
        (struct.pack("<Q3B25x", 28, 200, 0, 0), "version 200.0.0 of the protocol"),
        (None, "did not answer within 0.2 s; it serves one client at a time"),
    ],
)
@pytest.mark.usefixtures("prefix")
def test_an_address_where_somebody_else_is(answer: bytes | None, reason: str) -> None:
    with answering(answer) as address, pytest.raises(ln.RpcError, match=reason) as caught:
        ln.add_rpc_server(address, answer_timeout=0.2)
    assert address in str(caught.value)
    assert [device.name for device in ln.devices()] == ["CPU"]


@pytest.mark.usefixtures("prefix")
@pytest.mark.parametrize("host", ["127.0.0.1", "no-such-host.invalid"])
def test_an_address_where_nobody_is(host: str) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"{host}:{unused.getsockname()[1]}"
        with pytest.raises(ln.RpcError, match=f"no RPC server can be reached at {address}"):
            ln.add_rpc_server(address, connect_timeout=0)


def test_a_build_without_the_backend(prefix: Path, root: Path, chat_model_path: Path, tmp_path: Path) -> None:
    libraries = tmp_path / "lib"
    shutil.copytree(prefix / "lib", libraries, symlinks=True, ignore=lambda *_: ["libggml-rpc.so"])
    done = child(root, str(chat_model_path), "LAYER", "1", "127.0.0.1:1", LD_LIBRARY_PATH=str(libraries))
    assert done.returncode == 1
    assert "RpcError: this build of llama.cpp has no RPC backend; run build_llama.sh --rpc" in done.stderr
