"""POST /v1/embeddings: the reference model's vectors, every form of input, every refusal."""

import base64
import json
from typing import Any

import numpy as np
import openai
import pytest
from server_process import ROOT, Answer, ServerProcess

from server import config
from server.service import load_embedder

REFERENCE = json.loads((ROOT / "tests" / "model" / "reference.json").read_text())["entries"]
TEXTS = [entry["text"] for entry in REFERENCE]
VECTORS = np.array([entry["vector"] for entry in REFERENCE])


def embed(server: ServerProcess, inputs: object, **fields: object) -> Answer:
    return server.post("/v1/embeddings", {"input": inputs, **fields})


def vectors_of(answer: Answer) -> np.ndarray[Any, Any]:
    assert answer.status == 200, answer.body
    return np.array([item["embedding"] for item in answer.json["data"]])


def cosines(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.asarray(np.einsum("ij,ij->i", a, b) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1))


def test_vectors_are_those_of_the_reference_model_in_the_order_of_the_inputs(server: ServerProcess) -> None:
    answer = embed(server, TEXTS, model="embed")
    assert cosines(vectors_of(answer), VECTORS).min() >= 0.999
    body = answer.json
    assert (body["object"], body["model"]) == ("list", "embed")
    assert [(item["object"], item["index"]) for item in body["data"]] == [("embedding", i) for i in range(len(TEXTS))]
    count = sum(len(entry["tokens"]) for entry in REFERENCE)
    assert body["usage"] == {"prompt_tokens": count, "total_tokens": count}


def test_tokens_give_the_same_vectors_as_their_text(server: ServerProcess) -> None:
    lists = [entry["tokens"] for entry in REFERENCE]
    assert cosines(vectors_of(embed(server, lists)), VECTORS).min() >= 0.999
    assert cosines(vectors_of(embed(server, lists[0])), VECTORS[:1]).min() >= 0.999
    assert cosines(vectors_of(embed(server, TEXTS[0])), VECTORS[:1]).min() >= 0.999


def test_many_inputs_keep_their_order(server: ServerProcess) -> None:
    inputs = [TEXTS[(i * 5) % len(TEXTS)] for i in range(100)]
    expected = VECTORS[[(i * 5) % len(TEXTS) for i in range(100)]]
    assert cosines(vectors_of(embed(server, inputs)), expected).min() >= 0.999


def test_base64_holds_the_same_numbers_as_little_endian_float32(server: ServerProcess) -> None:
    numbers = vectors_of(embed(server, TEXTS[:3], encoding_format="float"))
    items = embed(server, TEXTS[:3], encoding_format="base64").json["data"]
    decoded = np.array([np.frombuffer(base64.b64decode(item["embedding"]), "<f4") for item in items])
    np.testing.assert_allclose(decoded, numbers, atol=1e-6)


def test_the_sdk_gets_vectors_of_length_one(server: ServerProcess) -> None:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        assert [model.id for model in client.models.list().data] == ["rusty_llm", "embed"]
        assert client.models.retrieve("embed").id == "embed"
        result = client.embeddings.create(model="embed", input=TEXTS[:2], dimensions=384)
        with pytest.raises(openai.NotFoundError):
            client.embeddings.create(model="text-embedding-3-small", input="hi")
    assert result.usage.prompt_tokens == sum(len(entry["tokens"]) for entry in REFERENCE[:2])
    found = np.array([item.embedding for item in result.data])
    assert cosines(found, VECTORS[:2]).min() >= 0.999
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)


@pytest.mark.parametrize(
    ("fields", "param", "reason"),
    [
        ({"input": ""}, "input", "input 0 is empty"),
        ({"input": []}, "input", "must not be empty"),
        ({"input": ["a", ""]}, "input", "input 1 is empty"),
        ({"input": [[1], []]}, "input", "input 1 is empty"),
        ({"input": ["a", 1]}, "input", "either strings"),
        ({"input": [[1], 1]}, "input", "either strings"),
        ({"input": ["a"] * 2049}, "input", "2049 inputs"),
        ({"input": ["a", "word " * 600]}, "input[1]", "at most 512 tokens, but this input has 602"),
        ({"input": [[1] * 513]}, "input[0]", "at most 512 tokens, but this input has 513"),
        ({"input": [5, 30522]}, "input[0][1]", "30522 is not a token"),
        ({"input": [[5], [-1]]}, "input[1][0]", "-1 is not a token"),
        ({"input": "a" * (2**20 + 1)}, "input[0]", "1048577 bytes"),
        ({"input": None}, "input", ""),
        ({"input": {"text": "a"}}, "input", ""),
        ({"input": [1.5]}, "input[0]", ""),
        ({}, "input", "Missing"),
        ({"input": "a", "dimensions": 256}, "dimensions", "384 dimensions"),
        ({"input": "a", "dimensions": 0}, "dimensions", ""),
        ({"input": "a", "encoding_format": "int8"}, "encoding_format", "int8"),
    ],
    ids=lambda value: repr(value)[:60],
)
def test_what_is_refused_and_why(server: ServerProcess, fields: dict[str, Any], param: str, reason: str) -> None:
    answer = server.post("/v1/embeddings", fields)
    assert answer.status == 400
    assert answer.error["type"] == "invalid_request_error"
    assert answer.error["param"].replace("[...]", "[0]") == param
    assert reason in answer.error["message"]


def test_what_is_too_long_has_its_own_code(server: ServerProcess) -> None:
    assert embed(server, "word " * 600).error["code"] == "context_length_exceeded"
    assert embed(server, "word " * 510).status == 200  # and two special tokens


@pytest.mark.parametrize("model", ["rusty_llm", "text-embedding-3-small"])
def test_the_chat_model_does_not_embed(server: ServerProcess, model: str) -> None:
    answer = embed(server, "hi", model=model)
    assert (answer.status, answer.error["code"], answer.error["param"]) == (404, "model_not_found", "model")
    assert "'embed'" in answer.error["message"]


def test_the_embedding_model_does_not_chat(server: ServerProcess) -> None:
    assert server.chat("hi", model="embed").status == 404


def test_without_an_embedding_model(launch: type[ServerProcess]) -> None:
    process = launch(EMBEDDING_MODEL="/nowhere/embed.gguf", MODEL_PARALLEL="1", MODEL_CONTEXT="256")
    process.wait_ready()
    answer = embed(process, "hi")
    assert (answer.status, answer.error["code"]) == (404, "model_not_found")
    assert "EMBEDDING_MODEL='/nowhere/embed.gguf' does not exist" in answer.error["message"]
    assert [model["id"] for model in process.get("/v1/models").json["data"]] == ["rusty_llm"]


def test_a_chat_model_is_no_embedding_model(launch: type[ServerProcess]) -> None:
    process = launch(EMBEDDING_MODEL=str(ROOT / "model" / "model.gguf"), MODEL_PARALLEL="1", MODEL_CONTEXT="256")
    assert process.wait_exit() == 3
    assert "cannot load EMBEDDING_MODEL=" in process.output
    assert "not an embedding model" in process.output


def test_the_embedding_models_kernels_are_those_of_the_configuration() -> None:
    for value in ("on", "off"):
        path = str(ROOT / "model" / "embed.gguf")
        embedder = load_embedder(config.read({"EMBEDDING_MODEL": path, "MODEL_KERNELS": value}))
        assert embedder is not None
        with embedder:
            assert embedder.model.params.kernels == (value == "on")
