"""Answers from documents: finds passages for a chat, fits them into the model's context, and makes citations of them.

The query is the last user message. Chunks are taken best first until one does not fit: together they have at most
KNOWLEDGE_CONTEXT_TOKENS, and with prompt and answer no more than the model's context. Only then are neighbours joined
to passages, so that a long run of good chunks is shortened and not lost. What was left out is not cited.
Knows searches and token counts; where the passages stand in a prompt is `server.prompt`'s business.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Final

from knowledge.knowledge import Knowledge
from knowledge.sentences import best_sentence
from knowledge.store import Hit, StoreError
from server.errors import ApiError, invalid, unavailable
from server.exchange import Exchange
from server.prompt import NO_GROUNDS, Grounds, Tokens
from server.schema.chat import Message
from server.schema.knowledge import Citation, KnowledgeOptions
from server.service import Loaded, Service

log = logging.getLogger("server.grounding")

#: Where the model's context is small, the answer keeps this share of it free of passages.
_ANSWER_SHARE: Final = 4


def prompt(
    service: Service,
    loaded: Loaded,
    exchange: Exchange,
    messages: Sequence[Message],
    wanted: bool | KnowledgeOptions | None,
    max_tokens: int | None,
    build: Callable[[Grounds], Tokens],
) -> tuple[Tokens, list[Citation] | None]:
    """Return the prompt, with the passages found for the last user message in it, and the citations of these.

    :param wanted: the request's field `knowledge`; None: search if there are documents.
    :param max_tokens: the longest answer asked for.
    :param build: makes the prompt of the chat with something from documents in it.
    :returns: citations best first; None if documents were not searched.
    :raises ApiError: the chat is too long, or documents are asked for that this server does not have or reach.
    """
    with loaded.turns.take(exchange.body_bytes, exchange.timings):
        bare = build(NO_GROUNDS)
    if bare.size >= loaded.engine.context_size:  # the engine refuses it; nothing is searched for that
        return bare, None
    knowledge, query = service.knowledge, _query(messages)
    if wanted is False or (wanted is None and (knowledge is None or query is None)):
        return bare, None
    if knowledge is None:
        raise invalid("knowledge", "this server has no documents to search", "unsupported_value")
    if query is None:
        raise invalid("knowledge", "there is no user message to search for")
    try:
        options = wanted if isinstance(wanted, KnowledgeOptions) else None
        hits = search(knowledge, exchange, query, options, merge=False)
    except ApiError:
        if wanted is not None:
            raise
        return bare, []
    if not hits:
        return bare, []
    with loaded.turns.take(exchange.body_bytes, exchange.timings):  # not while documents are searched
        return _fit(service, loaded, knowledge, exchange, query, hits, max_tokens, bare, build)


def _fit(
    service: Service,
    loaded: Loaded,
    knowledge: Knowledge,
    exchange: Exchange,
    query: str,
    hits: Sequence[Hit],
    max_tokens: int | None,
    bare: Tokens,
    build: Callable[[Grounds], Tokens],
) -> tuple[Tokens, list[Citation]]:
    """Return the prompt with the best of `hits`, as many as there is room for, and their citations.

    :param hits: single chunks, best first.
    :param bare: the prompt without any.
    """
    config = service.config
    answer = min(max_tokens or config.model_max_token, loaded.engine.context_size // _ANSWER_SHARE)
    room = loaded.engine.context_size - answer
    copies = (config.model_prompt_template or config.knowledge_prompt).count("{context}")
    left = min(config.knowledge_context_tokens, (room - bare.size) // copies)
    taken: list[Hit] = []
    with exchange.timings.phase("tokenize"):
        for hit in hits:
            left -= loaded.vocab.tokenize(hit.chunk.text).size
            if left < 0:
                break
            taken.append(hit)
    while taken:
        passages = knowledge.merge(taken)
        grounded = build(grounds(query, passages))
        if grounded.size <= room:
            return grounded, [cite(hit) for hit in passages]
        taken.pop()
    return bare, []


def grounds(query: str, hits: Sequence[Hit]) -> Grounds:
    """Return what a prompt gets of `hits`, which are best first.

    Passages are in the order of the documents, so that questions which find the same ones share their prompt up to
    the sentence.
    """
    ordered = sorted(hits, key=lambda hit: (hit.file, hit.chunk.index))
    context = "\n\n".join(hit.chunk.text.strip() for hit in ordered)
    return Grounds(context, best_sentence(query, [hit.chunk.text for hit in hits]))


def search(
    knowledge: Knowledge, exchange: Exchange, query: str, options: KnowledgeOptions | None, merge: bool = True
) -> list[Hit]:
    """Return the passages for `query`, best first, and note the phases embed and search. Raises `ApiError`.

    `merge` joins chunks that are neighbours in their file.
    """
    options = options or KnowledgeOptions()
    try:
        result = knowledge.search(
            query, top_k=options.top_k, mode=options.mode, threshold=options.threshold, merge=merge
        )
    except StoreError as error:
        exchange.timings.lap("search")
        log.warning("documents cannot be searched: %s", error)
        raise unavailable("The documents cannot be searched now.", "knowledge_unavailable", 5) from error
    for phase, seconds in result.timings.items():
        exchange.timings.add(phase, seconds)
    return list(result.hits)


def cite(hit: Hit) -> Citation:
    """Return the citation of a passage."""
    return Citation(hit.file, hit.chunk.index, hit.score, hit.chunk.text)


def _query(messages: Sequence[Message]) -> str | None:
    """Return the text of the last user message."""
    for index, message in reversed(list(enumerate(messages))):
        if message.role == "user":
            return message.text(f"messages[{index}]") or None
    return None
