"""Log probabilities of tokens, from the rows of logits that a step has left.

Knows rows of the last batch; the engine thread's.
"""

from __future__ import annotations

import math

from engine.generation import TokenLogprobs
from engine.scheduler import Run
from llama_native import Context, SamplingError, top_logprobs


def token_logprobs(context: Context, row: int, token: int, k: int) -> TokenLogprobs:
    """Return the log probability of `token` at `row`, and of the `k` most probable tokens there."""
    try:
        logprob, ids, logprobs = top_logprobs(context.logits(row), token, k)
    except SamplingError:  # a broken model: the logits are not finite
        return TokenLogprobs(token, -math.inf, ())
    return TokenLogprobs(token, logprob, tuple(zip(ids.tolist(), logprobs.tolist(), strict=True)))


def prompt_logprobs(context: Context, run: Run, row: int, count: int) -> tuple[TokenLogprobs, ...]:
    """Return those of the prompt tokens that follow the tokens in `count` rows from `row` on."""
    request, start = run.generation.request, run.sequence.length
    following = request.prompt[start + 1 : start + count + 1].tolist()
    k = request.prompt_logprobs or 0
    return tuple(token_logprobs(context, row + place, token, k) for place, token in enumerate(following))
