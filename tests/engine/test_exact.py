"""Nothing is lost, doubled or mixed up: not by reuse, not by company, not by load."""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from engine_cases import GREEDY, PASSAGE, MakeEngine, Tokens, chat, text_of

from engine import Engine, Generation, Layout, Request, SamplingParams, Switch, TokenLogprobs
from llama_native import Model

sys.path.append(str(Path(__file__).parent.parent / "llama_native"))
import tiny

#: Largest difference in log probability, over the tokens that are at least 1% probable, between a prompt with and
#: without reuse. With weights, keys and values in 32 bits only the order of additions differs. Gemma's activation
#: function is a table in 16 bits: alike prompts differ by up to 8e-4 in other company.
TOLERANCE_F32 = 1e-4
TOLERANCE_GEMMA = 5e-3

#: Largest share of the probability that may lie elsewhere with reuse than without, for models with weights of 4 bits.
#: Activations are rounded to 8 bits for them, which makes much of the least difference, such as another order of cells:
#: log probabilities differ by up to 0.64 between prompts of Gemma 3 270M computed in chunks of 100 and of 512 tokens by
#: llama.cpp, the share by 0.02 to 0.09. Whether every cell of a window is in its place is for 32-bit models.
TOLERANCE_Q4 = 0.15

TOP = SamplingParams(temperature=0.0, logprobs=20)


def next_token(engine: Engine, prompt: Tokens, cache_prompt: bool) -> tuple[TokenLogprobs, int]:
    """The distribution of the token after `prompt`, and how many tokens came from the cache."""
    generation = engine.submit(Request(prompt, 1, TOP, ignore_eos=True, cache_prompt=cache_prompt))
    (entry,) = [entry for piece in generation for entry in piece.logprobs or ()]
    return entry, generation.cached_tokens


def distance(a: TokenLogprobs, b: TokenLogprobs) -> float:
    """The largest difference in log probability over the tokens that both find at least 1% probable."""
    first, second = dict(a.top), dict(b.top)
    return max(abs(first[t] - second[t]) for t in first.keys() & second.keys() if first[t] > np.log(0.01))


def moved(a: TokenLogprobs, b: TokenLogprobs) -> float:
    """How much probability is elsewhere in b than in a: their total variation, as far as their first 20 tokens tell."""
    first, second = ({token: np.exp(logprob) for token, logprob in entry.top} for entry in (a, b))
    return sum(abs(first.get(t, 0.0) - second.get(t, 0.0)) for t in first.keys() | second.keys()) / 2


@pytest.fixture(scope="module", params=["llama", "gemma", "mamba"])
def tiny_model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    """Random weights in 32 bits: whatever goes wrong with positions or cells changes their logits by far.

    One attends to everything, one in most layers to a short window, and one is recurrent.
    """
    path = tmp_path_factory.mktemp("tiny") / f"{request.param}.gguf"
    with Model(getattr(tiny, request.param)(path)) as loaded:
        yield loaded


def test_reuse_is_exact_in_any_company(tiny_model: Model, make_engine: MakeEngine, layout: Layout) -> None:
    """Many prompts with common beginnings, asked warm and cold, while others start, run and end around them."""
    engine = make_engine(tiny_model, kv_layout=layout, context=400, step_ms=2, kv_type="f32")
    chance = random.Random(3)
    stock: list[Tokens] = []
    company: list[Generation] = []
    reused = 0
    for _ in range(60):
        if chance.random() < 0.4:
            prompt = np.array(chance.choices(range(3, 200), k=chance.randrange(1, 150)), dtype=np.int32)
            company.append(engine.submit(Request(prompt, chance.randrange(1, 200), GREEDY, ignore_eos=True)))
        if len(company) > 2:
            company.pop(chance.randrange(3)).cancel()
        tail = np.array(chance.choices(range(3, 200), k=chance.randrange(1, 60)), dtype=np.int32)
        head = chance.choice(stock)[: chance.choice((chance.randrange(1, 250), 300))] if stock else tail
        prompt = np.concatenate([head, tail])
        stock.append(prompt)
        warm, cached = next_token(engine, prompt, cache_prompt=True)
        cold, _ = next_token(engine, prompt, cache_prompt=False)
        reused += cached
        assert distance(warm, cold) < (TOLERANCE_GEMMA if tiny_model.n_swa else TOLERANCE_F32)
    assert reused > 500
    for generation in company:
        generation.cancel()


def test_reuse_on_the_demo_model(model: Model, make_engine: MakeEngine, layout: Layout) -> None:
    engine = make_engine(model, kv_layout=layout)
    chance = random.Random(1)
    words = PASSAGE.split()
    reused = 0
    for _ in range(8):
        context = " ".join(words * chance.randrange(1, 4))
        prompt = chat(model, " ".join(chance.choices(words, k=chance.randrange(1, 30))), context)
        warm, cached = next_token(engine, prompt, cache_prompt=True)
        cold, nothing = next_token(engine, prompt, cache_prompt=False)
        assert nothing == 0
        if layout is Layout.STREAMS and model.packed_size:
            assert warm == cold
        assert moved(warm, cold) < TOLERANCE_Q4
        reused += cached
    assert reused > 200


def test_an_answer_is_the_same_bits_in_any_company(model: Model, make_engine: MakeEngine) -> None:
    """Seeded draws and their log probabilities: alone, beside others that come and go, and from the cache."""
    if not model.packed_size:
        pytest.skip("only our own kernels compute a token the same in any company")
    engine = make_engine(model, kv_layout=Layout.STREAMS, flash_attention=Switch.ON, threads=2)
    prompts = [chat(model, f"Tell me about the number {i}.", PASSAGE * i) for i in range(4)]

    def ask(number: int, cache_prompt: bool) -> Generation:
        hot = SamplingParams(temperature=1.2, seed=number, logprobs=5)
        return engine.submit(Request(prompts[number], 12 + number, hot, ignore_eos=True, cache_prompt=cache_prompt))

    def entries(generation: Generation) -> list[TokenLogprobs]:
        return [entry for piece in generation for entry in piece.logprobs or ()]

    alone = [entries(ask(number, cache_prompt=False)) for number in range(4)]
    for cache_prompt in (False, True, True):
        together = [ask(number, cache_prompt) for number in range(4)]
        assert [entries(generation) for generation in together] == alone
    assert all(generation.cached_tokens for generation in together)


def test_every_character_arrives_once_and_at_its_own_request(
    model: Model, make_engine: MakeEngine, layout: Layout
) -> None:
    """Grammars force texts that are known beforehand, so that any slip shows."""
    engine = make_engine(model, kv_layout=layout)
    chance = random.Random(2)
    alphabet = "abc xyz 019 äöü €ß 漢字 🙂🚀 \n"
    wanted = ["".join(chance.choices(alphabet, k=30)) + str(i) for i in range(12)]
    generations = []
    for i, text in enumerate(wanted):
        literal = text.replace("\n", "\\n")
        sampling = SamplingParams(temperature=0.0, grammar=f'root ::= "{literal}"')
        context = PASSAGE * (i % 3)
        generations.append(engine.submit(Request(chat(model, f"Question {i}", context), 200, sampling)))
    for text, generation in zip(wanted, generations, strict=True):
        assert text_of(generation) == text
        assert generation.finish_reason == "stop"


@pytest.mark.parametrize("fork_first", [True, False])
def test_a_sequence_taken_over_while_another_copies_from_it(
    small: Model, make_engine: MakeEngine, layout: Layout, fork_first: bool
) -> None:
    """In one step a conversation is cut and goes on in place, and a fork of it copies its beginning."""
    engine = make_engine(small, kv_layout=layout, context=400, kv_type="f32")
    chance = random.Random(4)

    def tokens(count: int) -> Tokens:
        return np.array(chance.choices(range(3, 200), k=count), dtype=np.int32)

    long = tokens(150)
    next_token(engine, long, cache_prompt=True)
    on = np.concatenate([long[:145], tokens(20)])
    fork = np.concatenate([long[:130], tokens(30)])
    prompts = [fork, on] if fork_first else [on, fork]
    steps = engine.stats().counters.steps
    group = engine.submit_all([Request(prompt, 1, TOP, ignore_eos=True) for prompt in prompts])
    found: dict[int, TokenLogprobs] = {}
    while (taken := group.next()) is not None:
        place, piece = taken
        for entry in piece.logprobs or ():
            found[place] = entry
    assert engine.stats().counters.steps == steps + 1
    sequences = engine._kv.sequences
    assert [sequence.length for sequence in sequences if sequence.length] == [on.size, fork.size]
    for place, prompt in enumerate(prompts):
        assert group.generations[place].cached_tokens >= 130
        assert distance(found[place], next_token(engine, prompt, cache_prompt=False)[0]) < TOLERANCE_F32


@pytest.fixture(scope="module")
def gemma(gemma_model_path: Path) -> Iterator[Model]:
    with Model(gemma_model_path) as loaded:
        yield loaded


def test_sliding_window_attention(gemma: Model, make_engine: MakeEngine, layout: Layout) -> None:
    """Prompts longer than the window, cut inside and before it, give the same answers with reuse as without."""
    assert gemma.n_swa > 0
    engine = make_engine(gemma, kv_layout=layout, parallel=2, context=2048)

    def prompt(question: str, passages: int) -> Tokens:
        text = f"<start_of_turn>user\n{PASSAGE * passages}{question}<end_of_turn>\n<start_of_turn>model\n"
        return gemma.vocab.tokenize(text, add_special=True, parse_special=True)

    base = prompt("Where is it?", 45)
    assert base.size > gemma.n_swa + 100
    reused = 0
    for question, passages in [("Where is it?", 45), ("Who is there?", 45), ("When?", 10), ("Why there?", 45)]:
        warm, cached = next_token(engine, prompt(question, passages), cache_prompt=True)
        reused += cached
        cold, _ = next_token(engine, prompt(question, passages), cache_prompt=False)
        assert moved(warm, cold) < TOLERANCE_Q4
    assert reused > gemma.n_swa
