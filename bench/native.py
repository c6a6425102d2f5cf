"""The native loop beside llama-bench and llama-batched-bench of the same build: what Python costs, what kernels gain.

Prefill and greedy decode at each depth, and decode of several sequences of each depth at once. All sides get the same
threads, thread pool, flash attention, batch sizes, KV types and context sizes, warm up first, and take turns. The
native loop also samples and detokenizes; llama-bench feeds random tokens. The bar is for llama.cpp's kernels on both
sides; then the native loop runs with our own (`llama_native/kernels/`).
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from bench import llama_tools
from bench.llama_tools import NativeSettings, ToolFailedError, ToolMissingError
from bench.rates import Point, measure, native_context, random_tokens
from bench.report import end_cleanly, fail, machine, machine_line, progress, table, write_json
from llama_native import Model, ModelParams, available_cpus, generate

BAR = 0.97


@dataclass
class Case:
    """One comparison: all sides return tokens/s for one run. `kernels`: ours again, with our own kernels."""

    name: str
    ours: Callable[[], float]
    theirs: Callable[[], float]
    kernels: Callable[[], float]
    our_rates: list[float] = field(default_factory=list)
    their_rates: list[float] = field(default_factory=list)
    kernel_rates: list[float] = field(default_factory=list)

    def run(self) -> None:
        """One run of each."""
        self.our_rates.append(self.ours())
        self.their_rates.append(self.theirs())
        self.kernel_rates.append(self.kernels())

    @property
    def ratio(self) -> float:
        """Median of ours / median of theirs."""
        return statistics.median(self.our_rates) / statistics.median(self.their_rates)

    @property
    def gain(self) -> float:
        """The same with our own kernels."""
        return statistics.median(self.kernel_rates) / statistics.median(self.their_rates)


def prefill_rate(model: Model, settings: NativeSettings, prompt: int, depth: int) -> float:
    """Tokens/s of `llama_native.generate` up to its first token, behind `depth` tokens, after a warm-up."""
    tokens = random_tokens(model, depth + prompt)
    with native_context(model, settings, depth + prompt, 1) as context:
        next(generate(context, tokens[depth:], max_tokens=1))
        context.memory.clear(data=False)
        if depth:
            next(generate(context, tokens[:depth], max_tokens=1))
        begin = time.perf_counter()
        next(generate(context, tokens[depth:], max_tokens=1))
        return prompt / (time.perf_counter() - begin)


def decode_rate(model: Model, settings: NativeSettings, tokens: int, depth: int) -> float:
    """Tokens/s of `llama_native.generate` after its first token, after a warm-up of one token."""
    prompt = random_tokens(model, max(depth, 1))
    with native_context(model, settings, len(prompt) + tokens, 1) as context:
        for _ in generate(context, prompt[:1], max_tokens=2, ignore_eog=True):
            pass
        context.memory.clear(data=False)
        stream = generate(context, prompt, max_tokens=tokens + 1, ignore_eog=True)
        next(stream)
        begin = time.perf_counter()
        count = sum(1 for _ in stream)
        seconds = time.perf_counter() - begin
    if count != tokens:
        raise RuntimeError(f"the native loop gave {count} tokens, not {tokens}")
    return count / seconds


def batch_rate(model: Model, settings: NativeSettings, point: Point) -> float:
    """Tokens/s over all sequences of a point."""
    return measure(model, settings, point).decode_rate


def cases(model: Model, fast: Model, settings: NativeSettings, options: argparse.Namespace) -> list[Case]:
    """Every comparison that was asked for; `fast`: the model with our kernels."""
    found = []
    for depth in options.depth:
        at = f" at depth {depth}" if depth else ""
        found += [
            Case(
                f"prefill {options.prompt}{at}",
                partial(prefill_rate, model, settings, options.prompt, depth),
                partial(llama_tools.bench, settings, options.prompt, 0, depth),
                partial(prefill_rate, fast, settings, options.prompt, depth),
            ),
            Case(
                f"decode {options.generate}{at}",
                partial(decode_rate, model, settings, options.generate, depth),
                partial(llama_tools.bench, settings, 0, options.generate, depth),
                partial(decode_rate, fast, settings, options.generate, depth),
            ),
        ]
    for prompt in options.sequences_prompt if options.sequences > 1 else ():
        point = Point(options.sequences, prompt, options.generate)
        for unified, layout in ((False, "streams"), (True, "unified")):
            chosen = replace(settings, kv_unified=unified)
            found.append(
                Case(
                    f"decode {options.generate}, {point.sequences} sequences of {point.depth}, {layout}",
                    partial(batch_rate, model, chosen, point),
                    partial(llama_tools.batched_bench, chosen, point.depth, point.generate, point.sequences),
                    partial(batch_rate, fast, chosen, point),
                )
            )
    return found


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.native", description=__doc__)
    parser.add_argument("--model", default="model/model.gguf", help="GGUF file (%(default)s)")
    parser.add_argument("--threads", type=int, default=available_cpus(), help="compute threads (all cores)")
    parser.add_argument("--prompt", type=int, default=512, help="tokens to prefill (%(default)s)")
    parser.add_argument("--generate", type=int, default=128, help="tokens to decode (%(default)s)")
    parser.add_argument("--depth", type=int, nargs="+", default=[0, 1024], help="context depths (0 1024)")
    parser.add_argument(
        "--sequences", type=int, default=8, help="sequences decoded at once; 1 leaves it out (%(default)s)"
    )
    parser.add_argument(
        "--sequences-prompt", type=int, nargs="+", default=[128, 1024], help="contexts of each of them (128 1024)"
    )
    parser.add_argument("--repeats", type=int, default=5, help="runs of each side (%(default)s)")
    parser.add_argument(
        "--flash-attention", choices=("auto", "on", "off"), default="auto", help="for both sides (%(default)s)"
    )
    parser.add_argument("--poll", type=int, default=50, help="polling level of the thread pool, 0 to 100 (%(default)s)")
    parser.add_argument(
        "--tools", metavar="DIR", help="directory of llama.cpp's tools (default: build_llama.sh --tools)"
    )
    parser.add_argument("--json", metavar="FILE", help="write the results there")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    options = parser.parse_args(arguments)
    smallest = min(options.threads, options.prompt, options.generate, options.sequences, options.repeats)
    if smallest < 1 or min(options.sequences_prompt) < 1 or min(options.depth) < 0 or not 0 <= options.poll <= 100:
        parser.error("sizes, --threads and --repeats must be at least 1, --depth at least 0, --poll 0 to 100")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all comparisons interleaved; exit code 1 when one is below the bar."""
    end_cleanly()
    options = parse_arguments(arguments)
    settings = NativeSettings(
        options.model, options.threads, options.flash_attention, poll=options.poll, tools=options.tools
    )
    try:
        llama_tools.tool("llama-bench", options.tools)
        with Model(options.model, ModelParams(kernels=False)) as model, Model(options.model) as fast:
            todo = cases(model, fast, settings, options)
            with progress(options.repeats * len(todo), "native loop and llama.cpp's tools", "pair") as bar:
                for _ in range(options.repeats):
                    for case in todo:
                        case.run()
                        bar.update()
    except (ToolMissingError, ToolFailedError, subprocess.TimeoutExpired) as error:
        fail(str(error))
    print(machine_line(machine()))
    print(
        f"{options.model}, {options.threads} threads, flash attention {options.flash_attention}, {options.repeats} runs"
    )
    rows = [
        [
            case.name,
            statistics.median(case.our_rates),
            statistics.median(case.their_rates),
            case.ratio,
            f">= {BAR}",
            "pass" if case.ratio >= BAR else "FAIL",
            statistics.median(case.kernel_rates),
            case.gain,
        ]
        for case in todo
    ]
    header = ("tok/s, medians", "ours", "llama.cpp", "ours / theirs", "bar", "", "our kernels", "our kernels / theirs")
    print(table(header, rows, options.markdown))
    if options.json:
        results = [
            {
                "name": case.name,
                "ours": case.our_rates,
                "theirs": case.their_rates,
                "ratio": case.ratio,
                "kernels": case.kernel_rates,
                "gain": case.gain,
            }
            for case in todo
        ]
        write_json(options.json, "bench.native", vars(options), results)
    return 0 if all(case.ratio >= BAR for case in todo) else 1


if __name__ == "__main__":
    sys.exit(main())
