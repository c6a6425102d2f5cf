"""GET /v1/models and /v1/models/{id}: the one model that is served, and the check that a request names it."""

from __future__ import annotations

import msgspec
from werkzeug.wrappers import Response

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
    """List the model."""
    return exchange.json(ModelList(data=[_body(service, service.loaded())]))


def show(service: Service, exchange: Exchange, model: str) -> Response:
    """Describe the model `model`; 404 if it is another one."""
    require(service, model)
    return exchange.json(_body(service, service.loaded()))


def require(service: Service, name: str | None) -> None:
    """Raise a 404 unless `name` is a name of the served model, or absent: one process serves one model."""
    if name is not None and name not in service.model_names:
        raise ApiError(
            404,
            f"The model {name[:200]!r} does not exist; this server has {service.model_names[0]!r}.",
            param="model",
            code="model_not_found",
        )


def _body(service: Service, loaded: Loaded) -> ModelBody:
    model = loaded.model
    meta = ModelMeta(
        description=model.description,
        n_params=model.n_params,
        size=model.size,
        n_vocab=model.vocab.n_tokens,
        n_embd=model.n_embd,
        n_ctx_train=model.n_ctx_train,
        n_ctx=loaded.engine.context_size,
    )
    return ModelBody(id=service.model_names[0], created=loaded.created, meta=meta)
