"""GET /v1/models and /v1/models/{id}: the models that are served, and the check that a request names the right one."""

from __future__ import annotations

import msgspec
from werkzeug.wrappers import Response

from knowledge.embedder import Embedder
from llama_native import Model
from server.errors import ApiError
from server.exchange import Exchange
from server.service import Loaded, Service


class ModelMeta(msgspec.Struct, frozen=True):
    """What is known of the model itself, with llama-server's names. Sizes are in bytes."""

    description: str
    n_params: int
    size: int
    n_vocab: int
    n_embd: int
    n_ctx_train: int
    n_ctx: int
    """Tokens that one request may use."""


class ModelBody(msgspec.Struct, frozen=True, kw_only=True):
    """OpenAI's model object, with `meta` as llama-server has it."""

    id: str
    object: str = "model"
    created: int
    owned_by: str = "lucid-llm"
    meta: ModelMeta


class ModelList(msgspec.Struct, frozen=True, kw_only=True):
    """OpenAI's list of models."""

    object: str = "list"
    data: list[ModelBody]


def index(service: Service, exchange: Exchange) -> Response:
    """List the chat model and, if there is one, the embedding model."""
    loaded = service.loaded()
    models = [_chat_model(service, loaded)]
    if loaded.embedder is not None:
        models.append(_embedding_model(service, loaded, loaded.embedder))
    return exchange.json(ModelList(data=models))


def show(service: Service, exchange: Exchange, model: str) -> Response:
    """Describe one model, by its id or its file's name."""
    loaded = service.loaded()
    embedder = loaded.embedder
    if embedder is not None and model in service.embedding_names and model not in service.model_names:
        return exchange.json(_embedding_model(service, loaded, embedder))
    require(service, model)
    return exchange.json(_chat_model(service, loaded))


def require(service: Service, name: str | None) -> None:
    """Raise a 404 unless `name` is a name of the chat model, or absent: one process serves one."""
    _require(name, service.model_names)


def require_embedding(service: Service, name: str | None) -> None:
    """Raise a 404 unless `name` is a name of the embedding model, or absent."""
    _require(name, service.embedding_names)


def _require(name: str | None, names: tuple[str, ...]) -> None:
    if name is not None and name not in names:
        raise ApiError(
            404,
            f"The model {name[:200]!r} does not exist here; this server has {names[0]!r}.",
            param="model",
            code="model_not_found",
        )


def _chat_model(service: Service, loaded: Loaded) -> ModelBody:
    meta = _meta(loaded.model, loaded.engine.context_size)
    return ModelBody(id=service.model_names[0], created=loaded.created, meta=meta)


def _embedding_model(service: Service, loaded: Loaded, embedder: Embedder) -> ModelBody:
    meta = _meta(embedder.model, embedder.max_tokens)
    return ModelBody(id=service.embedding_names[0], created=loaded.created, meta=meta)


def _meta(model: Model, context: int) -> ModelMeta:
    return ModelMeta(
        description=model.description,
        n_params=model.n_params,
        size=model.size,
        n_vocab=model.vocab.n_tokens,
        n_embd=model.n_embd,
        n_ctx_train=model.n_ctx_train,
        n_ctx=context,
    )
