"""Characterisations written by hand, so that what figures must say of them is known exactly."""

from __future__ import annotations

from bench.characterize.document import Asked, Document, Load, ModelFacts, Plan, Point, Sample
from bench.characterize.target import Pace

FAST = Pace(prefill=1000.0, decode=100.0)

#: 1 GB of weights, and 1 MB of keys and values a token.
GIGABYTE = ModelFacts(
    name="m", description="", file_bytes=0, weight_bytes=10**9, read_bytes=10**9, params=10**9, active_params=10**9,
    experts=0, layers=1, context=1000, kv_type="f16", kv_bytes=10**6, kv_formula="",
)  # fmt: skip


def asked(ttft: float, tokens: int = 11, gap: float = 0.01, prompt: int = 100, cached: int = 0) -> Asked:
    return Asked(
        ttft=ttft,
        total=ttft + gap * (tokens - 1),
        prompt_tokens=prompt,
        cached_tokens=cached,
        completion_tokens=tokens,
        gaps=[gap] * (tokens - 1),
        phases={"queue": 0.0, "prefill": ttft, "decode": gap * (tokens - 1)},
    )


def sample(key: str, loads: list[Load], round_: int = 0, **rates: float) -> Sample:
    return Sample(point=key, round=round_, seconds=1.0, loads=loads, rates=rates)


def load(*requests: Asked, wall: float = 1.0, joules: float | None = None) -> Load:
    return Load(wall=wall, joules=joules, asked=list(requests))


def document(samples: list[Sample], model: ModelFacts | None = None) -> Document:
    points = [Point(kind=kind, size=int(size), cost=1.0) for kind, _, size in (s.point.partition("/") for s in samples)]
    plan = Plan(points=list(dict.fromkeys(points)), rounds={}, budget=60.0, prompt=128, answer=32, left_out=[])
    return Document(
        schema=1, started="2026-01-01T00:00:00+00:00", target={"model": "m"}, options={}, identity={},
        machine={"cpu": "c", "cores": 2, "extensions": [], "memory_bytes": 1, "kernel": "6", "python": "3"}, build={},
        engine={}, model=model, plan=plan, samples=samples,
    )  # fmt: skip
