"""The documents of this server: opens the knowledge base that the configuration names, or says why there is none.

A chat needs no documents, so what is wrong with them never keeps the server from starting. Knows the configuration and
the knowledge base; knows nothing of requests.
"""

from __future__ import annotations

import logging
from typing import cast

from knowledge.embedder import Embedder
from knowledge.knowledge import Knowledge
from knowledge.settings import KnowledgeSettings, Mode, SettingsError, usual_overlap
from knowledge.store import StoreError
from server.config import Config

log = logging.getLogger("server.documents")


def open_knowledge(config: Config, embedder: Embedder | None) -> Knowledge | None:
    """Return the knowledge base, reading its documents in the background from now on; None if there can be none.

    A store that cannot be opened now is tried again with every use of it, and every few seconds.

    `embedder` is the embedding model, which stays the caller's; None if EMBEDDING_MODEL does not exist.
    """
    if config.knowledge_mode == "off":
        return None
    if not config.data_path.is_dir():
        log.warning("DATA_PATH=%s is not a folder: chats are answered without documents", config.data_path)
        return None
    if embedder is None:
        log.warning("EMBEDDING_MODEL=%s is not there: chats are answered without documents", config.embedding_model)
        return None
    try:
        knowledge = Knowledge(_settings(config), embedder)
    except (StoreError, SettingsError) as error:
        log.error("chats are answered without documents: %s", error)
        return None
    except Exception:
        log.exception("chats are answered without documents")
        return None
    try:
        knowledge.store.stats()  # opens it, so that the first search need not wait
        log.info("documents of %s in %s", config.data_path, knowledge.store.location)
    except StoreError as error:
        log.error("chats are answered without documents until this store can be opened: %s", error)
    knowledge.start_watching()
    return knowledge


def _settings(config: Config) -> KnowledgeSettings:
    overlap = config.knowledge_chunk_overlap
    return KnowledgeSettings(
        data_path=config.data_path,
        embedding_model=config.embedding_model,
        url=config.knowledge_url or "",
        top_k=config.knowledge_top_k,
        threshold=config.knowledge_threshold,
        mode=cast(Mode, config.knowledge_mode),
        chunk_tokens=config.knowledge_chunk_tokens,
        chunk_overlap=usual_overlap(config.knowledge_chunk_tokens) if overlap is None else overlap,
        document_weight=config.knowledge_document_weight,
        watch=config.knowledge_watch,
        file_bytes=config.knowledge_file_bytes,
        query_prefix=config.knowledge_query_prefix,
        document_prefix=config.knowledge_document_prefix,
    )
