"""What grammars cost: streams whose answers follow one beside streams whose answers are free.

One engine, its calibration off so that nothing else varies. In every round each kind generates the same number of
tokens with the same prompts and sampling parameters, all streams at once; the kinds take turns and each round begins
with another. The grammars are such that no answer can end early. A ratio is the median over the rounds of constrained /
free output rate; "sampling" is the share of the engine's time that masks and sampling took.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from bench.report import end_cleanly, fail, machine, machine_line, progress, table, write_json
from engine import Constraint, Engine, EngineError, EngineSettings, Request, SamplingParams
from llama_native import LlamaError, Model, available_cpus
from server.structured import grammar
from server.structured.formats import HERMES

#: Constrained streams must reach this share of the free ones' rate.
BAR: Final = 0.85

FREE: Final = "free"

_TEXT: Final[dict[str, Any]] = {"type": "string", "minLength": 100_000}
_PERSON: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 30},
        "born": {"type": "integer", "minimum": 0, "maximum": 2100},
        "fields": {"type": "array", "items": {"enum": ["physics", "poetry", "printing"]}, "maxItems": 3},
        "alive": {"type": "boolean"},
    },
    "required": ["name", "born", "fields", "alive"],
    "additionalProperties": False,
}


def grammars(engine: Engine) -> dict[str, Constraint | None]:
    """What the kinds of answers must follow, by name."""
    special = engine.constraints.special
    people = {"type": "array", "items": _PERSON, "minItems": 10_000}
    strings = {"type": "object", "properties": {"text": _TEXT}, "required": ["text"], "additionalProperties": False}
    tools = {"get_person": _PERSON}
    sources = {
        "objects": grammar.answer(grammar.json_rule(people), special),
        "a long string": grammar.answer(grammar.json_rule(strings), special),
        "text, tools offered": grammar.tool_calls(HERMES, tools, special, required=False, parallel=True),
    }
    return {FREE: None, **{name: engine.constraints.compile(source) for name, source in sources.items()}}


@dataclass(frozen=True)
class Turn:
    """One run of all streams."""

    rate: float
    """Output tokens/s of all streams together, from the first submission to the last token."""
    sampling: float
    """Share of the engine's time that went into masks and sampling."""


def turn(engine: Engine, constraint: Constraint | None, options: argparse.Namespace, seed: int) -> Turn:
    """Run all streams once."""
    prompt = engine.model.vocab.tokenize(options.prompt)
    ends = {token: float("-inf") for token in engine.model.vocab.eog_tokens}  # answers of one length
    counters = engine.stats().counters
    sampling, busy = counters.sampling_seconds, counters.busy_seconds
    begin = time.perf_counter()
    generations = [
        engine.submit(
            Request(
                prompt,
                options.generate,
                SamplingParams(seed=seed + stream, logit_bias=tuple(ends.items())),
                constraint=constraint,
            )
        )
        for stream in range(options.streams)
    ]
    for generation in generations:
        for _ in generation:
            pass
    seconds = time.perf_counter() - begin
    tokens = sum(generation.completion_tokens for generation in generations)
    if tokens != options.streams * options.generate:
        raise RuntimeError(f"{tokens} tokens instead of {options.streams} x {options.generate}")
    counters = engine.stats().counters
    return Turn(tokens / seconds, (counters.sampling_seconds - sampling) / (counters.busy_seconds - busy))


def measure(engine: Engine, options: argparse.Namespace) -> dict[str, list[Turn]]:
    """The turns of all rounds by kind."""
    kinds = grammars(engine)
    names = list(kinds)
    turns: dict[str, list[Turn]] = {name: [] for name in names}
    for constraint in kinds.values():
        turn(engine, constraint, options, 0)  # the prompt into the cache, the grammar's automaton into memory
    with progress(options.rounds * len(names), "rounds", "run") as bar:
        for round_ in range(options.rounds):
            first = round_ % len(names)
            for name in names[first:] + names[:first]:
                turns[name].append(turn(engine, kinds[name], options, 100 * round_))
                bar.update()
    return turns


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.structured", description=__doc__)
    parser.add_argument("--model", default="model/model.gguf", help="GGUF file (%(default)s)")
    parser.add_argument("--threads", type=int, default=available_cpus(), help="compute threads (all cores)")
    parser.add_argument("--streams", type=int, default=8, help="answers at once (%(default)s)")
    parser.add_argument("--generate", type=int, default=64, help="tokens of each answer (%(default)s)")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each kind (%(default)s)")
    parser.add_argument("--prompt", default="Tell me about people who changed the world.", help="text of the prompt")
    parser.add_argument("--json", metavar="FILE", help="write the results there")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    options = parser.parse_args(arguments)
    for name in ("threads", "streams", "generate", "rounds"):
        if getattr(options, name) < 1:
            parser.error(f"--{name} must be at least 1")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; exit code 1 when a ratio misses the bar."""
    options = parse_arguments(arguments)
    end_cleanly()
    settings = EngineSettings(
        parallel=options.streams, context=options.generate + 256, threads=options.threads, calibrate=False
    )
    try:
        with Model(options.model) as model:
            engine = Engine(model, settings)
            engine.start()
            try:
                turns = measure(engine, options)
            finally:
                engine.close()
    except (LlamaError, EngineError) as error:
        fail(str(error))
    print(machine_line(machine()))
    rows: list[list[object]] = []
    ratios: dict[str, float] = {}
    rates = {name: [turn.rate for turn in found] for name, found in turns.items()}
    sampling = {name: statistics.median(turn.sampling for turn in found) for name, found in turns.items()}
    for name, found in rates.items():
        ratio = statistics.median(ours / free for ours, free in zip(found, rates[FREE], strict=True))
        verdict = "" if name == FREE else ("ok" if ratio >= BAR else "FAIL")
        ratios[name] = ratio
        rows.append([name, statistics.median(found), min(found), max(found), 100 * sampling[name], ratio, verdict])
    print(table(["answers", "tok/s", "min", "max", "sampling %", "of free", f">= {BAR}"], rows, options.markdown))
    if options.json:
        write_json(
            options.json,
            "bench.structured",
            vars(options),
            {"rates": rates, "sampling": sampling, "ratios": ratios, "bar": BAR},
        )
    return 0 if min(ratios.values()) >= BAR else 1


if __name__ == "__main__":
    sys.exit(main())
