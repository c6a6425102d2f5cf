"""Thoughts and answers: told apart in any cut of the text, and by a real model that has been shown the tags."""

from collections.abc import Iterator
from typing import Any

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from server_process import ServerProcess

from server.reasoning import ReasoningSplitter, opened_by

#: (text, closing tag that the prompt demands, thoughts, content)
CASES = [
    ("Hello <think>no</think>", None, "", "Hello <think>no</think>"),
    ("<think>a b</think>c", None, "a b", "c"),
    ("\n<think>\n\na\nb \n</think>\n\nc d\n", None, "a\nb", "c d\n"),
    ("<think>a</thi", None, "a</thi", ""),
    ("<think>a </think", None, "a </think", ""),
    ("<thi", None, "", "<thi"),
    ("  <x>", None, "", "  <x>"),
    ("<think></think>c", None, "", "c"),
    ("a</think>b</think>", "</think>", "a", "b</think>"),
    ("\na </thinking></think> b", "</think>", "a </thinking>", "b"),
    ("[THINK]a[/THINK]b", None, "a", "b"),
    ("<seed:think>a</seed:think>b", None, "a", "b"),
    ("", None, "", ""),
]


@pytest.mark.parametrize(("text", "closing", "reasoning", "content"), CASES)
@given(data=st.data())
def test_thoughts_in_any_cut(data: st.DataObject, text: str, closing: str | None, reasoning: str, content: str) -> None:
    cuts = data.draw(st.lists(st.integers(0, len(text)), max_size=8).map(sorted))
    splitter = ReasoningSplitter(closing)
    parts = []
    for begin, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
        transparent = splitter.transparent
        parts.append(splitter.feed(text[begin:end]))
        assert not transparent or (parts[-1] == ("", text[begin:end]) and splitter.transparent)
    parts.append(splitter.flush())
    assert "".join(thought for thought, _ in parts) == reasoning
    assert "".join(said for _, said in parts) == content


def test_tags_that_the_prompt_opens() -> None:
    assert opened_by("<|assistant|>\n<think>\n") == "</think>"
    assert opened_by("<|assistant|>\n<think>\n\n</think>\n\n") is None
    assert opened_by("hello") is None


#: A text that the demo model goes on with by copying it, tags included.
PATTERN = "<think>The sum is four.</think>It is 4.\n" * 12


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[openai.OpenAI]:
    log = tmp_path_factory.mktemp("server") / "log"
    variables = {"MODEL_PROMPT_TEMPLATE": "{context}{query}", "MODEL_CONTEXT": "1024", "MODEL_PARALLEL": "2"}
    with ServerProcess(log, **variables) as server:
        server.wait_ready()
        yield openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)


def ask(client: openai.OpenAI, prompt: str, **fields: object) -> tuple[str | None, str | None]:
    """(thoughts, content) of the whole answer."""
    message = (
        client.chat.completions.create(
            model="rusty_llm",
            messages=[{"role": "user", "content": prompt}],
            temperature=0,
            max_tokens=40,
            stop="\n",
            extra_body=fields,
        )
        .choices[0]
        .message
    )
    return getattr(message, "reasoning_content", None), message.content


def ask_streamed(client: openai.OpenAI, prompt: str) -> tuple[str, str]:
    """The same, put together from a stream."""
    thoughts = content = ""
    for chunk in client.chat.completions.create(
        model="rusty_llm",
        messages=[{"role": "user", "content": prompt}],
        temperature=0,
        max_tokens=40,
        stop="\n",
        stream=True,
    ):
        delta = chunk.choices[0].delta
        more = getattr(delta, "reasoning_content", None) or ""
        assert not (more and content), "a thought after the answer began"
        thoughts += more
        content += delta.content or ""
    return thoughts, content


@pytest.mark.parametrize("opened", [False, True], ids=["by the model", "by the prompt"])
def test_a_models_thoughts_are_told_from_its_answer(client: openai.OpenAI, opened: bool) -> None:
    prompt = PATTERN + ("<think>" if opened else "")
    assert ask(client, prompt) == ("The sum is four.", "It is 4.")
    assert ask_streamed(client, prompt) == ("The sum is four.", "It is 4.")


def test_thoughts_stay_in_the_content_if_asked_to(client: openai.OpenAI) -> None:
    assert ask(client, PATTERN, reasoning_format="none") == (None, "<think>The sum is four.</think>It is 4.")


def test_tokens_of_thoughts_are_counted(client: openai.OpenAI) -> None:
    fields: dict[str, Any] = {
        "model": "rusty_llm",
        "messages": [{"role": "user", "content": PATTERN}],
        "temperature": 0,
        "max_tokens": 40,
        "stop": "\n",
    }
    plain = client.chat.completions.create(**fields, logprobs=True, extra_body={"reasoning_format": "none"})
    assert plain.choices[0].logprobs is not None and plain.choices[0].logprobs.content is not None
    texts = [entry.token for entry in plain.choices[0].logprobs.content]
    expected = next(n for n in range(len(texts)) if "</think>" in "".join(texts[:n]))
    whole = client.chat.completions.create(**fields)
    *_, last = client.chat.completions.create(**fields, stream=True, stream_options={"include_usage": True})
    for usage, count in ((plain.usage, 0), (whole.usage, expected), (last.usage, expected)):
        assert usage is not None and usage.completion_tokens_details is not None
        assert usage.completion_tokens_details.reasoning_tokens == count
    response = client.responses.create(model="rusty_llm", input=PATTERN, temperature=0, max_output_tokens=40,
                                       extra_body={"stop": "\n"})  # fmt: skip
    assert response.usage is not None and response.usage.output_tokens_details.reasoning_tokens == expected


def test_an_answer_that_ends_in_its_thoughts(client: openai.OpenAI) -> None:
    thoughts, content = ask(client, PATTERN, max_tokens=4)
    assert thoughts and "The sum is four.".startswith(thoughts)
    assert content == ""


def test_thoughts_are_an_item_of_a_response(client: openai.OpenAI) -> None:
    events = list(
        client.responses.create(
            model="rusty_llm",
            input=PATTERN,
            temperature=0,
            max_output_tokens=40,
            stream=True,
            extra_body={"stop": "\n"},
        )
    )
    thoughts = "".join(event.delta for event in events if event.type == "response.reasoning_text.delta")
    assert thoughts == "The sum is four."
    final = events[-1]
    assert final.type == "response.completed"
    assert [item.type for item in final.response.output] == ["reasoning", "message"]
    assert final.response.output_text == "It is 4."
