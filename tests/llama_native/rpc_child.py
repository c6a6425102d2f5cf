"""A process of its own for test_rpc.py: devices, once added, stay for the life of a process.

Computes the logits of a prompt and of greedy decode steps behind it, first on this machine, then on the RPC servers
named on the command line, and prints how they differ and which device got how many layers.

    python -m tests.llama_native.rpc_child MODEL SPLIT-MODE SHARES ADDRESS...
"""

from __future__ import annotations

import json
import logging
import re
import sys
from collections import Counter

import numpy as np
import numpy.typing as npt

import llama_native as ln

PROMPT = "Thom Rhubarb built a printer out of screws because"
STEPS = 16

assigned: list[str] = []


class Placement(logging.Handler):
    """Keeps the device of each layer, from llama.cpp's log."""

    def emit(self, record: logging.LogRecord) -> None:
        """Keep it if the line says so."""
        if match := re.search(r"layer +\d+ assigned to device (\w+)", record.getMessage()):
            assigned.append(match[1])


def compute(path: str, params: ln.ModelParams) -> tuple[npt.NDArray[np.float32], list[int]]:
    """The logits of every step (steps, vocabulary) and the tokens chosen."""
    with ln.Model(path, params) as model:
        options = ln.ContextParams(n_ctx=256, n_threads=1, flash_attention=ln.FlashAttention.OFF)
        with ln.Context(model, options) as context:
            tokens, rows, chosen = list(model.vocab.tokenize(PROMPT)), [], []
            position = 0
            for _ in range(STEPS):
                batch = ln.Batch(64)
                batch.extend(tokens, position, 0, output_last=True)
                context.decode(batch)
                position += len(tokens)
                rows.append(np.array(context.logits(len(tokens) - 1)))
                tokens = [int(rows[-1].argmax())]
                chosen += tokens
            return np.stack(rows), chosen


def main() -> None:
    """Compute twice and compare."""
    path, mode, shares, *addresses = sys.argv[1:]
    # The servers compute on plain weights, with llama.cpp's kernels.
    local = ln.ModelParams(use_extra_bufts=False, kernels=False)
    expected, tokens = compute(path, local)
    before = [device.name for device in ln.devices()]
    names = [ln.add_rpc_server(address) for address in addresses]
    again = [ln.add_rpc_server(address) for address in addresses]
    logger = logging.getLogger("llama_native")
    logger.setLevel(logging.DEBUG)
    logger.addHandler(Placement())
    remote = ln.ModelParams(
        kernels=False,
        n_gpu_layers=999,
        use_extra_bufts=False,
        split_mode=ln.SplitMode[mode],
        main_gpu=1,
        tensor_split=tuple(float(share) for share in shares.split(",")),
    )
    found, remote_tokens = compute(path, remote)
    report = {
        "before": before,
        "names": names,
        "again": again == names,
        "devices": [device.name for device in ln.devices()],
        "layers": Counter(assigned),
        "difference": float(np.abs(found - expected).max()),
        "spread": float(expected.std()),
        "same_tokens": tokens == remote_tokens,
    }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
