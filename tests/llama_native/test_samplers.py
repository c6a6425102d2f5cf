"""Sampler chains: every step of llama.cpp, its parameters, and states in which nothing can be sampled."""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import llama_native as ln
from llama_native import Sampler, Vocab, samplers
from llama_native.sampler import Step
from tests.llama_native.conftest import PROMPT, MakeContext, filled

N = 286
MakeStep = Callable[[Vocab], Step]

STEPS: dict[str, MakeStep] = {
    "top-k": lambda _: samplers.top_k(40),
    "top-p": lambda _: samplers.top_p(0.9),
    "min-p": lambda _: samplers.min_p(0.05),
    "typical": lambda _: samplers.typical(0.9),
    "temp": lambda _: samplers.temp(0.7),
    "temp-ext": lambda _: samplers.temp_ext(0.7, 0.3),
    "xtc": lambda _: samplers.xtc(0.5, 0.1, seed=1),
    "top-n-sigma": lambda _: samplers.top_n_sigma(1.0),
    "penalties": lambda v: samplers.penalties(v, 16, 1.1, 0.1, 0.1),
    "dry": lambda v: samplers.dry(v, 0.8),
    "logit-bias": lambda v: samplers.logit_bias(v, {5: 1.0, 6: -math.inf}),
    "infill": lambda v: samplers.infill(v),
    "grammar": lambda v: samplers.grammar(v, 'root ::= "a" root | "b"'),
    "grammar lazy": lambda v: samplers.grammar_lazy(v, 'root ::= "ab"', patterns=["(a)"], tokens=[7]),
}
SELECTING: dict[str, MakeStep] = {
    "greedy": lambda _: samplers.greedy(),
    "dist": lambda _: samplers.dist(1),
    "mirostat": lambda v: samplers.mirostat(v, seed=1),
    "mirostat-v2": lambda _: samplers.mirostat_v2(seed=1),
    "adaptive-p": lambda _: samplers.adaptive_p(0.5, seed=1),
}


def random_logits(seed: int = 0) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(seed).normal(0, 3, N).astype(np.float32)


@pytest.mark.parametrize("name", STEPS)
def test_every_step_works_in_a_chain(tiny_model: ln.Model, name: str) -> None:
    with Sampler([STEPS[name](tiny_model.vocab), samplers.dist(3)]) as sampler:
        assert sampler.names == [name.split()[0], "dist"]
        assert 0 <= sampler.sample_logits(random_logits()) < N
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
    with Sampler([*(STEPS[name](tiny_model.vocab) for name in names), samplers.dist(1)]) as sampler:
        for seed in range(30):
            assert sampler.sample_logits(random_logits(seed)) != 6  # excluded by the bias


def test_greedy_and_top_k_of_one_take_the_largest() -> None:
    logits = random_logits()
    with Sampler([samplers.greedy()]) as greedy, Sampler([samplers.top_k(1), samplers.dist()]) as top:
        assert greedy.sample_logits(logits) == top.sample_logits(logits) == int(np.argmax(logits))


def test_dist_follows_the_probabilities() -> None:
    logits = np.full(N, -np.inf, np.float32)
    logits[[3, 5]] = np.log([0.25, 0.75])
    with Sampler([samplers.dist(7)]) as sampler:
        counts = Counter(sampler.sample_logits(logits) for _ in range(2000))
    assert set(counts) == {3, 5}
    assert counts[5] / 2000 == pytest.approx(0.75, abs=0.04)


def test_seeds() -> None:
    def draw(seed: int | None) -> list[int]:
        with Sampler([samplers.temp(2.0), samplers.dist(seed)]) as sampler:
            return [sampler.sample_logits(random_logits(i)) for i in range(30)]

    assert draw(5) == draw(5) != draw(6)
    assert draw(None) != draw(None)
    with Sampler([samplers.dist(11)]) as sampler:
        assert sampler.seed == 11
    with Sampler([samplers.greedy()]) as sampler:
        assert sampler.seed is None
    with Sampler([samplers.dist(2**40 + 9)]) as sampler:
        assert sampler.seed == 9  # llama.cpp has 32 bits


def test_logit_bias_excludes_and_forces(tiny_model: ln.Model) -> None:
    logits = random_logits()
    best = int(np.argmax(logits))
    with Sampler([samplers.logit_bias(tiny_model.vocab, {best: -math.inf}), samplers.greedy()]) as sampler:
        assert sampler.sample_logits(logits) == int(np.argsort(logits)[-2])
    with Sampler([samplers.logit_bias(tiny_model.vocab, {17: 1e5}), samplers.greedy()]) as sampler:
        assert sampler.sample_logits(logits) == 17


def test_penalties_lower_what_was_accepted(tiny_model: ln.Model) -> None:
    logits = np.zeros(N, np.float32)
    logits[[8, 9]] = [2.0, 1.9]
    with Sampler([samplers.penalties(tiny_model.vocab, 4, presence=1.0), samplers.greedy()]) as sampler:
        assert [sampler.sample_logits(logits) for _ in range(2)] == [8, 9]
        sampler.reset()
        sampler.accept(8)
        assert sampler.sample_logits(logits) == 9


def test_a_grammar_allows_only_its_language(chat_model: ln.Model, make_context: MakeContext) -> None:
    vocab = chat_model.vocab
    context = make_context(chat_model)
    grammar = 'root ::= "{\\"year\\": " [0-9] [0-9] [0-9] [0-9] "}"'
    with Sampler([samplers.grammar(vocab, grammar), samplers.greedy()]) as sampler:
        prompt = vocab.tokenize(PROMPT, parse_special=True)
        text = "".join(token.text for token in ln.generate(context, prompt, sampler, 30))
    assert text.startswith('{"year": ')
    assert text.endswith("}")
    assert text[9:-1].isdigit()
    assert len(text[9:-1]) == 4


@pytest.mark.parametrize(
    "text", ["root ::= (", "root := x", "nothing", 'root ::= "a" missing', "root ::= root", 'a ::= "x"']
)
def test_bad_grammars(tiny_model: ln.Model, text: str) -> None:
    with pytest.raises(ln.GrammarError) as caught:
        Sampler([samplers.grammar(tiny_model.vocab, text), samplers.greedy()])
    assert len(str(caught.value)) > 10


def test_a_token_that_the_grammar_forbids(tiny_model: ln.Model) -> None:
    vocab = tiny_model.vocab
    a, b = (int(vocab.tokenize(letter)[-1]) for letter in "ab")
    with Sampler([samplers.grammar(vocab, 'root ::= " a"'), samplers.greedy()]) as sampler:
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
    step = samplers.grammar_lazy(vocab, 'root ::= "abc"', tokens=[letters["a"]])
    with Sampler([step, samplers.greedy()]) as sampler:
        assert sampler.sample_logits(logits) == letters["z"]
        sampler.accept(letters["a"])
        assert sampler.sample_logits(logits) == letters["b"]
        assert sampler.sample_logits(logits) == letters["c"]
    with pytest.raises(ValueError, match="trigger"):
        samplers.grammar_lazy(vocab, 'root ::= "abc"')
    with pytest.raises(ln.GrammarError):
        Sampler([samplers.grammar_lazy(vocab, 'root ::= "abc"', patterns=["("]), samplers.greedy()])


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
        with (
            Sampler([samplers.top_k(5), selecting(tiny_model.vocab)]) as sampler,
            pytest.raises(ln.SamplingError, match="finite"),
        ):
            sampler.sample_logits(logits)


def test_a_chain_that_selects_nothing() -> None:
    with Sampler([samplers.top_k(5)]) as sampler, pytest.raises(ln.SamplingError, match="selects no token"):
        sampler.sample_logits(random_logits())
    with pytest.raises(ValueError, match="at least one step"):
        Sampler([])


BAD: list[Callable[[Vocab], object]] = [
    lambda _: samplers.top_k(2**31),
    lambda _: samplers.top_k(1.5),  # type: ignore[arg-type]
    lambda _: samplers.top_p(1.5),
    lambda _: samplers.top_p(math.nan),
    lambda _: samplers.top_p(0.5, -1),
    lambda _: samplers.min_p(-0.1),
    lambda _: samplers.typical(2),
    lambda _: samplers.temp(-1),
    lambda _: samplers.temp(math.inf),
    lambda _: samplers.temp_ext(1, math.nan),
    lambda _: samplers.xtc(2, 0.1),
    lambda _: samplers.top_n_sigma(-1),
    lambda v: samplers.mirostat(v, m=1),
    lambda _: samplers.mirostat_v2(tau=math.nan),
    lambda _: samplers.adaptive_p(2),
    lambda _: samplers.adaptive_p(0.5, decay=1.0),
    lambda v: samplers.penalties(v, last_n=2**31 - 1),
    lambda v: samplers.penalties(v, repeat=0.0),
    lambda v: samplers.penalties(v, frequency=math.inf),
    lambda v: samplers.dry(v, 0.8, base=0.5),
    lambda v: samplers.dry(v, 0.8, last_n=2**31 - 1),
    lambda v: samplers.dry(v, 0.8, breakers=[""]),
    lambda v: samplers.logit_bias(v, {N: 1.0}),
    lambda v: samplers.logit_bias(v, {-1: 1.0}),
    lambda v: samplers.logit_bias(v, {1: math.nan}),
    lambda v: samplers.logit_bias(v, {1: math.inf}),
    lambda v: samplers.grammar(v, ""),
    lambda v: samplers.grammar(v, "root ::= \0"),
    lambda v: samplers.grammar_lazy(v, "root ::= [a]", tokens=[N]),
    lambda _: samplers.dist(-1),
    lambda _: samplers.dist(2**65),
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
        lambda: samplers.top_k(draw(st.integers(-5, 400))),
        lambda: samplers.top_p(draw(REAL), draw(keep)),
        lambda: samplers.min_p(draw(REAL), draw(keep)),
        lambda: samplers.typical(draw(REAL), draw(keep)),
        lambda: samplers.temp(draw(st.floats(0, 100))),
        lambda: samplers.temp_ext(draw(st.floats(0, 5)), draw(st.floats(0, 5)), draw(st.floats(0, 5))),
        lambda: samplers.xtc(draw(REAL), draw(REAL), draw(keep), 1),
        lambda: samplers.top_n_sigma(draw(st.floats(0, 5))),
        lambda: samplers.penalties(vocab, draw(st.integers(0, 9)), draw(st.floats(0.1, 3)), draw(st.floats(-2, 2))),
        lambda: samplers.dry(vocab, draw(st.floats(0, 3)), draw(st.floats(1, 3)), draw(st.integers(0, 5)), draw(keep)),
        lambda: samplers.infill(vocab),
        lambda: samplers.dist(1),
        lambda: samplers.greedy(),
        lambda: samplers.mirostat(vocab, draw(st.floats(0, 10)), draw(REAL), seed=1),
        lambda: samplers.mirostat_v2(draw(st.floats(0, 10)), draw(REAL), seed=1),
        lambda: samplers.adaptive_p(draw(REAL), draw(st.floats(0, 0.99)), seed=1),
    ]
    chain = [draw(st.sampled_from(steps))() for _ in range(draw(st.integers(1, 6)))]
    with Sampler(chain) as sampler:
        for seed in range(4):
            logits = random_logits(seed) * draw(st.sampled_from([0, 1, 1e3, 1e30]))
            logits[draw(st.integers(0, N - 1)) :] = draw(st.sampled_from([0.0, -1e30, -math.inf]))
            with contextlib.suppress(ln.SamplingError):
                assert 0 <= sampler.sample_logits(logits.astype(np.float32)) < N


def test_sampling_from_a_context(tiny_model: ln.Model, make_context: MakeContext) -> None:
    context = make_context(tiny_model)
    context.decode(filled([5, 6, 7]))
    with Sampler([samplers.greedy()]) as sampler:
        assert sampler.sample(context, -1) == sampler.sample(context, 2) == int(np.argmax(context.logits(2)))
        for row in (0, 3, 10**6):
            with pytest.raises(ln.SamplingError, match="no logits"):
                sampler.sample(context, row)


def test_use_after_close() -> None:
    sampler = Sampler([samplers.greedy()])
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
        Sampler([samplers.greedy()]).accept(-1)
