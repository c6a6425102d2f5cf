"""The body of POST /v1/embeddings and its answer.

Knows OpenAI's fields and limits; knows nothing of tokens' meaning or of the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

import msgspec

from server.errors import invalid
from server.schema.sampling import Count

#: Most inputs of one request (OpenAI's limit).
MAX_INPUTS: Final = 2048


class EmbeddingsRequest(msgspec.Struct, kw_only=True, frozen=True):
    """A request for embeddings of one text, several texts, or their token ids."""

    input: str | list[str | int | list[int]]
    model: str | None = None
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Count | None = None

    @property
    def inputs(self) -> Sequence[str | list[int]]:
        """Every input: all of them texts, or all of them token ids. Raises `ApiError` for other mixtures."""
        if isinstance(self.input, str):
            return [self.input]
        texts = [item for item in self.input if isinstance(item, str)]
        tokens = [item for item in self.input if isinstance(item, int)]
        lists = [item for item in self.input if isinstance(item, list)]
        if not self.input:
            raise invalid("input", "the list must not be empty")
        if len(self.input) not in (len(texts), len(tokens), len(lists)):
            raise invalid("input", "a list holds either strings, or token ids, or lists of token ids")
        if len(texts) > MAX_INPUTS or len(lists) > MAX_INPUTS:
            raise invalid("input", f"{len(self.input)} inputs are more than the {MAX_INPUTS} of one request")
        if texts:
            return texts
        return lists or [tokens]


class Embedding(msgspec.Struct, frozen=True, kw_only=True):
    """The vector of one input: numbers, or their bytes as little-endian float32 in base64."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class EmbeddingsUsage(msgspec.Struct, frozen=True):
    """OpenAI's token counts; both are those of all inputs together."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingsBody(msgspec.Struct, frozen=True, kw_only=True):
    """OpenAI's list of embeddings, in the order of the inputs."""

    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: EmbeddingsUsage
