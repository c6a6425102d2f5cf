"""One request's life as token ids: queue, prefix cache, batches, sampling, timings.

Knows tokens and `llama_native`; knows nothing of chat messages, JSON or HTTP. Start reading at `engine.engine`.
"""

from engine.constraint import Constraint, Constraints
from engine.engine import Engine
from engine.errors import (
    ConstraintFailed,
    DeadlineExceeded,
    EngineError,
    EngineStopped,
    EngineStuck,
    GenerationFailed,
    InvalidRequest,
    PromptTooLong,
    QueueFull,
    QueueTimeout,
)
from engine.generation import Generation, GenerationGroup, Piece, TokenLogprobs
from engine.plan import Plan, make_plan
from engine.request import MAX_LOGPROBS, Request, SamplingParams
from engine.settings import EngineSettings, Layout, Switch
from engine.stats import Counters, EngineStats, Tally
from engine.timings import PHASES, WRITE, Course, Timings, clock

__all__ = [
    "MAX_LOGPROBS",
    "PHASES",
    "WRITE",
    "Constraint",
    "ConstraintFailed",
    "Constraints",
    "Counters",
    "Course",
    "DeadlineExceeded",
    "Engine",
    "EngineError",
    "EngineSettings",
    "EngineStats",
    "EngineStopped",
    "EngineStuck",
    "Generation",
    "GenerationFailed",
    "GenerationGroup",
    "InvalidRequest",
    "Layout",
    "Piece",
    "Plan",
    "PromptTooLong",
    "QueueFull",
    "QueueTimeout",
    "Request",
    "SamplingParams",
    "Switch",
    "Tally",
    "Timings",
    "TokenLogprobs",
    "clock",
    "make_plan",
]
