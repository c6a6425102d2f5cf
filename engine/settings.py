"""What can be set about the engine.

Knows names, defaults and ranges. Values of 0 or AUTO are chosen for the host and the model when the engine starts;
explicit values always win.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from engine.errors import InvalidRequest

#: No request can be shorter-winded: a chat template alone takes some tens of tokens.
SMALLEST_CONTEXT: Final = 64


class Layout(StrEnum):
    """How sequences share the KV cache; see `engine.kv`."""

    AUTO = "auto"
    UNIFIED = "unified"
    STREAMS = "streams"


class Switch(StrEnum):
    """A setting that is on, off, or left to measurement."""

    AUTO = "auto"
    ON = "on"
    OFF = "off"


@dataclass(frozen=True, slots=True)
class EngineSettings:
    """Settings of one engine."""

    parallel: int = 0
    """Sequences decoded at once; 0 chooses from device, threads and memory."""
    context: int = 0
    """Most tokens of one request, prompt and answer; 0 chooses from the model and memory."""
    kv_cells: int = 0
    """Cells of the KV cache shared by all sequences in the unified layout; 0 is parallel * context, which no load can
    exhaust. With fewer, requests wait for cells when the cache is full."""
    threads: int = 0
    """Compute threads; 0 measures, or takes every core this process may use."""
    step_ms: float = 0.0
    """Target time of a step with running streams and a prompt to prefill, in milliseconds; 0 is the default."""
    flash_attention: Switch = Switch.AUTO
    kv_layout: Layout = Layout.AUTO
    memory: int | None = None
    """Bytes that were free before the model was loaded, for weights and KV cache; None: what is free beside the weights
    now. Bounds what is left to choose of `parallel` and `context`, without a GPU."""
    kv_type: str = "f16"
    """Type of the cached keys and values: f16, bf16, f32, q8_0, q4_0, ..."""
    calibrate: bool = True
    """Measure what is left to measurement at first start; otherwise take documented defaults."""
    max_queue: int | None = None
    """Requests that may wait for a sequence; more are refused at once. None is three times the sequences."""
    queue_timeout: float = 60.0
    """Longest time a request waits for a sequence, in seconds."""

    def __post_init__(self) -> None:
        for name in ("parallel", "context", "threads", "step_ms", "max_queue", "kv_cells"):
            value = getattr(self, name) or 0
            if not 0 <= value < 2**31:
                raise InvalidRequest(name, f"{name} must be a number from 0 to {2**31 - 1}, not {value}")
        if 0 < self.context < SMALLEST_CONTEXT:
            raise InvalidRequest("context", f"context must be 0 or at least {SMALLEST_CONTEXT}, not {self.context}")
        if self.parallel > 256:
            raise InvalidRequest("parallel", f"llama.cpp handles at most 256 sequences, not {self.parallel}")
        if not self.queue_timeout > 0:
            raise InvalidRequest("queue_timeout", f"queue_timeout must be positive, not {self.queue_timeout}")
