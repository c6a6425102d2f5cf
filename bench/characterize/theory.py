"""What the model's shape and the host's memory predict, beside what was measured.

KV bytes a token from the GGUF's metadata against the growth of real contexts; bytes and operations of a step against
memory bandwidth and the highest arithmetic rate seen (the roofline: Williams, Waterman, Patterson, CACM 52(4), 2009).
"""

from __future__ import annotations

import numpy as np

from bench.characterize.document import Curve, Document, Memory, ModelFacts, Roofline, RooflinePoint
from bench.characterize.plan import NATIVE_DEPTH


def memory(document: Document) -> Memory | None:
    """The KV cache's bytes a token as the slope over contexts of several sizes; None where they were not measured."""
    model, measured = document.model, document.footprint
    if model is None or measured is None or len(measured.rows) < 2:
        return None
    cells, used = np.array(measured.rows, dtype=float).T
    slope, fixed = np.polyfit(cells, used, 1)
    return Memory(theory=model.kv_bytes, measured=float(slope), fixed=float(fixed))


def step_bytes(model: ModelFacts, sequences: int, depth: float) -> float:
    """Bytes a decode step must read: all weights once, and every sequence's keys and values."""
    return model.read_bytes + sequences * depth * model.kv_bytes


def token_operations(model: ModelFacts) -> float:
    """Floating-point operations a token: a multiplication and an addition a weight; attention is left out."""
    return 2.0 * model.active_params


def roofline(model: ModelFacts | None, curves: dict[str, Curve]) -> Roofline | None:
    """Each measured step's intensity and speed; None without model or bandwidth, or for mixtures of experts.

    A mixture reads and computes with some of its experts only; which, depends on the tokens.
    """
    read = curves.get("bandwidth_read")
    if model is None or model.experts or read is None:
        return None
    operations = token_operations(model)
    points, chunks = [], None
    if "batch_decode" in curves:
        for point in curves["batch_decode"].points:
            moved = step_bytes(model, int(point.x), NATIVE_DEPTH)
            points.append(_point("decode", int(point.x), operations, moved, point.median))
        chunks = curves.get("batch_prefill")
    elif "decode" in curves:
        shallow = curves["decode"].points[0]
        points.append(_point("decode", 1, operations, step_bytes(model, 1, shallow.x), shallow.median))
        chunks = curves.get("prefill")
    points.extend(
        _point("prefill", int(point.x), operations, step_bytes(model, 0, 0), point.median)
        for point in (chunks.points if chunks else ())
    )
    alone = next((point for point in points if point.name == "decode" and point.tokens == 1), None)
    if alone is None:
        return None
    bandwidth = read.points[-1].median
    moved = alone.flops / alone.intensity
    return Roofline(
        bandwidth=bandwidth,
        flops=max(point.flops for point in points),
        points=points,
        decode_bytes_per_second=moved,
        decode_share=moved / bandwidth,
    )


def _point(name: str, tokens: int, operations: float, moved: float, rate: float) -> RooflinePoint:
    return RooflinePoint(name=name, tokens=tokens, intensity=tokens * operations / moved, flops=rate * operations)
