"""POST /tokenize, /detokenize and /apply-template, as llama-server has them."""

from typing import Any

import pytest
from server_process import ServerProcess, user

from llama_native import Model

TEXT = "The screw turns: sloth \U0001f9a5, \u00e1."


def tokenize(server: ServerProcess, content: object, **fields: object) -> Any:
    answer = server.post("/tokenize", {"content": content, **fields})
    assert answer.status == 200, answer.body
    return answer.json["tokens"]


def test_tokens_are_the_models(server: ServerProcess, vocab_model: Model) -> None:
    assert tokenize(server, TEXT) == vocab_model.vocab.tokenize(TEXT, parse_special=True).tolist()
    assert tokenize(server, "") == []


def test_special_tokens_are_read_unless_asked_otherwise(server: ServerProcess, vocab_model: Model) -> None:
    (token,) = tokenize(server, "<|im_end|>")
    assert vocab_model.vocab.token_bytes(token, special=True) == b"<|im_end|>"
    assert len(tokenize(server, "<|im_end|>", parse_special=False)) > 1


def test_special_tokens_are_added_if_asked_for(launch: type[ServerProcess], gemma_model_path: Any) -> None:
    process = launch(MODEL_PATH=str(gemma_model_path), MODEL_PARALLEL="1", MODEL_CONTEXT="256")
    process.wait_ready()
    with_bos = tokenize(process, "hello", add_special=True)
    assert with_bos == [2, *tokenize(process, "hello")]
    assert tokenize(process, [" a", "b"], add_special=True)[0] == 2
    assert tokenize(process, [5, "b"], add_special=True)[:2] == [5, tokenize(process, "b")[0]]


def test_pieces_are_text_or_the_bytes_of_a_part_of_a_character(server: ServerProcess) -> None:
    tokens = tokenize(server, TEXT, with_pieces=True)
    assert [token["id"] for token in tokens] == tokenize(server, TEXT)
    pieces = [token["piece"] for token in tokens]
    assert any(isinstance(piece, list) for piece in pieces)
    assert any(isinstance(piece, str) for piece in pieces)
    assert b"".join(p.encode() if isinstance(p, str) else bytes(p) for p in pieces) == TEXT.encode()


def test_texts_and_tokens_can_be_mixed(server: ServerProcess) -> None:
    whole = [*tokenize(server, "one"), 7, *tokenize(server, " two")]
    assert tokenize(server, ["one", 7, " two"]) == whole


@pytest.mark.parametrize("text", [TEXT, "<|im_start|>user\nhi<|im_end|>", "", "\x00", "  spaces  "])
def test_detokenize_is_the_way_back(server: ServerProcess, text: str) -> None:
    answer = server.post("/detokenize", {"tokens": tokenize(server, text)})
    assert (answer.status, answer.json) == (200, {"content": text})


def test_the_template_gives_the_prompt_that_a_chat_computes(server: ServerProcess) -> None:
    messages = [{"role": "system", "content": "Be <|im_end|> brief."}, *user("Who?")]
    prompt = server.post("/apply-template", {"messages": messages}).json["prompt"]
    assert prompt == (
        "<|im_start|>system\nBe <|im_end|> brief.<|im_end|>\n<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\n"
    )
    harmless = [{"role": "system", "content": "Be brief."}, *user("Who?")]
    prompt = server.post("/apply-template", {"messages": harmless}).json["prompt"]
    usage = server.chat(harmless, max_tokens=1).json["usage"]
    assert usage["prompt_tokens"] == len(tokenize(server, prompt, add_special=True))


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/tokenize", {}, "content"),
        ("/tokenize", {"content": 5}, "content"),
        ("/tokenize", {"content": ["a", -1]}, "content[1]"),
        ("/tokenize", {"content": ["a", 10**9]}, "content[1]"),
        ("/tokenize", {"content": "a" * (2**20 + 1)}, "content"),
        ("/tokenize", {"content": "a", "with_pieces": "yes"}, "with_pieces"),
        ("/detokenize", {}, "tokens"),
        ("/detokenize", {"tokens": "a"}, "tokens"),
        ("/detokenize", {"tokens": [1, 49152]}, "tokens[1]"),
        ("/detokenize", {"tokens": [1, -1]}, "tokens[1]"),
        ("/detokenize", {"tokens": [2**70]}, "tokens[0]"),
        ("/apply-template", {}, "messages"),
        ("/apply-template", {"messages": []}, "messages"),
        ("/apply-template", {"messages": [{"role": "user"}]}, "messages[0].content"),
    ],
    ids=str,
)
def test_a_bad_parameter_is_named(server: ServerProcess, path: str, body: dict[str, Any], param: str) -> None:
    answer = server.post(path, body)
    assert answer.status == 400
    assert answer.error["param"].replace("[...]", "[0]") == param
