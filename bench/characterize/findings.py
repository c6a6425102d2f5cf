"""The figures in plain words: what each says, and what to change because of it.

Every sentence is computed; none is printed when its figures are missing. Knows figures; not how they are drawn.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Final

from bench.characterize.document import Curve, CurvePoint, Document, Figures, Finding
from bench.characterize.theory import token_operations
from bench.characterize.units import amount, duration, percent, rate, size, times

#: Below this share of the memory's bandwidth, reading weights is not what decode waits for.
MEMORY_BOUND: Final = 0.6


def find(document: Document, figures: Figures) -> list[Finding]:
    """Everything there is to say, most important first."""
    curves = figures.curves
    return list(
        chain(
            _rates(curves),
            _first_token(curves),
            _cache(curves),
            _load(document, figures),
            _depth(curves),
            _phases(figures),
            _roofline(document, figures),
            _batch(curves),
            _threads(curves),
            _memory(document, figures),
            _energy(curves),
            _noise(curves),
        )
    )


def _trusted(finding: Finding, *points: CurvePoint) -> Finding:
    """The finding, or, where a point that it rests on is noisy, the finding with a doubt instead of advice."""
    if not any(point.noisy for point in points):
        return finding
    doubt = "The points that this rests on are noisy: measure again before you act on it."
    return Finding(title=finding.title, text=finding.text, advice=doubt)


def _rates(curves: dict[str, Curve]) -> Iterator[Finding]:
    if "prefill" not in curves or "decode" not in curves:
        return
    prefill = max(curves["prefill"].points, key=lambda point: point.median)
    decode = curves["decode"].points[0]
    ratio = prefill.median / decode.median
    yield Finding(
        title=f"Reads {rate(prefill.median)} tokens/s, writes {rate(decode.median)}",
        text=f"Prefill is fastest at prompts of {amount(prefill.x)} tokens; decode is for one client at a depth of "
        f"{amount(decode.x)}. Per token, prefill is {times(ratio)} as fast as decode, so an answer of 100 tokens takes "
        f"as long as reading {amount(100 * ratio)} new prompt tokens.",
        advice=""
        if ratio > 1.5
        else "Prompts cost almost as much as answers here: shorten them, or let them share prefixes.",
    )


def _first_token(curves: dict[str, Curve]) -> Iterator[Finding]:
    if "ttft_cold" not in curves or len(curves["ttft_cold"].points) < 2:
        return
    short, long = curves["ttft_cold"].points[0], curves["ttft_cold"].points[-1]
    each = (long.median - short.median) / max(1.0, long.x - short.x)
    yield Finding(
        title=f"The first token comes after {duration(short.median)} to {duration(long.median)}",
        text=f"For new prompts of {amount(short.x)} to {amount(long.x)} tokens on an idle machine: "
        f"{duration(each * 1000)} for every 1000 tokens more.",
    )


def _cache(curves: dict[str, Curve]) -> Iterator[Finding]:
    cold, cached = curves.get("ttft_cold"), curves.get("ttft_cached")
    if cold is None or cached is None:
        return
    at, again = cold.points[-1], cached.points[-1]
    saved = (at.median - again.median) / at.x * 1000
    if again.median > 0.8 * at.median:
        yield Finding(
            title="A repeated prompt is computed again",
            text=f"The same {amount(at.x)} tokens took {duration(at.median)} first and {duration(again.median)} then.",
            advice="Switch the server's prefix cache on, if it has one.",
        )
        return
    yield Finding(
        title=f"A cached prefix of 1000 tokens saves {duration(saved)}",
        text=f"A known prompt of {amount(at.x)} tokens has its first token after {duration(again.median)} instead of "
        f"{duration(at.median)}.",
        advice="Put what stays the same (system prompt, documents, earlier turns) first, and what changes last.",
    )


def _failed_loads(document: Document) -> str:
    """Which numbers of clients failed every time, and how the last of them did; empty if none."""
    errors: dict[int, str] = {}
    for sample in document.samples:
        kind, _, clients = sample.point.partition("/")
        if kind == "load" and sample.error:
            errors[int(clients)] = sample.error
    good = {sample.point for sample in document.samples if not sample.error}
    lost = sorted(clients for clients in errors if f"load/{clients}" not in good)
    if not lost:
        return ""
    return f" Requests of {' and '.join(map(str, lost))} clients failed: {errors[lost[-1]]}."


def _load(document: Document, figures: Figures) -> Iterator[Finding]:
    knee, curves = figures.knee, figures.curves
    failed = _failed_loads(document)
    if knee is None:
        if failed:
            yield Finding(title="The knee is not known", text=failed.strip())
        return
    ttft, clients = curves.get("load_ttft"), curves["load_rate"].points
    most = clients[-1]
    waits = ""
    if ttft and (at := ttft.at(knee.clients)) and (far := ttft.at(most.x)) and far is not at:
        waits = (
            f" With {amount(most.x)} clients the median wait for the first token is {duration(far.median)} instead of "
            f"{duration(at.median)}."
        )
    waits += failed
    share = percent(knee.rate / knee.best_rate)
    if not knee.reached:
        yield Finding(
            title=f"No knee up to {amount(most.x)} clients",
            text=f"Output still grows at the largest load that was measured: {rate(most.median)} tokens/s.{waits}",
            advice="" if failed else "Try more clients (--load).",
        )
        return
    found = Finding(
        title=f"The knee is at {knee.clients} client{'s' if knee.clients > 1 else ''}",
        text=f"They get {rate(knee.rate)} tokens/s together, {share} of the best; more only wait longer.{waits}",
        advice=f"Expect good answers up to {knee.clients} at a time; for more, add machines rather than queue.",
    )
    yield _trusted(found, *clients)


def _depth(curves: dict[str, Curve]) -> Iterator[Finding]:
    if "decode" not in curves or len(curves["decode"].points) < 2:
        return
    shallow, deep = curves["decode"].points[0], curves["decode"].points[-1]
    lost = 1 - deep.median / shallow.median
    if lost <= 0:
        return  # no more than noise can make decode faster behind a longer context
    yield Finding(
        title=f"Behind {amount(deep.x)} tokens of context, decode is {percent(lost)} slower",
        text=f"{rate(deep.median)} tokens/s instead of {rate(shallow.median)} at {amount(shallow.x)}: every token "
        "attends over all that came before it.",
        advice="Keep contexts short: fewer retrieved passages, trimmed histories." if lost > 0.25 else "",
    )


def _phases(figures: Figures) -> Iterator[Finding]:
    bar = next((bar for bar in figures.phases if "1 client" in bar.name), None)
    if bar is None or not bar.total:
        return
    compute = sum(bar.seconds.get(phase, 0.0) for phase in ("prefill", "decode", "sampling"))
    queue = bar.seconds.get("queue", 0.0)
    around = max(0.0, bar.total - compute - queue)
    decode = bar.seconds.get("decode", 0.0) + bar.seconds.get("sampling", 0.0)
    yield Finding(
        title=f"{percent(compute / bar.total)} of a request is the model's own work",
        text=f"For one client: prefill {percent(bar.seconds.get('prefill', 0.0) / bar.total)}, decode "
        f"{percent(decode / bar.total)}, everything around "
        f"it {duration(around)} ({percent(around / bar.total)}).",
        advice="Look at the phases outside the engine: they cost more than 5%." if around > 0.05 * bar.total else "",
    )


def _roofline(document: Document, figures: Figures) -> Iterator[Finding]:
    roof, model = figures.roofline, document.model
    if roof is None or model is None:
        return
    alone = next(point for point in roof.points if point.name == "decode" and point.tokens == 1)
    compute = alone.flops / roof.flops
    bound = roof.decode_share >= MEMORY_BOUND
    where = (
        "Decode of one sequence waits for memory"
        if bound
        else "Decode of one sequence does not wait for memory alone: arithmetic (unpacking weights included) and the "
        "start of each operation cost more"
    )
    read = roof.decode_bytes_per_second
    yield Finding(
        title=f"Decode uses {percent(roof.decode_share)} of the memory bandwidth",
        text=f"A token reads {size(read / alone.flops * token_operations(model))} (weights and KV cache): "
        f"{size(read)}/s of the {size(roof.bandwidth)}/s that reading memory reaches here. It reaches "
        f"{percent(compute)} of the highest arithmetic rate seen. {where}.",
        advice="Smaller weights (fewer bits) speed decode up in proportion, and batches are almost free."
        if bound
        else "A weights format with faster kernels helps more than a smaller one.",
    )


def _batch(curves: dict[str, Curve]) -> Iterator[Finding]:
    points = curves["batch_decode"].points if "batch_decode" in curves else []
    if len(points) < 2 or points[0].x != 1:
        return
    best = max(points, key=lambda point: point.median)
    gain = best.median / points[0].median
    yield Finding(
        title=f"{amount(best.x)} sequences a step give {times(gain)} the output of one",
        text=f"{rate(best.median)} tokens/s together, {rate(best.median / best.x)} each; one alone has "
        f"{rate(points[0].median)}. "
        + (
            "Weights read once serve them all."
            if gain > 2
            else "A step's time grows almost with its tokens: this processor is bound by arithmetic."
        ),
    )


def _threads(curves: dict[str, Curve]) -> Iterator[Finding]:
    for name, what in (("threads_decode", "Decode"), ("threads_prefill", "Prefill")):
        points = curves[name].points if name in curves else []
        if len(points) < 2:
            continue
        one, best = points[0], max(points, key=lambda point: point.median)
        if best is one:
            found = Finding(
                title=f"{what} is fastest with {amount(one.x)} thread{'s' if one.x > 1 else ''}",
                text="More threads wait for each other longer than they help.",
                advice=f"Set MODEL_THREADS={amount(one.x)} if this machine always looks like this.",
            )
            yield _trusted(found, *points)
            continue
        gain = best.median / one.median
        found = Finding(
            title=f"{what} is {times(gain)} as fast with {amount(best.x)} threads as with {amount(one.x)}",
            text=f"{percent(gain * one.x / best.x)} of perfect scaling.",
        )
        yield _trusted(found, one, best)


def _memory(document: Document, figures: Figures) -> Iterator[Finding]:
    model, measured = document.model, figures.memory
    if model is None or not model.kv_bytes:
        return
    told = ""
    if measured is not None:
        told = f" Measured: {size(measured.measured)}, {percent(measured.measured / measured.theory)} of that."
    yield Finding(
        title=f"A token of context takes {size(model.kv_bytes)}",
        text=f"{model.kv_formula}.{told} A sequence of 4096 tokens takes {size(4096 * model.kv_bytes)} beside "
        f"{size(model.weight_bytes)} of weights.",
    )


def _energy(curves: dict[str, Curve]) -> Iterator[Finding]:
    found = [
        (f"{what} {amount(point.x)}", point.median)
        for name, what in (("energy_output", "answer tokens:"), ("energy_load", "clients:"))
        for point in (curves[name].points if name in curves else ())
    ]
    if found:
        best, worst = (choose(found, key=lambda item: item[1]) for choose in (min, max))
        yield Finding(
            title=f"A token costs {best[1]:.3g} to {worst[1]:.3g} joules",
            text=f"Of the host, idle power included: least with {best[0]}, most with {worst[0]}.",
        )


def _noise(curves: dict[str, Curve]) -> Iterator[Finding]:
    points: list[CurvePoint] = [point for curve in curves.values() for point in curve.points]
    noisy = sum(point.noisy for point in points)
    if noisy:
        yield Finding(
            title=f"{noisy} of {len(points)} points are noisy",
            text="They scatter widely or were measured beside other work. They are drawn hollow.",
            advice="Repeat on an idle machine (--fresh)." if noisy > len(points) / 4 else "",
        )
