"""The target as an engine in this process: what is asked of it goes to `engine.Engine`, with no HTTP in between.

The engine runs as `python -m server` would run it: default settings, calibrated. Prompts are random ordinary tokens.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from importlib import metadata
from typing import Any

from bench.characterize.document import Asked, Load
from bench.characterize.energy import EnergyMeter
from bench.characterize.target import Pace, Prompt
from bench.rates import random_tokens
from engine import Engine, EngineError, EngineSettings, Request, SamplingParams, Timings, clock
from llama_native import Model, build_info, system_info


class EngineTarget:
    """An engine to ask. Creating it takes as long as the server's start. Raises what `Engine` raises."""

    def __init__(self, model: Model, *, salt: str, settings: EngineSettings | None = None) -> None:
        self.engine = Engine(model, settings)
        self.engine.start()
        self._meter = EnergyMeter()
        probe = self._one(self._request(Prompt(min(200, self.engine.context_size // 2), f"{salt}/probe"), 16))
        if probe.error:
            self.close()
            raise EngineError(probe.error)
        self.pace = Pace(
            prefill=(probe.prompt_tokens - probe.cached_tokens) / max(probe.ttft or probe.total, 1e-4),
            decode=len(probe.gaps) / max(sum(probe.gaps), 1e-4) if probe.gaps else 1.0,
        )

    def ask(self, prompts: Sequence[Prompt], clients: int, answer: int) -> Load:
        """Ask for each prompt, `clients` at a time, `answer` tokens each."""
        ready = [self._request(prompt, answer) for prompt in prompts]  # made before the clock starts
        with ThreadPoolExecutor(clients, thread_name_prefix="client") as pool:
            self._meter.start()
            begin = clock()
            asked = list(pool.map(self._one, ready))
            wall = clock() - begin
            joules = self._meter.joules()
        return Load(wall=wall, joules=joules, asked=asked)

    def describe(self) -> dict[str, Any]:
        """The engine's plan, and what calibration measured."""
        plan, calibration = self.engine.plan, self.engine.calibration
        values: dict[str, Any] = asdict(plan)
        values["kv_type"] = plan.kv_type.name.lower()
        values["calibration"] = str(calibration.chosen) if calibration else "off"
        return values

    def identify(self) -> dict[str, str]:
        """This program's version and the library's build."""
        build = build_info()
        names = ("llama_version", "ggml_version", "ggml_commit")
        library = ", ".join(f"{name.replace('_', ' ')} {build[name]}" for name in names)
        return {
            "engine": f"lucid-llm {metadata.version('lucid-llm')}",
            "llama.cpp": f"{library}, {system_info().strip(' |')}",
        }

    def close(self) -> None:
        """Stop the engine."""
        self.engine.close()

    def _request(self, prompt: Prompt, answer: int) -> Request:
        seed = int.from_bytes(hashlib.sha256(prompt.seed.encode()).digest()[:8])
        tokens = random_tokens(self.engine.model, prompt.tokens, seed)
        return Request(tokens, answer, SamplingParams(temperature=0), ignore_eos=True)

    def _one(self, request: Request) -> Asked:
        """Send one request and take its whole answer; failures are told, not raised."""
        request.timings = timings = Timings()  # its clock starts now, not when the prompts were made
        error = None
        completion, cached = 0, 0
        try:
            with self.engine.submit(request) as generation:
                for _ in generation:
                    pass
                completion, cached = generation.completion_tokens, generation.cached_tokens
        except EngineError as failure:
            error = f"{type(failure).__name__}: {failure}"
        timings.finish()
        created = timings.courses[0].token_seconds if timings.courses else []
        return Asked(
            ttft=timings.phases.get("queue", 0.0) + created[0] if created else None,
            total=timings.total_seconds,
            prompt_tokens=int(request.prompt.size),
            cached_tokens=cached,
            completion_tokens=completion,
            gaps=[round(gap, 6) for gap in created[1:]],
            phases=dict(timings.phases),
            error=error,
        )
