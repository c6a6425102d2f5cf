"""The report as one HTML file: style, pictures and numbers inside, nothing fetched from anywhere.

Knows documents and the template; charts come from `charts` and `diagrams`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, StrictUndefined

from bench.characterize.charts import Chart, Side, curve_charts
from bench.characterize.compare import Ratio, ratios
from bench.characterize.diagrams import diagrams
from bench.characterize.document import SCHEMA, Document
from bench.characterize.plan import NAMES
from bench.characterize.svg import style
from bench.characterize.units import amount, duration, size

#: Charts by the question that they answer.
GROUPS: Final = (
    ("One client", ("ttft", "prefill", "decode", "output")),
    ("Under load", ("load-rate", "load-latency", "load-itl")),
    ("Where the time goes", ("phases",)),
    ("What the machine can do", ("roofline", "batch", "threads")),
    ("Memory", ("memory",)),
    ("Energy", ("energy-output", "energy-load")),
)

Facts = list[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Group:
    """A section of charts."""

    title: str
    charts: list[Chart]


def render(document: Document) -> str:
    """The report of one characterisation."""
    charts = _charts([Side(document.figures, document.footprint)])
    return _page(
        title=f"{_model(document)} on {_short_cpu(document)}",
        subtitle=f"{_target(document)} · {document.started[:16].replace('T', ' ')} UTC",
        documents=[document],
        charts=charts,
        findings=document.figures.findings,
        missing=what_is_missing(document),
    )


def render_comparison(first: Document, second: Document, names: tuple[str, str]) -> tuple[str, list[Ratio]]:
    """The report of two side by side, and the ratios in it."""
    found = ratios(first.figures, second.figures)
    charts = _charts(
        [Side(each.figures, each.footprint, name) for each, name in zip((first, second), names, strict=True)]
    )
    page = _page(
        title=f"{names[0]} and {names[1]}",
        subtitle=f"A: {_target(first)}, {_short_cpu(first)} · B: {_target(second)}, {_short_cpu(second)}",
        documents=[first, second],
        charts=charts,
        findings=[],
        missing=[],
        ratios=found,
        sides=[f"A: {names[0]}", f"B: {names[1]}"],
    )
    return page, found


def _charts(sides: Sequence[Side]) -> list[Chart]:
    with style():
        return [*curve_charts(sides), *diagrams(sides)]


def _page(*, documents: Sequence[Document], charts: Sequence[Chart], **values: Any) -> str:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    folder = files("bench.characterize")
    by_key = {chart.key: chart for chart in charts}
    groups = [Group(title, [by_key[key] for key in keys if key in by_key]) for title, keys in GROUPS]
    unfinished = [document for document in documents if not document.finished]
    settings = [
        (f"{name} {letter}".strip(), facts)
        for letter, document in zip("AB" if len(documents) > 1 else [""], documents, strict=True)
        for name, facts in _settings(document)
    ]
    defaults: dict[str, Any] = {"ratios": [], "sides": [], "schema": SCHEMA}
    return environment.from_string((folder / "report.html").read_text("utf-8")).render(
        defaults
        | values
        | {
            "style": (folder / "report.css").read_text("utf-8"),
            "groups": groups,
            "settings": settings,
            "finished": not unfinished,
            "progress": ", ".join(progress(document) for document in unfinished),
        }
    )


def progress(document: Document) -> str:
    """How much of the plan is measured."""
    wanted = sum(document.plan.rounds[point.kind] for point in document.plan.points)
    return f"{len(document.samples)} of {wanted} measurements"


def what_is_missing(document: Document) -> list[str]:
    """What could not be measured or had to be left out, and why."""
    failed = {sample.point: sample.error for sample in document.samples if sample.error}
    times = Counter(sample.point for sample in document.samples if sample.error)
    measured = Counter(sample.point for sample in document.samples)
    return [
        *document.missing,
        *(f"Left out: {line}." for line in document.plan.left_out),
        *(
            f"{_named(point)} failed in {times[point]} of {measured[point]} rounds: {error}"
            for point, error in failed.items()
        ),
    ]


def _named(point: str) -> str:
    kind, _, count = point.partition("/")
    return f"{count} {NAMES[kind]}"


def _model(document: Document) -> str:
    facts = document.model
    return f"{facts.name} ({facts.description})" if facts else document.target["model"]


def _target(document: Document) -> str:
    return document.target.get("url") or "engine in-process"


def _short_cpu(document: Document) -> str:
    return f"{document.machine['cpu']}, {document.machine['cores']} cores"


def _settings(document: Document) -> Iterator[tuple[str, Facts]]:
    """Everything that the figures depend on."""
    machine, model, plan = document.machine, document.model, document.plan
    yield (
        "Machine" if document.target.get("local") != "no" else "Machine of the client (the server has its own)",
        [
            ("CPU", str(machine["cpu"])),
            ("cores", str(machine["cores"])),
            ("extensions", " ".join(machine["extensions"])),
            ("memory", size(machine["memory_bytes"])),
            ("kernel", f"Linux {machine['kernel']}"),
            ("Python", str(machine["python"])),
            *((curve.title, f"{size(curve.points[-1].median)}/s") for curve in _bandwidths(document)),
        ],
    )
    if model is not None:
        yield (
            "Model",
            [
                ("file", model.name),
                ("description", model.description),
                ("parameters", f"{model.params / 1e6:.1f} million"),
                ("weights", size(model.weight_bytes)),
                ("layers", str(model.layers)),
                ("trained context", f"{model.context} tokens"),
                ("KV a token", f"{model.kv_bytes} bytes = {model.kv_formula}"),
            ],
        )
    if document.engine:
        yield "Engine", [(name.replace("_", " "), _plain(value)) for name, value in document.engine.items()]
    if document.build:
        yield "Library build", [(name.replace("_", " "), _plain(value)) for name, value in document.build.items()]
    rounds = [
        (NAMES[kind], f"{' '.join(amount(p.size) for p in plan.points if p.kind == kind)} ({plan.rounds[kind]} rounds)")
        for kind in dict.fromkeys(point.kind for point in plan.points)
    ]
    measured = sum(sample.seconds for sample in document.samples)
    yield (
        "Measurements",
        [
            ("target", _target(document)),
            ("started", document.started),
            ("loading and calibrating took", _minutes(document.setup_seconds)),
            ("measuring took", _minutes(measured)),
            *rounds,
            ("a request under load", f"{plan.prompt} prompt tokens, {plan.answer} answer tokens"),
        ],
    )


def _bandwidths(document: Document) -> list[Any]:
    curves = document.figures.curves
    return [curves[name] for name in ("bandwidth_read", "bandwidth_copy") if name in curves]


def _minutes(seconds: float) -> str:
    return duration(seconds) if seconds < 60 else f"{seconds / 60:.1f} min"


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def write_text(path: Path, text: str) -> None:
    """Write the file; it is replaced in one step."""
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(text, "utf-8")
    partial.replace(path)
