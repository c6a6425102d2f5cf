"""The words that an embedding model wants in front of queries and documents.

Models trained for retrieval often tell the two apart by a prefix, and search worse without it. Which prefix belongs to
which family is in the families' model cards; here they are recognised by the names in the GGUF file. Knows names and
texts; loads nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

_PASSAGES = "Represent this sentence for searching relevant passages: "
_PASSAGES_ZH = "为这个句子生成表示以用于检索相关文章："
_INSTRUCT = "Instruct: Given a web search query, retrieve relevant passages that answer the query\nQuery: "


@dataclass(frozen=True, slots=True)
class Prefixes:
    """What goes before the text of a query and of a document. Empty for models that want nothing."""

    query: str = ""
    document: str = ""


#: The first pattern found in the model's names decides. Sources: the model cards of nomic-embed-text-v1.5, bge-*-v1.5,
#: bge-m3, e5-*-v2, multilingual-e5-*, e5-mistral-7b-instruct, mxbai-embed-large-v1, snowflake-arctic-embed,
#: embeddinggemma-300m, Qwen3-Embedding.
_FAMILIES: tuple[tuple[str, Prefixes], ...] = (
    (r"nomic-embed", Prefixes("search_query: ", "search_document: ")),
    (r"bge-m3", Prefixes()),
    (r"bge-.*-zh", Prefixes(_PASSAGES_ZH)),
    (r"bge-", Prefixes(_PASSAGES)),
    (r"\be5-.*instruct", Prefixes(_INSTRUCT)),
    (r"\be5-", Prefixes("query: ", "passage: ")),
    (r"mxbai-embed", Prefixes(_PASSAGES)),
    (r"arctic-embed-.*v2", Prefixes("query: ")),
    (r"arctic-embed", Prefixes(_PASSAGES)),
    (r"embeddinggemma", Prefixes("task: search result | query: ", "title: none | text: ")),
    (r"qwen3-embedding", Prefixes(_INSTRUCT)),
)


def recognise(metadata: Mapping[str, str], file_name: str = "") -> Prefixes:
    """Returns the prefixes of the model family, by the names in a GGUF file's metadata or its own."""
    fields = [metadata.get("general.basename", ""), metadata.get("general.name", ""), file_name]
    names = " ".join(re.sub(r"[\s_]+", "-", field.lower()) for field in fields)
    for pattern, prefixes in _FAMILIES:
        if re.search(pattern, names):
            return prefixes
    return Prefixes()
