"""POST /v1/chat/completions: what the answers hold and what the parameters do."""

import json
import math
import os
import subprocess

import pytest
from server_process import Answer, ServerProcess, user

from engine import PHASES
from llama_native import Model

QUESTION = "Who was Albert Einstein?"


def text_of(answer: Answer) -> str:
    assert answer.status == 200, answer.body
    content = answer.json["choices"][0]["message"]["content"]
    assert isinstance(content, str)
    return content


def streamed(answer: Answer) -> str:
    assert answer.status == 200, answer.body
    return "".join(c["delta"].get("content", "") for e in answer.events[:-1] for c in e["choices"])


def test_the_documented_curl_prints_token_by_token(server: ServerProcess) -> None:
    body = (
        '{"stream": true, "model": "rusty_llm", "messages": [{"role": "user", "content": "Who was Albert Einstein?"}]}'
    )
    url = f"http://localhost:{server.port}/v1/chat/completions"
    command = ["curl", "-sN", "-X", "POST", url, "-H", "Content-Type: application/json", "-d", body]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as curl:
        assert curl.stdout is not None
        reads = []
        while data := os.read(curl.stdout.fileno(), 65536):
            reads.append(data)
    assert curl.returncode == 0
    events = [block.removeprefix(b"data: ") for block in b"".join(reads).split(b"\n\n")]
    assert events[-2:] == [b"[DONE]", b""]
    chunks = [json.loads(event) for event in events[:-2]]
    assert chunks[-1]["choices"][0]["finish_reason"] in ("stop", "length")
    # Each read is what had arrived by then: one or a few tokens, never the whole answer.
    assert len(reads) > len(chunks) / 4


def test_a_whole_answer_has_every_field(server: ServerProcess) -> None:
    answer = server.chat(QUESTION)
    body = answer.json
    assert answer.headers["Content-Type"] == "application/json"
    assert body["id"].startswith("chatcmpl-")
    assert body["object"] == "chat.completion"
    assert body["model"] == "rusty_llm"
    assert body["choices"][0]["index"] == 0
    assert body["choices"][0]["message"]["role"] == "assistant"
    assert body["choices"][0]["finish_reason"] == "length"
    assert body["choices"][0]["logprobs"] is None
    usage = body["usage"]
    assert usage["completion_tokens"] == 16
    assert usage["total_tokens"] == usage["prompt_tokens"] + 16
    assert 0 <= usage["prompt_tokens_details"]["cached_tokens"] < usage["prompt_tokens"]


def test_the_stream_says_the_same_as_the_whole_answer(server: ServerProcess) -> None:
    answer = server.chat(QUESTION, stream=True, stream_options={"include_usage": True})
    assert answer.headers["Content-Type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["Cache-Control"] == "no-cache"
    assert answer.headers["X-Accel-Buffering"] == "no"
    *chunks, last, done = answer.events
    assert done == "[DONE]"
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk["id"] for chunk in [*chunks, last]}) == 1
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * (len(chunks) - 1) + ["length"]
    assert all(chunk["usage"] is None for chunk in chunks)
    whole = server.chat(QUESTION)
    assert streamed(answer) == text_of(whole)
    assert last["choices"] == []
    assert last["usage"]["completion_tokens"] == whole.json["usage"]["completion_tokens"]
    assert last["usage"]["prompt_tokens"] == whole.json["usage"]["prompt_tokens"]


def test_without_include_usage_no_chunk_has_usage(server: ServerProcess) -> None:
    events = server.chat(QUESTION, stream=True).events
    assert all("usage" not in event for event in events[:-1])
    assert "timings" in events[-2]


@pytest.mark.parametrize("stream", [False, True])
def test_timings_tell_where_the_time_went(server: ServerProcess, stream: bool) -> None:
    answer = server.chat("Name a planet. " + os.urandom(4).hex(), stream=stream, ignore_eos=True)
    timings = answer.events[-2]["timings"] if stream else answer.json["timings"]
    phases = timings["phases"]
    assert set(phases) <= set(PHASES)
    assert {"parse", "turn", "template", "tokenize", "queue", "prefill", "decode", "sampling", "detokenize"} <= set(
        phases
    )
    assert all(seconds >= 0 for seconds in phases.values())
    assert timings["predicted_n"] == 16
    assert timings["prompt_n"] > 0
    assert timings["prompt_ms"] == pytest.approx(1000 * phases["prefill"])
    assert timings["prompt_per_second"] == pytest.approx(timings["prompt_n"] / phases["prefill"])
    assert timings["predicted_per_second"] == pytest.approx(1000 * 16 / timings["predicted_ms"])
    assert max(phases.values()) <= timings["total_seconds"]


def test_a_repeated_prompt_is_cached(server: ServerProcess) -> None:
    question = "What is a screw? " + os.urandom(4).hex()
    first, second = (server.chat(question, cache_prompt=True).json for _ in range(2))
    assert second["usage"]["prompt_tokens_details"]["cached_tokens"] > 0
    assert second["timings"]["cache_n"] == second["usage"]["prompt_tokens_details"]["cached_tokens"]
    assert second["timings"]["prompt_n"] + second["timings"]["cache_n"] == first["usage"]["prompt_tokens"]
    fresh = server.chat(question).json
    assert fresh["usage"]["prompt_tokens_details"]["cached_tokens"] == 0


def test_the_length_of_the_answer(server: ServerProcess) -> None:
    def length(**fields: object) -> int:
        usage = server.chat(QUESTION, ignore_eos=True, **fields).json["usage"]
        return int(usage["completion_tokens"])

    assert length(max_tokens=5) == 5
    assert length(max_tokens=9, max_completion_tokens=3) == 3
    assert length(max_tokens=None) == 128  # MODEL_MAX_TOKEN


def test_a_short_answer_stops_by_itself(server: ServerProcess) -> None:
    body = server.chat("Say hi.", max_tokens=200).json
    assert body["choices"][0]["finish_reason"] == "stop"
    assert body["usage"]["completion_tokens"] < 200
    assert "<|im_end|>" not in body["choices"][0]["message"]["content"]


@pytest.mark.parametrize("stream", [False, True])
def test_stop_strings_end_the_text_before_them(server: ServerProcess, stream: bool) -> None:
    full = text_of(server.chat(QUESTION, max_tokens=40))
    stop = full[len(full) // 2 :][:4]
    before = full[: full.index(stop)]
    read = streamed if stream else text_of
    assert read(server.chat(QUESTION, max_tokens=40, stop=stop, stream=stream)) == before
    answer = server.chat(QUESTION, max_tokens=40, stop=["never said", stop, ""], stream=stream)
    assert read(answer) == before
    choice = answer.events[-2]["choices"][0] if stream else answer.json["choices"][0]
    assert choice["finish_reason"] == "stop"


def test_a_seed_fixes_the_answer(server: ServerProcess) -> None:
    def ask(**fields: object) -> str:
        return text_of(server.chat(QUESTION, temperature=1.5, top_p=1, min_p=0, top_k=-1, **fields))

    assert ask(seed=7, cache_prompt=False) == ask(seed=7, cache_prompt=False)
    assert ask(seed=7) == ask(seed=7)  # both compute the last token of a cached prompt
    assert ask(seed=-1) == ask(seed=2**32 - 2)  # seeds are taken modulo 2^32 - 1
    assert len({ask(seed=seed) for seed in range(4)}) > 1


def test_logit_bias_forces_and_forbids(server: ServerProcess, vocab_model: Model) -> None:
    (token,) = vocab_model.vocab.tokenize(" banana").tolist()
    forced = server.chat(QUESTION, logit_bias={str(token): 100}, max_tokens=3)
    assert text_of(forced) == " banana banana banana"
    first = server.chat(QUESTION, max_tokens=1, logprobs=True).json["choices"][0]["logprobs"]["content"][0]
    (best,) = vocab_model.vocab.tokenize(bytes(first["bytes"])).tolist()
    assert text_of(server.chat(QUESTION, logit_bias={str(best): -100}, max_tokens=1)) != first["token"]


def test_repeat_penalty_reaches_the_sampler(server: ServerProcess) -> None:
    plain = text_of(server.chat(QUESTION, max_tokens=40))
    assert text_of(server.chat(QUESTION, max_tokens=40, repeat_penalty=2.0)) != plain


@pytest.mark.parametrize("stream", [False, True])
def test_logprobs_belong_to_the_tokens_of_the_text(server: ServerProcess, stream: bool) -> None:
    answer = server.chat(QUESTION, logprobs=True, top_logprobs=3, stream=stream)
    if stream:
        choices = [choice for event in answer.events[:-1] for choice in event["choices"] if choice["logprobs"]]
        entries = [entry for choice in choices for entry in choice["logprobs"]["content"]]
        content = streamed(answer)
    else:
        entries = answer.json["choices"][0]["logprobs"]["content"]
        content = text_of(answer)
    assert len(entries) == 16
    assert b"".join(bytes(entry["bytes"]) for entry in entries).decode() == content
    for entry in entries:
        assert len(entry["top_logprobs"]) == 3
        assert entry["top_logprobs"][0]["logprob"] == pytest.approx(entry["logprob"], rel=1e-5)  # greedy takes the best
        assert sum(math.exp(top["logprob"]) for top in entry["top_logprobs"]) <= 1 + 1e-6


def test_content_parts_are_one_text(server: ServerProcess) -> None:
    parts = [{"type": "text", "text": "Who was"}, {"type": "text", "text": "Albert Einstein?"}]
    in_parts = server.chat([{"role": "user", "content": parts}])
    assert text_of(in_parts) == text_of(server.chat("Who was\nAlbert Einstein?"))


def test_every_role_is_understood(server: ServerProcess) -> None:
    conversation = [
        {"role": "user", "content": "What is 2 + 2?"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "1", "function": {"name": "add", "arguments": "{}"}}],
        },
        {"role": "tool", "content": "4", "tool_call_id": "1"},
    ]
    as_system = server.chat([{"role": "system", "content": "Be brief."}, *conversation])
    as_developer = server.chat([{"role": "developer", "content": "Be brief."}, *conversation])
    assert text_of(as_system) == text_of(as_developer)


def test_unknown_fields_are_accepted(server: ServerProcess) -> None:
    assert server.chat(QUESTION, user="me", metadata={"a": "b"}, store=False, parallel_tool_calls=True).status == 200
    assert server.chat(QUESTION, tools=[], response_format={"type": "text"}, n=1, model=None).status == 200


def test_the_model_answers_to_its_file_name_too(server: ServerProcess) -> None:
    for name in ("rusty_llm", "model.gguf", "model"):
        assert server.chat("Hi", model=name, max_tokens=1).json["model"] == "rusty_llm"


def test_many_streams_at_once_say_what_each_says_alone(server: ServerProcess) -> None:
    from concurrent.futures import ThreadPoolExecutor

    questions = [f"What is the number {n}?" for n in range(8)]
    alone = [streamed(server.chat(question, stream=True)) for question in questions]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda question: server.chat(question, stream=True), questions))
    assert all(answer.events[-1] == "[DONE]" for answer in together)
    # Batched floating-point sums differ in the last bits, which can turn a near tie; most answers are the same.
    same = [streamed(answer)[:8] == text[:8] for answer, text in zip(together, alone, strict=True)]
    assert sum(same) >= 6


def test_null_bytes_and_rare_characters_come_through(server: ServerProcess) -> None:
    assert server.chat(user("a\x00b \U0001f9a5 \ufdd0 e\u0301")).status == 200


@pytest.mark.parametrize(
    "fields",
    [
        {"dry_multiplier": 5.0, "dry_allowed_length": 1, "dry_sequence_breakers": ["\n"], "temperature": 0},
        {"repeat_penalty": 1.8, "repeat_last_n": -1, "temperature": 0},
        {"xtc_probability": 1.0, "xtc_threshold": 0.05, "seed": 1, "temperature": 1.0},
        {"mirostat": 2, "mirostat_tau": 9.0, "mirostat_eta": 0.2, "seed": 1, "temperature": 1.0},
        {"mirostat": 1, "mirostat_tau": 9.0, "seed": 1, "temperature": 1.0},
        {"typical_p": 0.2, "seed": 1, "temperature": 1.5, "top_k": 0, "min_p": 0, "top_p": 1},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_an_extension_changes_the_choice_of_tokens(server: ServerProcess, fields: dict[str, object]) -> None:
    neutral = {name: fields[name] for name in ("seed", "temperature", "top_k", "min_p", "top_p") if name in fields}
    prompt = "Repeat these words: one two one two one two one two."
    plain = text_of(server.chat(prompt, max_tokens=40, **neutral))
    changed = text_of(server.chat(prompt, max_tokens=40, **fields))
    assert changed != plain


def test_top_n_sigma_leaves_only_the_likeliest_tokens(server: ServerProcess) -> None:
    narrow = {"top_n_sigma": 0.001, "temperature": 2.0, "top_k": 0, "top_p": 1, "min_p": 0}
    assert text_of(server.chat(QUESTION, seed=3, **narrow)) == text_of(server.chat(QUESTION))


def test_thoughts_in_earlier_messages_are_accepted(server: ServerProcess) -> None:
    earlier = {"role": "assistant", "content": "4", "reasoning_content": "2 and 2"}
    assert server.chat([*user("2 + 2?"), earlier, *user("Sure?")], reasoning_effort="low").status == 200
