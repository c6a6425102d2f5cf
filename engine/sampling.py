"""Turns sampling parameters into llama.cpp sampler chains.

Knows the order of the chain, and when none is needed: the most probable token is found without one. Knows nothing of
requests.
"""

from __future__ import annotations

from engine.errors import InvalidRequest
from engine.request import SamplingParams
from llama_native import GrammarError, Model, Sampler, samplers
from llama_native.sampler import Step


def make_sampler(params: SamplingParams, model: Model) -> Sampler | None:
    """Build the chain for one request; None means: take the token with the highest logit.

    Raises `InvalidRequest` for a grammar or logit bias the model cannot use.
    """
    vocab = model.vocab
    for token, _ in params.logit_bias:
        if not 0 <= token < vocab.n_tokens:
            raise InvalidRequest("logit_bias", f"token {token} is outside the vocabulary of {vocab.n_tokens}")
    steps = _shaping(params, model)
    if params.temperature == 0.0:
        if not steps:
            return None
        steps.append(samplers.greedy())
    elif params.mirostat:
        steps.append(samplers.temp(params.temperature))
        if params.mirostat == 1:
            steps.append(samplers.mirostat(vocab, params.mirostat_tau, params.mirostat_eta, seed=params.seed))
        else:
            steps.append(samplers.mirostat_v2(params.mirostat_tau, params.mirostat_eta, seed=params.seed))
    else:
        steps += _truncation(params)
        steps += [samplers.temp(params.temperature), samplers.dist(params.seed)]
    try:
        return Sampler(steps)
    except GrammarError as error:
        raise InvalidRequest("grammar", str(error)) from error


def _shaping(params: SamplingParams, model: Model) -> list[Step]:
    """The samplers that change logits one by one, whatever the others are."""
    vocab = model.vocab
    steps: list[Step] = []
    if params.logit_bias:
        steps.append(samplers.logit_bias(vocab, dict(params.logit_bias)))
    if params.grammar is not None:
        steps.append(samplers.grammar(vocab, params.grammar))
    if params.repeat_last_n and (params.repeat_penalty != 1.0 or params.frequency_penalty or params.presence_penalty):
        steps.append(
            samplers.penalties(
                vocab,
                _look_back(params.repeat_last_n, model),
                params.repeat_penalty,
                params.frequency_penalty,
                params.presence_penalty,
            )
        )
    if params.dry_multiplier:
        steps.append(
            samplers.dry(
                vocab,
                params.dry_multiplier,
                params.dry_base,
                params.dry_allowed_length,
                _look_back(params.dry_penalty_last_n, model),
                params.dry_sequence_breakers,
            )
        )
    return steps


def _look_back(last_n: int, model: Model) -> int:
    return model.n_ctx_train if last_n < 0 else last_n


def _truncation(params: SamplingParams) -> list[Step]:
    """The samplers that drop improbable tokens, in llama.cpp's usual order; neutral ones are left out."""
    steps: list[Step] = []
    if params.top_n_sigma > 0:
        steps.append(samplers.top_n_sigma(params.top_n_sigma))
    if params.top_k:
        steps.append(samplers.top_k(params.top_k))
    if params.typical_p < 1.0:
        steps.append(samplers.typical(params.typical_p))
    if params.top_p < 1.0:
        steps.append(samplers.top_p(params.top_p))
    if params.min_p > 0.0:
        steps.append(samplers.min_p(params.min_p))
    if params.xtc_probability > 0.0:
        steps.append(samplers.xtc(params.xtc_probability, params.xtc_threshold, seed=params.seed))
    return steps
