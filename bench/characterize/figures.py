"""From samples to figures: every curve, the knee and the phases' shares.

Computed anew from the document each time, so an interrupted characterisation has figures of what there is. Knows no
drawing. `bench.characterize.theory` adds what the model's shape and the host's memory say.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable
from typing import Final

from bench.characterize.bands import KNEE_SHARE, curve_point
from bench.characterize.document import Asked, Curve, CurvePoint, Document, Figures, Knee, Load, PhaseBar, Sample
from bench.characterize.findings import find
from bench.characterize.theory import memory, roofline

#: Phases outside the engine and inside, in the order of a request; `other` is what none of them covers.
OTHER: Final = "other"

TOKENS_PER_SECOND: Final = "tokens/s"
JOULES: Final = "J"


def compute(document: Document) -> Figures:
    """All figures the document's samples give."""
    figures = Figures()
    by_point = _good_samples(document)
    figures.curves = {name: curve for name, curve in _curves(by_point).items() if curve.points}
    figures.phases = list(_phases(by_point))
    figures.knee = _knee(figures.curves.get("load_rate"))
    figures.memory = memory(document)
    figures.roofline = roofline(document.model, figures.curves)
    figures.findings = find(document, figures)
    return figures


def _good_samples(document: Document) -> dict[tuple[str, int], list[Sample]]:
    """Samples without error by kind and size, in the plan's order."""
    found: dict[tuple[str, int], list[Sample]] = {}
    for point in document.plan.points:
        samples = [sample for sample in document.samples if sample.point == point.key and not sample.error]
        if samples:
            found[point.kind, point.size] = samples
    return found


def _curves(by_point: dict[tuple[str, int], list[Sample]]) -> dict[str, Curve]:
    def curve(
        kind: str,
        title: str,
        x_label: str,
        unit: str,
        values: Callable[[Sample], Iterable[float]],
        x: Callable[[Sample], float] | None = None,
        judged: Callable[[Sample], Iterable[float]] | None = None,
    ) -> Curve:
        points: list[CurvePoint] = []
        for (each, size), samples in by_point.items():
            if each != kind:
                continue
            found = [value for sample in samples for value in values(sample)]
            if not found:
                continue
            place = statistics.median(x(sample) for sample in samples) if x else size
            steady = [value for sample in samples for value in judged(sample)] if judged else None
            points.append(curve_point(place, found, [sample.other_work for sample in samples], steady))
        return Curve(title=title, x_label=x_label, unit=unit, points=points)

    def first(sample: Sample) -> Asked:
        return sample.loads[0].good[0]

    def again(sample: Sample) -> Asked:
        return sample.loads[1].good[0]

    def prompt(sample: Sample) -> float:
        return first(sample).prompt_tokens or float(sample.point.split("/")[1])

    def per_run(sample: Sample) -> Iterable[float]:
        return [sample.loads[0].output_tokens / sample.loads[0].wall]

    def joules(sample: Sample) -> Iterable[float]:
        loads = [load for load in sample.loads if load.joules is not None and load.output_tokens]
        return [(load.joules or 0.0) / load.output_tokens for load in loads]

    def rate(name: str) -> Callable[[Sample], Iterable[float]]:
        return lambda sample: [sample.rates[name]] if name in sample.rates else []

    long, under_load = "prompt tokens", "clients"
    curves = {
        "ttft_cold": curve("prompt", "TTFT, prompt not seen before", long, "s", lambda s: _ttft(first(s)), prompt),
        "ttft_cached": curve("prompt", "TTFT, same prompt again", long, "s", lambda s: _ttft(again(s)), prompt),
        "prefill": curve("prompt", "Prefill rate", long, TOKENS_PER_SECOND, lambda s: _prefill(first(s)), prompt),
        "decode": curve(
            "prompt", "Decode rate", "tokens of context", TOKENS_PER_SECOND, lambda s: _decode(again(s)), prompt
        ),
        "total": curve(
            "output",
            "Whole answer",
            "answer tokens",
            "s",
            lambda s: [first(s).total],
            lambda s: first(s).completion_tokens,
        ),
        "load_rate": curve("load", "Output rate of all clients", under_load, TOKENS_PER_SECOND, per_run),
    }
    curves["energy_output"] = curve("output", "Energy a token, one client", "answer tokens", JOULES, joules)
    curves["energy_load"] = curve("load", "Energy a token, all clients", under_load, JOULES, joules)
    pooled: dict[str, tuple[str, Callable[[Asked], Iterable[float]]]] = {
        "load_ttft": ("TTFT", _ttft),
        "load_itl": ("Inter-token latency", lambda asked: asked.gaps),
        "load_total": ("Whole answer", lambda asked: [asked.total]),
    }
    for name, (title, values) in pooled.items():
        curves[name] = curve("load", title, under_load, "s", _over_requests(values), judged=per_run)
    for kind, label in (("threads", "threads"), ("batch", "sequences a step")):
        curves[f"{kind}_decode"] = curve(kind, "Decode, native loop", label, TOKENS_PER_SECOND, rate("decode"))
    chunks = sorted(
        {int(name.split("/")[1]) for s in by_point.get(("batch", 1), []) for name in s.rates if "/" in name}
    )
    curves["batch_prefill"] = Curve(
        title="Prefill, native loop",
        x_label="prompt tokens a step",
        unit=TOKENS_PER_SECOND,
        points=[
            curve_point(
                chunk,
                [sample.rates[f"prefill/{chunk}"] for sample in by_point["batch", 1]],
                [sample.other_work for sample in by_point["batch", 1]],
            )
            for chunk in chunks
        ],
    )
    sizes = {name for (kind, _), samples in by_point.items() if kind == "threads" for s in samples for name in s.rates}
    for name in sorted(sizes - {"decode"}):
        curves["threads_prefill"] = curve("threads", "Prefill, native loop", "threads", TOKENS_PER_SECOND, rate(name))
    for name, title in (("read", "Memory read by all threads"), ("copy", "Memory copied by all threads")):
        curves[f"bandwidth_{name}"] = curve("bandwidth", title, "threads", "bytes/s", rate(name))
    return curves


def _over_requests(values: Callable[[Asked], Iterable[float]]) -> Callable[[Sample], Iterable[float]]:
    return lambda sample: [value for asked in sample.loads[0].good for value in values(asked)]


def _ttft(asked: Asked) -> Iterable[float]:
    return [] if asked.ttft is None else [asked.ttft]


def _prefill(asked: Asked) -> Iterable[float]:
    """Computed prompt tokens per second of prefill, or of the time to the first token where phases are not told."""
    seconds = (asked.phases or {}).get("prefill") or asked.ttft
    computed = asked.prompt_tokens - asked.cached_tokens
    return [computed / seconds] if seconds and computed > 0 else []


def _decode(asked: Asked) -> Iterable[float]:
    """Tokens behind the first per second; a chunk of text may hold several tokens, so tokens are what is counted."""
    seconds = sum(asked.gaps)
    return [(asked.completion_tokens - 1) / seconds] if seconds > 0 and asked.completion_tokens > 1 else []


def _knee(rates: Curve | None) -> Knee | None:
    """Where more clients stop to bring more output."""
    if rates is None or len(rates.points) < 2:
        return None
    best = max(point.median for point in rates.points)
    at = next(point for point in rates.points if point.median >= KNEE_SHARE * best)
    return Knee(clients=int(at.x), rate=at.median, best_rate=best, reached=at is not rates.points[-1])


def _phases(by_point: dict[tuple[str, int], list[Sample]]) -> Iterable[PhaseBar]:
    """A long prompt new and known, one client and the most clients: where their requests spend their time."""
    sizes: dict[str, list[int]] = {}
    for kind, size in by_point:
        sizes.setdefault(kind, []).append(size)
    chosen: list[tuple[str, list[Load]]] = []
    if "prompt" in sizes:
        size = min(sizes["prompt"], key=lambda value: abs(value - 1024))
        samples = by_point["prompt", size]
        chosen.append((f"{size}-token prompt, new", [sample.loads[0] for sample in samples]))
        chosen.append((f"{size}-token prompt, known", [sample.loads[1] for sample in samples]))
    if "output" in sizes:
        size = max(sizes["output"])
        chosen.append((f"{size}-token answer", [sample.loads[0] for sample in by_point["output", size]]))
    for size in sorted({min(sizes.get("load", [0])), max(sizes.get("load", [0]))} - {0}):
        name = "1 client" if size == 1 else f"{size} clients"
        chosen.append((name, [sample.loads[0] for sample in by_point["load", size]]))
    for name, loads in chosen:
        asked = [each for load in loads for each in load.good if each.phases]
        if not asked:
            continue
        phases = list(dict.fromkeys(phase for each in asked for phase in each.phases or {}))
        seconds = {phase: statistics.fmean((each.phases or {}).get(phase, 0.0) for each in asked) for phase in phases}
        total = statistics.fmean(each.total for each in asked)
        yield PhaseBar(name=name, seconds={**seconds, OTHER: max(0.0, total - sum(seconds.values()))}, total=total)
