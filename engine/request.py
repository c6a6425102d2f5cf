"""What a caller asks of the engine: token ids in, and how to choose the tokens that come out.

Knows tokens and sampling parameters; knows nothing of chat messages, JSON or HTTP. Everything that can be checked
without the model is checked here, before any work is done.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from engine.constraint import Constraint
from engine.errors import InvalidRequest, PromptTooLong
from engine.timings import Timings

#: Most alternatives per token that `SamplingParams.logprobs` may ask for.
MAX_LOGPROBS = 20


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the next token is chosen from the logits; names and meanings as in llama.cpp's samplers.

    The chain is: logit bias, grammar, penalties, DRY, top-n-sigma, top-k, typical, top-p, min-p, XTC, temperature, then
    the draw. Neutral values switch a step off.
    """

    temperature: float = 0.8
    """0 always takes the most probable token."""
    top_k: int = 40
    """Keep the k most probable tokens; 0 keeps all."""
    top_p: float = 0.95
    """Keep the most probable tokens whose probabilities sum to this; 1 keeps all."""
    min_p: float = 0.05
    """Drop tokens less probable than this share of the best; 0 drops none."""
    typical_p: float = 1.0
    """Locally typical sampling (arXiv:2202.00666); 1 is off."""
    top_n_sigma: float = -1.0
    """Keep logits within n standard deviations of the best (arXiv:2411.07641); negative is off."""
    seed: int | None = None
    """Fixes the draw, so that the request alone gives the same answer again; None draws anew each time."""
    repeat_penalty: float = 1.0
    """Divide the logits of recent tokens by this; 1 is off."""
    repeat_last_n: int = 64
    """How many of the answer's last tokens the three penalties look at; -1 means all, 0 none."""
    frequency_penalty: float = 0.0
    """Subtract this times a token's count among the recent ones (OpenAI: -2 to 2)."""
    presence_penalty: float = 0.0
    """Subtract this from every recent token's logit (OpenAI: -2 to 2)."""
    dry_multiplier: float = 0.0
    """Strength of the DRY penalty against repeated phrases; 0 is off."""
    dry_base: float = 1.75
    dry_allowed_length: int = 2
    dry_penalty_last_n: int = -1
    dry_sequence_breakers: tuple[str, ...] = ("\n", ":", '"', "*")
    xtc_probability: float = 0.0
    """Chance of excluding the top choices at a step (XTC); 0 is off."""
    xtc_threshold: float = 0.1
    mirostat: int = 0
    """1 or 2 uses Mirostat (arXiv:2007.14966) instead of top-k, typical, top-p and min-p; 0 is off."""
    mirostat_tau: float = 5.0
    mirostat_eta: float = 0.1
    logit_bias: tuple[tuple[int, float], ...] = ()
    """(token id, value added to its logit); -inf forbids the token."""
    grammar: str | None = None
    """A GBNF grammar that the answer must follow."""
    logprobs: int | None = None
    """None: no log probabilities. k: the chosen token's, and those of the k most probable tokens (0 to 20), taken
    from the model's own distribution before any of the steps above."""

    def __post_init__(self) -> None:
        _within("temperature", self.temperature, 0.0, 100.0)
        _within("top_k", self.top_k, 0, 2**31 - 1)
        _within("top_p", self.top_p, 0.0, 1.0)
        _within("min_p", self.min_p, 0.0, 1.0)
        _within("typical_p", self.typical_p, 0.0, 1.0)
        _within("top_n_sigma", self.top_n_sigma, -1.0, 100.0)
        if self.seed is not None:
            _within("seed", self.seed, 0, 2**32 - 2)  # 2**32 - 1 means "draw one" to llama.cpp
        _within("repeat_penalty", self.repeat_penalty, 0.01, 100.0)
        _within("repeat_last_n", self.repeat_last_n, -1, 2**20)
        _within("frequency_penalty", self.frequency_penalty, -100.0, 100.0)
        _within("presence_penalty", self.presence_penalty, -100.0, 100.0)
        _within("dry_multiplier", self.dry_multiplier, 0.0, 100.0)
        _within("dry_base", self.dry_base, 1.0, 100.0)
        _within("dry_allowed_length", self.dry_allowed_length, 0, 2**20)
        _within("dry_penalty_last_n", self.dry_penalty_last_n, -1, 2**20)
        _within("xtc_probability", self.xtc_probability, 0.0, 1.0)
        _within("xtc_threshold", self.xtc_threshold, 0.0, 1.0)
        _within("mirostat", self.mirostat, 0, 2)
        _within("mirostat_tau", self.mirostat_tau, 0.0, 100.0)
        _within("mirostat_eta", self.mirostat_eta, 0.0, 1.0)
        if self.logprobs is not None:
            _within("logprobs", self.logprobs, 0, MAX_LOGPROBS)
        if not all(text and "\0" not in text for text in self.dry_sequence_breakers):
            raise InvalidRequest("dry_sequence_breakers", "a sequence breaker needs a text without null characters")
        for token, bias in self.logit_bias:
            if math.isnan(bias) or bias == math.inf:
                raise InvalidRequest("logit_bias", f"the bias of token {token} must be a number, not {bias}")


@dataclass(slots=True)
class Request:
    """One generation to be made.

    `prompt` holds token ids, int32, shape (n,), n >= 1. `max_tokens` bounds the answer; the context may end it
    earlier; 0 only computes the prompt. `prompt_logprobs` k asks for the log probability of every prompt token but the
    first, and for the k most probable ones at its place; that takes logits which the cache does not keep, so the whole
    prompt is computed anew. `stop` are strings before which the text ends. `ignore_eos` goes on after the model's
    end-of-generation token. `visible` are control tokens whose text belongs into the answer, where control tokens have
    none otherwise. `constraint` is a grammar that the answer follows, and ends with, whatever `ignore_eos` says.
    `timeout` is the time limit for the whole answer, queue included, in seconds. `cache_prompt` False computes the
    whole prompt anew. `timings` is the request's stopwatch, shared with the caller.

    Raises `InvalidRequest` on creation for values that cannot be right.
    """

    prompt: npt.NDArray[np.int32]
    max_tokens: int
    sampling: SamplingParams = field(default_factory=SamplingParams)
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    visible: frozenset[int] = frozenset()
    constraint: Constraint | None = None
    timeout: float | None = None
    cache_prompt: bool = True
    prompt_logprobs: int | None = None
    timings: Timings = field(default_factory=Timings)

    def __post_init__(self) -> None:
        self.prompt = np.ascontiguousarray(self.prompt, dtype=np.int32)
        if self.prompt.ndim != 1 or self.prompt.size == 0:
            raise InvalidRequest("prompt", "the prompt must hold at least one token")
        if self.max_tokens < 0:
            raise InvalidRequest("max_tokens", f"max_tokens must not be negative, as {self.max_tokens} is")
        if self.prompt_logprobs is not None:
            _within("prompt_logprobs", self.prompt_logprobs, 0, MAX_LOGPROBS)
        if any(not stop for stop in self.stop):
            raise InvalidRequest("stop", "a stop string must not be empty")
        if self.timeout is not None and not self.timeout > 0:
            raise InvalidRequest("timeout", f"the time limit must be positive, not {self.timeout}")

    def check(self, context: int, vocabulary: int) -> None:
        """Raise `PromptTooLong` or `InvalidRequest` if a model of these sizes, in tokens, cannot take the prompt."""
        if self.prompt.size >= context:
            raise PromptTooLong(int(self.prompt.size), context - 1)
        low, high = int(self.prompt.min()), int(self.prompt.max())
        if low < 0 or high >= vocabulary:
            token = low if low < 0 else high
            raise InvalidRequest("prompt", f"token {token} is outside the vocabulary of {vocabulary}")

    @property
    def relayable(self) -> bool:
        """Whether text is all that its tokens bring: no log probabilities, and no stop string to look for."""
        return not self.stop and self.sampling.logprobs is None

    @property
    def may_reuse(self) -> bool:
        """Whether a prefix of the prompt that is in the cache can be taken from there."""
        return self.cache_prompt and self.prompt_logprobs is None


def _within(name: str, value: float, low: float, high: float) -> None:
    """Raise `InvalidRequest` unless low <= value <= high (NaN never is)."""
    if not low <= value <= high:
        raise InvalidRequest(name, f"{name} must be between {low:g} and {high:g}, not {value}")
