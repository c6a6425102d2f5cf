"""Prompts and short ways to ask, for the engine's tests."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from engine import Engine, Generation, Request, SamplingParams
from llama_native import Model

Tokens = npt.NDArray[np.int32]
MakeEngine = Callable[..., Engine]

GREEDY = SamplingParams(temperature=0.0)

PASSAGE = "the old harbour of Lisbon at dawn with ships from every sea and gulls above the quay "


def chat(model: Model, question: str, context: str = "") -> Tokens:
    """The tokens of a question as the demo model's chat template puts it."""
    text = f"<|im_start|>system\nYou are a helpful AI assistant.{context}<|im_end|>\n<|im_start|>user\n{question}"
    return model.vocab.tokenize(f"{text}<|im_end|>\n<|im_start|>assistant\n", parse_special=True)


def text_of(generation: Generation) -> str:
    return "".join(piece.text for piece in generation)


def answer(engine: Engine, prompt: Tokens, max_tokens: int = 16, **fields: object) -> str:
    """Submit, wait, and give the text."""
    fields.setdefault("sampling", GREEDY)
    return text_of(engine.submit(Request(prompt, max_tokens, **fields)))  # type: ignore[arg-type]


def settle(engine: Engine) -> None:
    """Wait until nothing runs or waits and the engine thread rests. Raises what ended it, if anything did."""
    for _ in range(3000):
        stats = engine.stats()
        if engine.failure is not None:
            raise engine.failure
        if not stats.running and not stats.waiting and engine.turn is None:
            return
        time.sleep(0.01)
    raise AssertionError(f"still busy: {stats}")
