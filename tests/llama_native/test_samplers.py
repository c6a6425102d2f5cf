"""Sampler chains: every step of llama.cpp, its parameters, and states in which nothing can be sampled."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import llama_native as ln
from llama_native import Sampler, Vocab
from llama_native import samplers as S
from llama_native.sampler import Step
from tests.llama_native.conftest import PROMPT, MakeContext, filled

N = 286
MakeStep = Callable[[Vocab], Step]

STEPS: dict[str, MakeStep] = {
    "top-k": lambda v: S.top_k(40),
    "top-p": lambda v: S.top_p(0.9),
    "min-p": lambda v: S.min_p(0.05),
    "typical": lambda v: S.typical(0.9),
    "temp": lambda v: S.temp(0.7),
    "temp-ext": lambda v: S.temp_ext(0.7, 0.3),
    "xtc": lambda v: S.xtc(0.5, 0.1, seed=1),
    "top-n-sigma": lambda v: S.top_n_sigma(1.0),
    "penalties": lambda v: S.penalties(v, 16, 1.1, 0.1, 0.1),
    "dry": lambda v: S.dry(v, 0.8),
    "logit-bias": lambda v: S.logit_bias(v, {5: 1.0, 6: -math.inf}),
    "infill": lambda v: S.infill(v),
    "grammar": lambda v: S.grammar(v, 'root ::= "a" root | "b"'),
    "grammar lazy": lambda v: S.grammar_lazy(v, 'root ::= "ab"', patterns=["(a)"], tokens=[7]),
}
SELECTING: dict[str, MakeStep] = {
    "greedy": lambda v: S.greedy(),
    "dist": lambda v: S.dist(1),
    "mirostat": lambda v: S.mirostat(v, seed=1),
    "mirostat-v2": lambda v: S.mirostat_v2(seed=1),
    "adaptive-p": lambda v: S.adaptive_p(0.5, seed=1),
}


def random_logits(seed: int = 0) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(seed).normal(0, 3, N).astype(np.float32)


@pytest.mark.parametrize("name", STEPS)
def test_every_step_works_in_a_chain(tiny_model: ln.Model, name: str) -> None:
    with Sampler([STEPS[name](tiny_model.vocab), S.dist(3)]) as sampler:
        assert sampler.names == [name.split()[0], "dist"]
        allowed = {sampler.sample_logits(random_logits(seed)) for seed in range(1)}
        assert all(0 <= token < N for token in allowed)
        sampler.reset()
        with sampler.clone() as copy:
            assert copy.names == sampler.names
            assert copy.sample_logits(random_logits()) == sampler.sample_logits(random_logits())


@pytest.mark.parametrize("name", SELECTING)
def test_every_selecting_step(tiny_model: ln.Model, name: str) -> None:
    with Sampler([SELECTING[name](tiny_model.vocab)]) as sampler:
        assert sampler.names == [name]
        first = [sampler.sample_logits(random_logits(seed)) for seed in range(20)]
        sampler.reset()
        assert [sampler.sample_logits(random_logits(seed)) for seed in range(20)] == first


def test_all_steps_in_one_chain(tiny_model: ln.Model) -> None:
    names = [name for name in STEPS if "grammar" not in name and name != "infill"]
    with Sampler([*(STEPS[name](tiny_model.vocab) for name in names), S.dist(1)]) as sampler:
        for seed in range(30):
            assert sampler.sample_logits(random_logits(seed)) != 6  # excluded by the bias


def test_greedy_and_top_k_of_one_take_the_largest() -> None:
    logits = random_logits()
    with Sampler([S.greedy()]) as greedy, Sampler([S.top_k(1), S.dist()]) as top:
        assert greedy.sample_logits(logits) == top.sample_logits(logits) == int(np.argmax(logits))


def test_dist_follows_the_probabilities() -> None:
    logits = np.full(N, -np.inf, np.float32)
    logits[[3, 5]] = np.log([0.25, 0.75])
    with Sampler([S.dist(7)]) as sampler:
        counts = Counter(sampler.sample_logits(logits) for _ in range(2000))
    assert set(counts) == {3, 5}
    assert counts[5] / 2000 == pytest.approx(0.75, abs=0.04)


def test_seeds() -> None:
    def draw(seed: int | None) -> list[int]:
        with Sampler([S.temp(2.0), S.dist(seed)]) as sampler:
            return [sampler.sample_logits(random_logits(i)) for i in range(30)]

    assert draw(5) == draw(5) != draw(6)
    assert draw(None) != draw(None)
    with Sampler([S.dist(11)]) as sampler:
        assert sampler.seed == 11
    with Sampler([S.greedy()]) as sampler:
        assert sampler.seed is None
    with Sampler([S.dist(2**40 + 9)]) as sampler:
        assert sampler.seed == 9  # llama.cpp has 32 bits


def test_logit_bias_excludes_and_forces(tiny_model: ln.Model) -> None:
    logits = random_logits()
    best = int(np.argmax(logits))
    with Sampler([S.logit_bias(tiny_model.vocab, {best: -math.inf}), S.greedy()]) as sampler:
        assert sampler.sample_logits(logits) == int(np.argsort(logits)[-2])
    with Sampler([S.logit_bias(tiny_model.vocab, {17: 1e5}), S.greedy()]) as sampler:
        assert sampler.sample_logits(logits) == 17


def test_penalties_lower_what_was_accepted(tiny_model: ln.Model) -> None:
    logits = np.zeros(N, np.float32)
    logits[[8, 9]] = [2.0, 1.9]
    with Sampler([S.penalties(tiny_model.vocab, 4, presence=1.0), S.greedy()]) as sampler:
        assert [sampler.sample_logits(logits) for _ in range(2)] == [8, 9]
        sampler.reset()
        sampler.accept(8)
        assert sampler.sample_logits(logits) == 9


def test_a_grammar_allows_only_its_language(chat_model: ln.Model, make_context: MakeContext) -> None:
    vocab = chat_model.vocab
    context = make_context(chat_model)
    grammar = 'root ::= "{\\"year\\": " [0-9] [0-9] [0-9] [0-9] "}"'
    with Sampler([S.grammar(vocab, grammar), S.greedy()]) as sampler:
        prompt = vocab.tokenize(PROMPT, parse_special=True)
        text = "".join(token.text for token in ln.generate(context, prompt, sampler, 30))
    assert text.startswith('{"year": ')
    assert text.endswith("}")
    assert text[9:-1].isdigit()
    assert len(text[9:-1]) == 4


@pytest.mark.parametrize("text", ["root ::= (", "root := x", "nothing", 'root ::= "a" missing', "root ::= root", 'a ::= "x"'])
def test_bad_grammars(tiny_model: ln.Model, text: str) -> None:
    with pytest.raises(ln.GrammarError) as caught:
        Sampler([S.grammar(tiny_model.vocab, text), S.greedy()])
    assert len(str(caught.value)) > 10


def test_a_token_that_the_grammar_forbids(tiny_model: ln.Model) -> None:
    vocab = tiny_model.vocab
    a, b = (int(vocab.tokenize(letter)[-1]) for letter in "ab")
    with Sampler([S.grammar(vocab, 'root ::= " a"'), S.greedy()]) as sampler:
        with pytest.raises(ln.GrammarError):
            sampler.accept(b)
        sampler.reset()
        sampler.accept(a)
        assert sampler.sample_logits(random_logits()) in vocab.eog_tokens  # nothing else may follow


def test_lazy_grammar_waits_for_its_trigger(tiny_model: ln.Model) -> None:
    vocab = tiny_model.vocab
    letters = {letter: 3 + ord(letter) for letter in "abcz"}
    logits = np.full(N, -1.0, np.float32)
    logits[letters["z"]] = 5.0
    step = S.grammar_lazy(vocab, 'root ::= "abc"', tokens=[letters["a"]])
    with Sampler([step, S.greedy()]) as sampler:
        assert sampler.sample_logits(logits) == letters["z"]
        sampler.accept(letters["a"])
        assert sampler.sample_logits(logits) == letters["b"]
        assert sampler.sample_logits(logits) == letters["c"]
    with pytest.raises(ValueError, match="trigger"):
        S.grammar_lazy(vocab, 'root ::= "abc"')
    with pytest.raises(ln.GrammarError):
        Sampler([S.grammar_lazy(vocab, 'root ::= "abc"', patterns=["("]), S.greedy()])


def test_no_token_left(tiny_model: ln.Model) -> None:
    for selecting in SELECTING.values():
        with Sampler([selecting(tiny_model.vocab)]) as sampler:
            with pytest.raises(ln.SamplingError):
                sampler.sample_logits(np.full(N, -np.inf, np.float32))
            assert 0 <= sampler.sample_logits(random_logits()) < N


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_logits_that_are_not_finite(tiny_model: ln.Model, value: float) -> None:
    logits = random_logits()
    logits[100] = value
    for selecting in SELECTING.values():
        with Sampler([S.top_k(5), selecting(tiny_model.vocab)]) as sampler, pytest.raises(ln.SamplingError, match="finite"):
            sampler.sample_logits(logits)


def test_a_chain_that_selects_nothing() -> None:
    with Sampler([S.top_k(5)]) as sampler, pytest.raises(ln.SamplingError, match="selects no token"):
        sampler.sample_logits(random_logits())
    with pytest.raises(ValueError, match="at least one step"):
        Sampler([])


BAD: list[Callable[[Vocab], object]] = [
    lambda v: S.top_k(2**31),
    lambda v: S.top_k(1.5),  # type: ignore[arg-type]
    lambda v: S.top_p(1.5),
    lambda v: S.top_p(math.nan),
    lambda v: S.top_p(0.5, -1),
    lambda v: S.min_p(-0.1),
    lambda v: S.typical(2),
    lambda v: S.temp(-1),
    lambda v: S.temp(math.inf),
    lambda v: S.temp_ext(1, math.nan),
    lambda v: S.xtc(2, 0.1),
    lambda v: S.top_n_sigma(-1),
    lambda v: S.mirostat(v, m=1),
    lambda v: S.mirostat_v2(tau=math.nan),
    lambda v: S.adaptive_p(2),
    lambda v: S.adaptive_p(0.5, decay=1.0),
    lambda v: S.penalties(v, last_n=2**31 - 1),
    lambda v: S.penalties(v, repeat=0.0),
    lambda v: S.penalties(v, frequency=math.inf),
    lambda v: S.dry(v, 0.8, base=0.5),
    lambda v: S.dry(v, 0.8, last_n=2**31 - 1),
    lambda v: S.dry(v, 0.8, breakers=[""]),
    lambda v: S.logit_bias(v, {N: 1.0}),
    lambda v: S.logit_bias(v, {-1: 1.0}),
    lambda v: S.logit_bias(v, {1: math.nan}),
    lambda v: S.logit_bias(v, {1: math.inf}),
    lambda v: S.grammar(v, ""),
    lambda v: S.grammar(v, "root ::= \0"),
    lambda v: S.grammar_lazy(v, "root ::= [a]", tokens=[N]),
    lambda v: S.dist(-1),
    lambda v: S.dist(2**65),
]


@pytest.mark.parametrize("i", range(len(BAD)))
def test_bad_parameters(tiny_model: ln.Model, i: int) -> None:
    with pytest.raises(ValueError, match=r".+"):
        BAD[i](tiny_model.vocab)


REAL = st.floats(0, 1)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_random_chains_never_end_the_process(tiny_model: ln.Model, data: st.DataObject) -> None:
    vocab, draw = tiny_model.vocab, data.draw
    keep = st.integers(0, 400)
    steps = [
        lambda: S.top_k(draw(st.integers(-5, 400))),
        lambda: S.top_p(draw(REAL), draw(keep)),
        lambda: S.min_p(draw(REAL), draw(keep)),
        lambda: S.typical(draw(REAL), draw(keep)),
        lambda: S.temp(draw(st.floats(0, 100))),
        lambda: S.temp_ext(draw(st.floats(0, 5)), draw(st.floats(0, 5)), draw(st.floats(0, 5))),
        lambda: S.xtc(draw(REAL), draw(REAL), draw(keep), 1),
        lambda: S.top_n_sigma(draw(st.floats(0, 5))),
        lambda: S.penalties(vocab, draw(st.integers(0, 9)), draw(st.floats(0.1, 3)), draw(st.floats(-2, 2))),
        lambda: S.dry(vocab, draw(st.floats(0, 3)), draw(st.floats(1, 3)), draw(st.integers(0, 5)), draw(keep)),
        lambda: S.infill(vocab),
        lambda: S.dist(1),
        lambda: S.greedy(),
        lambda: S.mirostat(vocab, draw(st.floats(0, 10)), draw(REAL), seed=1),
        lambda: S.mirostat_v2(draw(st.floats(0, 10)), draw(REAL), seed=1),
        lambda: S.adaptive_p(draw(REAL), draw(st.floats(0, 0.99)), seed=1),
    ]
    chain = [draw(st.sampled_from(steps))() for _ in range(draw(st.integers(1, 6)))]
    with Sampler(chain) as sampler:
        for seed in range(4):
            logits = random_logits(seed) * draw(st.sampled_from([0, 1, 1e3, 1e30]))
            logits[draw(st.integers(0, N - 1)) :] = draw(st.sampled_from([0.0, -1e30, -math.inf]))
            try:
                assert 0 <= sampler.sample_logits(logits.astype(np.float32)) < N
            except ln.SamplingError:
                pass


def test_sampling_from_a_context(tiny_model: ln.Model, make_context: MakeContext) -> None:
    context = make_context(tiny_model)
    context.decode(filled([5, 6, 7]))
    with Sampler([S.greedy()]) as sampler:
        assert sampler.sample(context, -1) == sampler.sample(context, 2) == int(np.argmax(context.logits(2)))
        for row in (0, 3, 10**6):
            with pytest.raises(ln.SamplingError, match="no logits"):
                sampler.sample(context, row)


def test_use_after_close(tiny_model: ln.Model) -> None:
    sampler = Sampler([S.greedy()])
    sampler.close()
    calls = (
        lambda: sampler.sample_logits(random_logits()),
        lambda: sampler.accept(1),
        lambda: sampler.reset(),
        lambda: sampler.clone(),
        lambda: sampler.seed,
        lambda: sampler.names,
    )
    for call in calls:
        with pytest.raises(ln.ClosedError):
            call()
    with pytest.raises(ValueError, match="negative"):
        Sampler([S.greedy()]).accept(-1)
