"""Where the layers of the chat model go: GPUs of this machine, devices that RPC servers lend, or neither.

Turns the configuration into `ModelParams`, connecting to the servers of MODEL_RPC on the way. Knows variables and how
many devices there are; how layers are spread over them is llama.cpp's business.
"""

from __future__ import annotations

import logging
from typing import Final

from engine import InvalidRequest
from engine.plan import GPUS
from llama_native import ModelParams, SplitMode, add_rpc_server, devices
from server.config import Config

log = logging.getLogger("server")

#: How long to try to reach an RPC server, in seconds: it may start at the same time, or again because it died.
RPC_TIMEOUT: Final = 5.0


def model_params(config: Config) -> ModelParams:
    """Return how to load the chat model, when all RPC servers have answered.

    Every model that is loaded later may use their devices, so load what shall stay on this machine before. Raises
    `llama_native.RpcError` for a server that cannot be used and `InvalidRequest` for more shares than devices.
    """
    for address in config.model_rpc or ():
        # The worker that this one replaces on SIGHUP holds the server until its last answers are finished.
        names = add_rpc_server(str(address), RPC_TIMEOUT, RPC_TIMEOUT + config.graceful_timeout)
        log.info("the RPC server at %s lends %s", address, ", ".join(names))
    shares = config.model_tensor_split or ()
    count = sum(device.type in GPUS for device in devices())
    if len(shares) > count:
        raise InvalidRequest(
            "tensor_split", f"MODEL_TENSOR_SPLIT has {len(shares)} shares, but there are {count} GPUs and RPC devices"
        )
    return ModelParams(
        n_gpu_layers=config.model_gpu_layers,
        main_gpu=config.main_gpu,
        split_mode=SplitMode[config.model_split_mode.upper()],
        tensor_split=shares,
        kernels=config.model_kernels,
    )
