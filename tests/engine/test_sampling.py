"""Every sampling parameter does what it is for, in a whole engine."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from engine_cases import chat

from engine import Engine, EngineSettings, Request, SamplingParams
from llama_native import Model

#: Draws from the whole distribution, flattened: hardly two seeds agree.
HOT = {"temperature": 3.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}

#: A token that wins by far wherever it is not held back.
FAVOURITE = 1234
FORCED = {"temperature": 0.0, "logit_bias": ((FAVOURITE, 30.0),)}


@pytest.fixture(scope="module")
def engine(model: Model) -> Iterator[Engine]:
    started = Engine(model, EngineSettings(calibrate=False, threads=1, context=256, parallel=2))
    started.start()
    yield started
    started.close()


def tokens(engine: Engine, count: int = 4, **params: object) -> list[int]:
    request = Request(chat(engine.model, "Count to five."), count, SamplingParams(**params), ignore_eos=True)  # type: ignore[arg-type]
    return [token for piece in engine.submit(request) for token in piece.tokens]


@pytest.fixture(scope="module")
def best(engine: Engine) -> int:
    """The most probable first token."""
    return tokens(engine, 1, temperature=0.0)[0]


def test_a_hot_draw_follows_its_seed(engine: Engine) -> None:
    drawn = {seed: tokens(engine, 2, seed=seed, **HOT) for seed in range(3)}
    assert len({tuple(two) for two in drawn.values()}) == 3
    assert tokens(engine, 2, seed=1, **HOT) == drawn[1]


@pytest.mark.parametrize(
    "params",
    [
        {"temperature": 0.001},
        {"top_k": 1},
        {"top_p": 0.0001},
        {"min_p": 1.0},
        {"top_n_sigma": 0.001},
        {"mirostat": 1, "mirostat_tau": 0.0, "mirostat_eta": 0.0},
        {"mirostat": 2, "mirostat_tau": 0.0, "mirostat_eta": 0.0},
    ],
)
def test_what_leaves_the_best_token_only(engine: Engine, best: int, params: dict[str, object]) -> None:
    """Each of them alone, at its strictest, undoes the heat."""
    for seed in range(2):
        assert tokens(engine, 1, seed=seed, **{**HOT, **params}) == [best]


def test_typical_leaves_one_token_that_need_not_be_the_best(engine: Engine) -> None:
    drawn = {tuple(tokens(engine, 1, seed=seed, **{**HOT, "typical_p": 0.0001})) for seed in range(3)}
    assert len(drawn) == 1


def test_xtc_leaves_out_the_best(engine: Engine, best: int) -> None:
    mild = {"temperature": 1.0, "top_k": 3, "top_p": 1.0, "min_p": 0.0, "xtc_threshold": 0.0001}
    cold = {**mild, "temperature": 0.2}
    assert best in {tokens(engine, 1, seed=seed, **cold)[0] for seed in range(3)}
    for seed in range(3):
        assert tokens(engine, 1, seed=seed, xtc_probability=1.0, **mild)[0] != best


@pytest.mark.parametrize(
    "params",
    [
        {"repeat_penalty": 100.0},
        {"frequency_penalty": 100.0},
        {"presence_penalty": 100.0},
        {"dry_multiplier": 100.0, "dry_allowed_length": 1},
    ],
)
def test_what_is_said_already_is_held_back(engine: Engine, params: dict[str, object]) -> None:
    assert tokens(engine, **FORCED) == [FAVOURITE] * 4
    held = tokens(engine, **FORCED, **params)
    assert held[0] == FAVOURITE
    assert held.count(FAVOURITE) < 4


def test_penalties_look_back_as_far_as_they_are_told(engine: Engine) -> None:
    assert tokens(engine, **FORCED, presence_penalty=100.0, repeat_last_n=0) == [FAVOURITE] * 4
    alternating = tokens(engine, **FORCED, presence_penalty=100.0, repeat_last_n=1)
    assert [token == FAVOURITE for token in alternating] == [True, False, True, False]
    assert tokens(engine, **FORCED, presence_penalty=100.0, repeat_last_n=-1).count(FAVOURITE) == 1


def test_dry_holds_back_as_much_as_it_is_told(engine: Engine) -> None:
    strong = {**FORCED, "dry_multiplier": 100.0, "dry_allowed_length": 1}
    breaker = engine.model.vocab.token_bytes(FAVOURITE).decode()
    assert tokens(engine, **strong, dry_sequence_breakers=(breaker,)) == [FAVOURITE] * 4
    assert tokens(engine, **strong, dry_penalty_last_n=0) == [FAVOURITE] * 4
    assert tokens(engine, **{**strong, "dry_allowed_length": 9}) == [FAVOURITE] * 4
    growing = {**strong, "dry_multiplier": 0.01}
    assert tokens(engine, 6, **growing, dry_base=1.0) == [FAVOURITE] * 6
    assert tokens(engine, 6, **growing, dry_base=100.0).count(FAVOURITE) < 6
