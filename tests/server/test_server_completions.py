"""POST /v1/completions with the openai package: prompts in every form, echo, and exact log probabilities."""

from collections.abc import Iterator

import numpy as np
import openai
import pytest
from openai.types import Completion
from server_process import MODEL, ServerProcess

from engine.plan import has_own_attention
from llama_native import Batch, Context, ContextParams, FlashAttention, GgmlType, Model, ModelParams

PROMPT = "The capital of France is"


@pytest.fixture(scope="module")
def client(server: ServerProcess) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    with Model(MODEL, ModelParams()) as loaded:
        yield loaded


def create(client: openai.OpenAI, prompt: object, **fields: object) -> Completion:
    """A greedy completion of 8 tokens unless `fields` say otherwise."""
    usual = {"model": "rusty_llm", "temperature": 0, "max_tokens": 8, "extra_body": {"cache_prompt": False}}
    completion = client.completions.create(prompt=prompt, **{**usual, **fields})  # type: ignore[call-overload]
    assert isinstance(completion, Completion)
    return completion


def log_probabilities(model: Model, tokens: list[int]) -> list[np.ndarray[tuple[int], np.dtype[np.float64]]]:
    """Row i: natural log probabilities of all tokens after tokens[: i + 1], by llama_native alone.

    Flash attention as in the server, which does not calibrate here: it rounds differently.
    """
    attention = FlashAttention.ON if has_own_attention(model, GgmlType.F16) else FlashAttention.OFF
    params = ContextParams(n_ctx=1024, n_batch=512, n_threads=1, flash_attention=attention)
    with Context(model, params) as context:
        batch = Batch(len(tokens))
        for position, token in enumerate(tokens):
            batch.add(token, position, 0, output=True)
        context.decode(batch)
        rows = [context.logits(row).astype(np.float64) for row in range(len(tokens))]
    return [row - np.logaddexp.reduce(row) for row in rows]


def test_a_text_is_continued(client: openai.OpenAI) -> None:
    completion = create(client, PROMPT)
    assert completion.object == "text_completion"
    assert completion.id.startswith("cmpl-")
    (choice,) = completion.choices
    assert "Paris" in choice.text
    assert choice.finish_reason == "length"
    assert choice.logprobs is None
    assert completion.usage is not None
    assert completion.usage.completion_tokens == 8


def test_token_ids_are_the_same_as_their_text(client: openai.OpenAI, model: Model) -> None:
    ids = model.vocab.tokenize(PROMPT).tolist()
    by_text, by_ids = create(client, PROMPT), create(client, ids)
    assert by_ids.choices[0].text == by_text.choices[0].text
    assert by_ids.usage is not None and by_ids.usage.prompt_tokens == len(ids)


def test_lists_of_prompts(client: openai.OpenAI, model: Model) -> None:
    prompts = [PROMPT, "Two plus two is", "Once upon a time"]
    alone = [create(client, prompt, max_tokens=4).choices[0].text for prompt in prompts]
    ids = [model.vocab.tokenize(prompt).tolist() for prompt in prompts]
    for together in (create(client, prompts, max_tokens=4), create(client, ids, max_tokens=4)):
        assert [choice.index for choice in together.choices] == [0, 1, 2]
        assert [choice.text for choice in together.choices] == alone
        assert together.usage is not None
        assert together.usage.prompt_tokens == sum(map(len, ids))
        assert together.usage.completion_tokens == 12


def test_choices_of_several_prompts(client: openai.OpenAI) -> None:
    wild = {"temperature": 1.5, "seed": 5, "n": 2, "best_of": 2, "max_tokens": 6}
    both = create(client, [PROMPT, "Once upon a time"], **wild).choices
    second = create(client, "Once upon a time", **wild).choices
    assert [choice.index for choice in both] == [0, 1, 2, 3]
    assert both[0].text != both[1].text
    assert [choice.text for choice in both[2:]] == [choice.text for choice in second]


@pytest.mark.parametrize("echo", [False, True])
def test_a_stream_says_the_same(client: openai.OpenAI, echo: bool) -> None:
    whole = create(client, PROMPT, echo=echo, logprobs=2)
    chunks = list(
        client.completions.create(
            model="rusty_llm", prompt=PROMPT, temperature=0, max_tokens=8, echo=echo, logprobs=2, stream=True,
            stream_options={"include_usage": True}, extra_body={"cache_prompt": False},
        )
    )  # fmt: skip
    choices = [choice for chunk in chunks for choice in chunk.choices]
    assert len(choices) > 4
    assert "".join(choice.text for choice in choices) == whole.choices[0].text
    tables = [choice.logprobs for choice in choices if choice.logprobs]
    expected = whole.choices[0].logprobs
    assert expected is not None
    assert [token for table in tables for token in table.tokens or ()] == expected.tokens
    assert [offset for table in tables for offset in table.text_offset or ()] == expected.text_offset
    assert chunks[-1].usage == whole.usage
    assert choices[-1].finish_reason == "length"


def test_echo_gives_the_prompt_back(client: openai.OpenAI, model: Model) -> None:
    plain = create(client, PROMPT).choices[0].text
    assert create(client, PROMPT, echo=True).choices[0].text == PROMPT + plain
    ids = model.vocab.tokenize(PROMPT).tolist()
    assert create(client, ids, echo=True).choices[0].text == PROMPT + plain
    assert create(client, PROMPT, echo=True, max_tokens=0).choices[0].text == PROMPT


TEXT = "Albert Einstein was a physicist. Ωμέγα is Greek, 🦥 is a sloth. " * 4


@pytest.fixture(scope="module")
def direct(model: Model) -> list[np.ndarray[tuple[int], np.dtype[np.float64]]]:
    return log_probabilities(model, model.vocab.tokenize(TEXT).tolist())


@pytest.mark.parametrize("warm", [False, True], ids=["cold", "cached prefix"])
@pytest.mark.parametrize("max_tokens", [0, 1])
def test_log_likelihoods_equal_a_direct_computation(
    client: openai.OpenAI,
    model: Model,
    direct: list[np.ndarray[tuple[int], np.dtype[np.float64]]],
    warm: bool,
    max_tokens: int,
) -> None:
    ids = model.vocab.tokenize(TEXT).tolist()
    assert len(ids) > 64  # several steps of scored rows
    if warm:  # a cached token has no logits any more: they must come all the same
        create(client, ids[:-20], extra_body={"cache_prompt": True}, max_tokens=2)
    cached = {"cache_prompt": True}
    completion = create(client, ids, echo=True, logprobs=5, max_tokens=max_tokens, extra_body=cached)
    table = completion.choices[0].logprobs
    assert completion.choices[0].finish_reason == "length"
    assert table is not None and table.tokens and table.token_logprobs and table.top_logprobs and table.text_offset
    assert len(table.tokens) == len(table.token_logprobs) == len(table.top_logprobs) == len(ids) + max_tokens
    expected = [float(row[token]) for row, token in zip(direct, ids[1:], strict=False)]
    assert table.token_logprobs[0] is None
    assert table.token_logprobs[1 : len(ids)] == pytest.approx(expected, abs=1e-3)
    assert sum(filter(None, table.token_logprobs[1 : len(ids)])) == pytest.approx(sum(expected), rel=1e-5)
    assert table.top_logprobs[0] is None
    for row, top in zip(direct, table.top_logprobs[1:], strict=False):
        assert top is not None
        assert max(top.values()) == pytest.approx(float(row.max()), abs=1e-3)
    for token, logprob, top in zip(table.tokens[1:], table.token_logprobs[1:], table.top_logprobs[1:], strict=True):
        assert top is not None and top[token] == logprob
    if max_tokens:
        assert table.token_logprobs[-1] == pytest.approx(float(direct[-1].max()), abs=1e-3)  # greedy


def test_the_token_that_ends_an_answer_has_a_row(client: openai.OpenAI, model: Model) -> None:
    """Harnesses cut the last row off, for the one token that they have to ask for: it must always be there."""
    ids = model.vocab.tokenize(PROMPT).tolist()
    (end,) = model.vocab.tokenize("<|im_end|>", parse_special=True).tolist()
    plain = create(client, ids, echo=True, logprobs=1, max_tokens=1).choices[0].logprobs
    ended = create(client, ids, echo=True, logprobs=1, max_tokens=1, logit_bias={str(end): 100}).choices[0]
    assert (ended.text, ended.finish_reason) == (PROMPT, "stop")
    assert ended.logprobs is not None and ended.logprobs.tokens and ended.logprobs.text_offset
    assert ended.logprobs.tokens[-1] == "<|im_end|>"
    assert ended.logprobs.text_offset[-1] == len(PROMPT)
    assert plain is not None and plain.token_logprobs
    assert ended.logprobs.token_logprobs is not None
    assert ended.logprobs.token_logprobs[:-1] == plain.token_logprobs[:-1]


@pytest.mark.parametrize("together", [2, 4])
def test_prompts_scored_together_have_the_scores_they_have_alone(client: openai.OpenAI, together: int) -> None:
    """But for rounding: how prompts are cut into chunks depends on who else is there, and moves scores by up to 0.3."""
    prompts = [
        "One is a word, and a sentence needs more of them. " * 3,
        "The quick brown fox jumps over the lazy dog near the bank of the river. " * 2,
        "In 1905 Albert Einstein published four papers that changed physics, on light, atoms, motion and mass.",
        "Preheat the oven, mix flour with butter and sugar, knead the dough and bake it until it is golden brown.",
    ]
    alone = [create(client, prompt, echo=True, logprobs=0, max_tokens=1).choices[0].logprobs for prompt in prompts]
    choices = create(client, prompts[:together], echo=True, logprobs=0, max_tokens=1).choices
    for place, choice in enumerate(choices):
        assert choice.logprobs is not None and choice.logprobs.token_logprobs is not None
        for other, expected in enumerate(alone):
            assert expected is not None and expected.token_logprobs is not None
            pairs = zip(choice.logprobs.token_logprobs[1:], expected.token_logprobs[1:], strict=other == place)
            distance = max(abs(score - wanted) for score, wanted in pairs)
            assert distance < 0.5 if other == place else distance > 2, (place, other, distance)
        assert choice.logprobs.tokens == alone[place].tokens


def test_where_each_token_begins(client: openai.OpenAI) -> None:
    choice = create(client, TEXT, echo=True, logprobs=0, max_tokens=3).choices[0]
    table = choice.logprobs
    assert table is not None and table.tokens and table.text_offset and table.top_logprobs
    assert table.text_offset[0] == 0
    for token, offset in zip(table.tokens, table.text_offset, strict=True):
        if not token.startswith("bytes:"):
            assert choice.text[offset : offset + len(token)] == token
    assert any(token.startswith("bytes:\\x") for token in table.tokens)
    assert all(top is None or len(top) == 1 for top in table.top_logprobs)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": []}, "prompt"),
        ({"prompt": ""}, "prompt"),
        ({"prompt": ["a", 1]}, "prompt"),
        ({"prompt": [[]]}, "prompt"),
        ({"prompt": [10**6]}, "prompt"),
        ({"prompt": [-1]}, "prompt[0]"),
        ({"prompt": None}, "prompt"),
        ({"prompt": ["a"] * 13}, "prompt"),
        ({"prompt": "word " * 3000}, "prompt"),
        ({"prompt": [1] * 3000}, "prompt"),
        ({"suffix": "x"}, "suffix"),
        ({"best_of": 2}, "best_of"),
        ({"logprobs": 21}, "logprobs"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"grammar": "root ::= x"}, "grammar"),
    ],
)
def test_what_is_refused_names_the_parameter(server: ServerProcess, fields: dict[str, object], param: str) -> None:
    answer = server.post("/v1/completions", {"prompt": "x", "max_tokens": 1, **fields})
    assert answer.status == 400
    assert answer.error["param"] == param


def test_a_prompt_is_required(server: ServerProcess) -> None:
    answer = server.post("/v1/completions", {"max_tokens": 1})
    assert answer.status == 400
    assert answer.error["code"] == "missing_required_parameter"
