"""Is the calibration's choice the fastest? Every combination by brute force, beside what the engine chose.

Flash attention on and off, both KV layouts, and every number of threads apart for single tokens and for batches. All
combinations take turns at every measurement, several times over; each is judged by the time of the reference request
that calibration optimises (`engine.calibration`).
"""

from __future__ import annotations

import argparse
import itertools
import os
import statistics
from collections.abc import Sequence
from contextlib import ExitStack

from bench.report import end_cleanly, fail, machine, machine_line, progress, say, table, write_json
from engine import EngineSettings, Plan, make_plan
from engine.calibration import CHUNK, CHUNK_ON_GPU, Candidate, calibrate, trial_plan
from engine.plan import make_context, offloads
from engine.probe import PIECES, Probe
from llama_native import ContextError, LlamaError, Model

#: The choice may be this much slower than the fastest combination.
BAR = 1.03

#: The seconds that measuring may take, for the demo model.
SECONDS_BAR = 15.0


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.calibration", description=__doc__)
    parser.add_argument("--model", default="model/model.gguf", help="GGUF file (%(default)s)")
    parser.add_argument("--rounds", type=int, default=15, help="turns of each combination (%(default)s)")
    parser.add_argument("--json", metavar="FILE", help="write the results there")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    options = parser.parse_args(arguments)
    if options.rounds < 1:
        parser.error("--rounds must be at least 1")
    return options


def brute_force(model: Model, plan: Plan, rounds: int) -> list[Candidate]:
    """Every combination that llama.cpp accepts, measured; a combination's figures are medians over all rounds."""
    counts = sorted({1, max(1, plan.threads // 2), plan.threads})
    with ExitStack() as contexts, progress(rounds * len(PIECES), "all combinations", "round") as bar:
        probes = []
        for flash, unified in itertools.product((False, True), repeat=2):
            try:
                context = contexts.enter_context(make_context(model, trial_plan(plan, flash, unified)))
            except ContextError as error:
                say(f"left out: {_name(flash, unified)}: {error}")
            else:
                probes.append(Probe(context, flash, unified, CHUNK_ON_GPU if offloads(model) else CHUNK))
        for probe in probes:
            probe.lead()
        keys = list(itertools.product(range(len(probes)), counts))
        depths: list[dict[tuple[int, int], list[tuple[float, float, float]]]] = []
        for size in PIECES:
            for probe in probes:
                probe.prefill(size)
                probe.spread()
            times: dict[tuple[int, int], list[tuple[float, float, float]]] = {key: [] for key in keys}
            for turn in range(rounds):
                for index, threads in keys[turn % len(keys) :] + keys[: turn % len(keys)]:
                    probe = probes[index]
                    probe.context.set_threads(threads, threads)
                    one = min(probe.step(1) for _ in range(3))
                    chunk = probe.chunk(probe.chunk_size) / probe.chunk_size
                    times[index, threads].append((one, probe.step(plan.parallel), chunk))
                bar.update()
            depths.append(times)
        medians = {
            key: [
                statistics.fmean(statistics.median(row[i] for row in times[key]) for times in depths) for i in range(3)
            ]
            for key in keys
        }
        result = []
        for index, threads, batch in itertools.product(range(len(probes)), counts, counts):
            result.append(
                Candidate(
                    flash_attention=probes[index].flash_attention,
                    unified=probes[index].unified,
                    threads=threads,
                    threads_batch=batch,
                    chunk=max(PIECES),
                    prefill_token=medians[index, batch][2],
                    decode_one=medians[index, threads][0],
                    decode_all=medians[index, batch][1],
                    parallel=plan.parallel,
                )
            )
        return sorted(result, key=lambda item: item.cost)


def main(arguments: Sequence[str] | None = None) -> int:
    """Calibrate anew, try everything, compare; exit code 1 when the choice is not within the bars."""
    end_cleanly()
    options = parse_arguments(arguments)
    description = machine()
    try:
        with Model(options.model) as model:
            settings = EngineSettings()
            plan = make_plan(model, settings)
            chosen = calibrate(model, settings, plan, remembered=False)
            if chosen is None:
                fail("this model cannot be calibrated: there is no choice to judge")
            everything = brute_force(model, plan, options.rounds)
    except (LlamaError, OSError) as error:
        fail(str(error))
    ours = next((item for item in everything if _same(item, chosen.chosen)), None)
    if ours is None:
        fail("llama.cpp now refuses the combination that was chosen; is memory short? The reasons are above")
    best = everything[0]
    rows = [
        [
            _name(item.flash_attention, item.unified),
            item.threads,
            item.threads_batch,
            item.prefill_token * 1000,
            item.decode_one * 1000,
            item.decode_all * 1000,
            item.cost / best.cost,
            "chosen" if item is ours else "",
        ]
        for item in everything
    ]
    header = ["combination", "threads", "for batches", "prefill ms", "decode 1 ms", f"decode {best.parallel} ms"]
    print(machine_line(description))
    print(f"{options.model}, {options.rounds} rounds; calibration took {chosen.seconds:.1f} s")
    print(table([*header, "cost / best", ""], rows, options.markdown))
    ratio = ours.cost / best.cost
    quick = chosen.seconds <= SECONDS_BAR
    print(f"chosen / best: {ratio:.3f}, bar <= {BAR}: {'pass' if ratio <= BAR else 'FAIL'}")
    print(f"calibration: {chosen.seconds:.1f} s, bar <= {SECONDS_BAR:.0f} s: {'pass' if quick else 'FAIL'}")
    if options.json:
        arguments_used = {"model": os.fspath(options.model), "rounds": options.rounds}
        results = {"ratio": ratio, "seconds": chosen.seconds, "rows": rows}
        write_json(options.json, "bench.calibration", arguments_used, results)
    return 0 if ratio <= BAR and quick else 1


def _name(flash_attention: bool, unified: bool) -> str:
    return f"flash attention {'on' if flash_attention else 'off'}, {'unified' if unified else 'streams'}"


def _same(one: Candidate, other: Candidate) -> bool:
    names = ("flash_attention", "unified", "threads", "threads_batch")
    return all(getattr(one, name) == getattr(other, name) for name in names)


if __name__ == "__main__":
    raise SystemExit(main())
