"""A model on RPC servers, as clients see it: while they live, when one dies, and when one does not come back."""

import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from server_process import ServerProcess, eventually

from llama_native import ModelParams, SplitMode
from server import config
from server.devices import model_params
from tests.rpc_server import RpcServer, build

Launch = Callable[..., ServerProcess]
SMALL = {"MODEL_PARALLEL": "2", "MODEL_CONTEXT": "256", "MODEL_GPU_LAYERS": "999"}


@pytest.fixture(scope="module")
def prefix() -> Path:
    """The build with its RPC backend."""
    return build()


def only_failure(server: ServerProcess) -> str:
    (line,) = [line for line in server.output.splitlines() if " server: cannot load " in line]
    assert "Traceback" not in server.output
    return line


def rest(sock: socket.socket) -> bytes:
    """All that still comes, until the connection ends or is broken off."""
    received = b""
    with sock, suppress(ConnectionResetError):
        while more := sock.recv(65536):
            received += more
    return received


def test_a_server_that_dies_and_comes_back(launch: Launch, prefix: Path) -> None:
    with RpcServer(prefix) as first, RpcServer(prefix) as second:
        addresses = f"{first.address},{second.address}"
        server = launch(MODEL_RPC=addresses, MODEL_TENSOR_SPLIT="1,1", GRACEFUL_TIMEOUT="1", **SMALL)
        server.wait_ready()
        assert f"the RPC server at {second.address} lends RPC1" in server.output
        expected = server.chat("Who was Ada Lovelace?", max_tokens=8).json["choices"]

        stream = server.open_chat("Tell a story.", stream=True, max_tokens=200, ignore_eos=True)
        assert b"200 OK" in stream.recv(4096)
        second.kill()
        assert b"[DONE]" not in rest(stream)
        second.start()

        # The worker ended with the connection; another has taken its place and its devices.
        eventually(lambda: server.output.count(" server: ready: ") == 2, "the model is loaded again")
        assert server.chat("Who was Ada Lovelace?", max_tokens=8).json["choices"] == expected

        second.kill()
        assert rest(server.open_chat("hi")) == b""  # found out by the first request that needs it
        assert server.wait_exit() == 3
    assert f"no RPC server can be reached at {second.address}: " in only_failure(server)


def test_a_server_that_answers_no_more_while_the_model_is_loaded(launch: Launch, prefix: Path) -> None:
    with RpcServer(prefix) as lender:
        server = launch(MODEL_RPC=lender.address, LOADING_STALL_SECONDS="3", **SMALL)
        eventually(lambda: f"the RPC server at {lender.address} lends" in server.output, "it is asked for its devices")
        lender.pause()
        assert server.wait_exit() == 3
    assert "loading has made no step for " in only_failure(server)


def test_too_little_memory_for_the_layers_that_stay(launch: Launch, prefix: Path) -> None:
    """Five layers leave: the output, which has no cache, and four of thirty."""
    sizes = {"MODEL_PARALLEL": "256", "MODEL_CONTEXT": "262144", "MODEL_GPU_LAYERS": "5"}
    with RpcServer(prefix) as lender:
        server = launch(MODEL_RPC=lender.address, **sizes)
        assert server.wait_exit() == 3
    assert "in f16 takes 1340.03 GB" in only_failure(server)  # 26 thirtieths of 1546.19


def test_how_the_model_is_placed() -> None:
    variables = {"MODEL_GPU_LAYERS": "20", "MODEL_SPLIT_MODE": "none", "MAIN_GPU": "1"}
    params = ModelParams(n_gpu_layers=20, split_mode=SplitMode.NONE, main_gpu=1)
    assert model_params(config.read(variables)) == params
    assert model_params(config.read({})) == ModelParams()


def test_more_shares_than_devices(launch: Launch) -> None:
    server = launch(MODEL_TENSOR_SPLIT="3,1", **SMALL)
    assert server.wait_exit() == 3
    assert "MODEL_TENSOR_SPLIT has 2 shares, but there are 0 GPUs and RPC devices" in only_failure(server)
