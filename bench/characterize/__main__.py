"""Characterise a model on a machine: sweeps, then one self-contained HTML report and its JSON.

Without --url, the engine runs in this process and native loops are measured too; with it, any OpenAI-compatible server
is asked. Every measurement is written at once: after Ctrl-C, a crash or a kill, the same command goes on.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from bench.characterize import document as documents
from bench.characterize import plan as plans
from bench.characterize.compare import names_of
from bench.characterize.document import SCHEMA, Document
from bench.characterize.energy import EnergyMeter
from bench.characterize.engine_target import EngineTarget
from bench.characterize.figures import compute
from bench.characterize.http_target import HttpTarget
from bench.characterize.identity import changes, identify
from bench.characterize.native import NativeLoops, footprint, model_facts
from bench.characterize.options import parse_arguments
from bench.characterize.page import progress, render, render_comparison, what_is_missing, write_text
from bench.characterize.plan import QUICK, Sizes, make_plan
from bench.characterize.sweep import Sweep
from bench.characterize.target import TargetFailedError
from bench.llama_tools import ToolFailedError
from bench.report import end_cleanly, fail, machine, machine_line, say, table
from engine import EngineError, EngineSettings
from llama_native import GgmlType, LlamaError, Model, available_cpus, build_info, system_info

_OR_ELSE: Final = "--fresh starts over, --output NAME writes elsewhere"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure or compare. Exit codes: 0 done, 2 wrong usage or no target, 130 interrupted (and to be gone on with)."""
    end_cleanly()
    options = parse_arguments(arguments)
    try:
        return _compare(options) if options.compare else _characterize(options)
    except (OSError, ValueError, LlamaError, EngineError, TargetFailedError, documents.NotACharacterisation) as error:
        fail(str(error))
    except KeyboardInterrupt:
        say("interrupted before anything was measured")
        return 130


def _compare(options: argparse.Namespace) -> int:
    paths = [Path(name) for name in options.compare]
    first, second = (documents.read(path) for path in paths)
    names = names_of(*paths)
    page, found = render_comparison(first, second, names)
    target = Path(f"{options.output or 'comparison'}.html")
    write_text(target, page)
    rows = [(row.name, row.first, row.second, row.ratio, row.verdict) for row in found]
    print(table(("", *names, "B / A", ""), rows))
    print(f"report: {target}")
    return 0


def _characterize(options: argparse.Namespace) -> int:
    path = Path(f"{options.output or 'characterization'}.json")
    begun = None if options.fresh or not path.exists() else documents.read(path)
    wanted = _identity(options)
    if begun is not None and begun.options != wanted:
        fail(f"{path} holds another characterisation; {_OR_ELSE}")
    if begun is not None and begun.finished:
        say(f"{path} is finished: drawing its report again (--fresh measures anew)")
        return _report(begun, path)
    begin = time.monotonic()
    salt = str(time.time_ns())
    with ExitStack() as stack:
        model = stack.enter_context(Model(options.model)) if options.model else None
        target = stack.enter_context(closing(_target(options, model, salt)))
        same = identify(target, machine(), model.path if model else None)
        if begun is not None and (changed := list(changes(begun.identity, same))):
            fail("\n  ".join((f"{path} holds measurements of something else; {_OR_ELSE}", *changed)))
        document = begun or _begin(options, wanted, same, target, model, begin)
        document.setup_seconds += time.monotonic() - begin
        _say_plan(document, begun is not None)
        native = NativeLoops(model, target.engine.plan) if model and isinstance(target, EngineTarget) else None
        try:
            Sweep(document, target, native, salt, lambda: documents.write(path, document)).run()
        except KeyboardInterrupt:
            _report(document, path)
            say(f"interrupted with {progress(document)} done; the same command goes on")
            return 130
    _report(document, path)
    say(f"took {(time.monotonic() - begin) / 60:.1f} min")
    return 0


def _target(options: argparse.Namespace, model: Model | None, salt: str) -> HttpTarget | EngineTarget:
    if options.url:
        return HttpTarget(
            options.url,
            name=options.name,
            api_key=options.api_key,
            ignore_eos=not options.no_ignore_eos,
            timeout=options.timeout,
            salt=salt,
            gpu_energy=options.gpu_energy,
        )
    assert model is not None
    say("starting the engine; its first start calibrates it")
    return EngineTarget(model, salt=salt, settings=EngineSettings(calibrate=not options.no_calibrate))


def _identity(options: argparse.Namespace) -> dict[str, Any]:
    """The options that make a characterisation what it is: others do not keep it from going on."""
    kept = ("url", "model", "name", "no_ignore_eos", "no_calibrate", "gpu_energy", "quick", "minutes", "rounds")
    sizes = ("prompts", "outputs", "load", "threads", "batches")
    return {name: getattr(options, name) for name in (*kept, *sizes)}


def _begin(
    options: argparse.Namespace,
    wanted: dict[str, Any],
    same: dict[str, str],
    target: HttpTarget | EngineTarget,
    model: Model | None,
    begin: float,
) -> Document:
    """A new document: everything about the setting, memory of contexts, and the plan for the time that is left."""
    engine = target.describe()
    missing = []
    facts = model_facts(model, GgmlType[str(engine.get("kv_type", "f16")).upper()]) if model is not None else None
    local, sizes = True, QUICK if options.quick else Sizes()
    if isinstance(target, HttpTarget):
        local = target.local
        where = {"url": target.url, "model": target.name, "local": "yes" if local else "no"}
        sizes = replace(sizes, batch=())
        missing = _missing_over_http(target, facts is not None)
        context = engine.get("context")
    else:
        where = {"model": options.model}
        cpus = available_cpus()
        sizes = replace(sizes, threads=tuple(sorted({min(2**i, cpus) for i in range(cpus.bit_length() + 1)})))
        context = target.engine.context_size
    if facts is not None and local:
        sizes = replace(sizes, bandwidth=(available_cpus(),))
    if facts is not None and facts.experts:
        missing.append("Roofline: which experts a token uses is not known, so neither are the bytes it reads.")
    if local and (reason := EnergyMeter(gpus=options.gpu_energy).missing):
        missing.append(f"Energy a token: {reason}.")
    budget = options.minutes * 60
    memory = None
    if model is not None and isinstance(target, EngineTarget):
        try:
            left = max(1.0, budget - (time.monotonic() - begin))
            memory = footprint(model.path, target.engine.plan.kv_type.name.lower(), timeout=left)
        except (ToolFailedError, subprocess.TimeoutExpired) as error:
            missing.append(f"Memory of contexts: {error}")
    sizes = _overridden(sizes, options)
    spent = time.monotonic() - begin
    return Document(
        schema=SCHEMA,
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        target=where,
        options=wanted,
        identity=same,
        machine=machine(),
        build={} if options.url else {**build_info(), "cpu features": system_info().strip(" |")},
        engine=engine,
        model=facts,
        plan=make_plan(sizes, target.pace, budget, context if isinstance(context, int) else None, spent),
        footprint=memory,
        missing=missing,
    )


def _overridden(sizes: Sizes, options: argparse.Namespace) -> Sizes:
    """Sizes with what the command line says instead."""
    given = {"prompts": "prompt", "outputs": "output", "load": "load", "threads": "threads", "batches": "batch"}
    chosen = {
        field: tuple(sorted(set(getattr(options, name)))) for name, field in given.items() if getattr(options, name)
    }
    if options.url:
        chosen = {field: values for field, values in chosen.items() if field not in ("threads", "batch")}
    if options.rounds:
        chosen["rounds"] = dict.fromkeys(sizes.rounds, options.rounds)  # type: ignore[assignment]
    return replace(sizes, **chosen)  # type: ignore[arg-type]


def _missing_over_http(target: HttpTarget, has_model: bool) -> list[str]:
    missing = ["Threads, batches without a scheduler, memory of contexts: only without --url, in this process."]
    if not has_model:
        missing.append("KV cache and roofline by theory: name the server's GGUF file with --model.")
    if not target.has_phases:
        missing.append("Share of each phase: this server's responses have no timings.phases.")
    if not target.has_usage:
        missing.append("Token counts: this server sends no usage, so chunks were counted and prompt sizes are guesses.")
    if not target.local:
        missing.append("Energy and memory bandwidth: the server runs on another machine.")
    return missing


def _say_plan(document: Document, goes_on: bool) -> None:
    plan = document.plan
    say(machine_line(document.machine))
    word = "going on with the plan" if goes_on else "plan"
    say(f"{word}: about {plan.seconds / 60:.1f} of at most {plan.budget / 60:g} minutes")
    say(f"  before it, loading and calibrating took {document.setup_seconds / 60:.1f} minutes of them")
    for row in plans.describe(plan):
        say(row)
    for line in plan.left_out:
        say(f"  left out: {line}")


def _report(document: Document, path: Path) -> int:
    """Compute the figures, write both files, print what the figures say."""
    document.figures = compute(document)
    documents.write(path, document)
    page = path.with_suffix(".html")
    write_text(page, render(document))
    for finding in document.figures.findings:
        print(f"- {finding.title}. {finding.text} {finding.advice}".rstrip())
    for line in what_is_missing(document):
        print(f"missing: {line}")
    print(f"report: {page}   data: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
