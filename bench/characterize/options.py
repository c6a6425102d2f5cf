"""The command line of `python -m bench.characterize`."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

from bench import characterize

DEFAULT_MODEL = "model/model.gguf"


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse and check; `model` is filled in where neither --url nor --model is given."""
    parser = argparse.ArgumentParser(prog="python -m bench.characterize", description=characterize.__doc__)
    what = parser.add_argument_group("what is characterised")
    what.add_argument("--url", help="root of an OpenAI-compatible server, e.g. http://127.0.0.1:8080")
    what.add_argument(
        "--model",
        metavar="FILE",
        help=f"GGUF file to run in this process (default: {DEFAULT_MODEL}); with --url: the file that the server runs, "
        "for comparing with theory",
    )
    what.add_argument("--name", help="model name sent to the server (default: the first that it lists)")
    what.add_argument(
        "--api-key",
        default=os.environ.get("OPENAI_API_KEY"),
        help="sent as a bearer token (default: the variable OPENAI_API_KEY)",
    )
    what.add_argument("--no-ignore-eos", action="store_true", help="do not send ignore_eos (strict servers)")
    what.add_argument(
        "--no-calibrate", action="store_true", help="run the engine with its documented defaults (in-process only)"
    )
    what.add_argument(
        "--gpu-energy",
        action="store_true",
        help="count the GPUs' energy too: the server on this machine has layers there (--url only)",
    )
    what.add_argument("--timeout", type=float, default=300.0, help="seconds without a byte until a request fails")
    sweeps = parser.add_argument_group("what is measured")
    sweeps.add_argument("--quick", action="store_true", help="fewer sizes and rounds: a first look in about a minute")
    sweeps.add_argument("--minutes", type=float, default=8.0, help="the plan is cut to this (%(default)s)")
    sweeps.add_argument("--rounds", type=int, help="measurements of each point (default: 3 to 5)")
    for name, meaning in (
        ("prompts", "prompt lengths in tokens, also the depths of decode"),
        ("outputs", "answer lengths in tokens"),
        ("load", "numbers of clients"),
        ("threads", "compute threads of native loops (in-process only)"),
        ("batches", "sequences a step of native loops (in-process only)"),
    ):
        sweeps.add_argument(f"--{name}", type=int, nargs="+", metavar="N", help=meaning)
    results = parser.add_argument_group("results")
    results.add_argument(
        "--output", metavar="NAME", help="writes NAME.json and NAME.html (characterization; comparison)"
    )
    results.add_argument("--fresh", action="store_true", help="start over instead of going on with NAME.json")
    results.add_argument("--compare", nargs=2, metavar=("A.json", "B.json"), help="draw two results side by side")
    options = parser.parse_args(arguments)
    sizes = [*(options.prompts or ()), *(options.outputs or ()), *(options.load or ())]
    sizes += [*(options.threads or ()), *(options.batches or ())]
    if min((*sizes, 1)) < 1 or (options.rounds is not None and options.rounds < 1):
        parser.error("sizes and --rounds must be at least 1")
    if not options.minutes > 0 or not options.timeout > 0:
        parser.error("--minutes and --timeout must be positive")
    if max((*(options.batches or ()), 1)) > 256:
        parser.error("llama.cpp decodes at most 256 sequences a step")
    if min((*(options.outputs or ()), 2)) < 2:
        parser.error("--outputs must be at least 2: one token has no rate")
    if options.compare and (options.url or options.model):
        parser.error("--compare measures nothing: leave --url and --model away")
    if options.gpu_energy and not options.url:
        parser.error("--gpu-energy needs --url: the engine in this process uses no GPU")
    if not options.url and not options.model:
        options.model = DEFAULT_MODEL
    return options
