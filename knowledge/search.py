"""Searching a store: by vector, by word, or both with their rankings fused; and joining neighbouring chunks.

The fusion is reciprocal rank fusion (Cormack, Clarke and Buettcher, SIGIR 2009): a chunk's score is the sum over the
rankings of weight / (k + rank), here divided by the largest possible sum. Knows hits and their order; making a query's
vector and keeping chunks are other modules' business.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from knowledge.settings import Mode
from knowledge.store import Chunk, Hit, Store
from llama_native.arrays import Floats


@dataclass(frozen=True, slots=True)
class Fusion:
    """How rankings are fused. Defaults: the best on a public corpus (`bench.retrieval`).

    :ivar k: the larger, the less the first ranks stand out.
    :ivar lexical_weight: weight of the ranking by words; the one by vectors has weight 1.
    :ivar candidates: how many hits of each ranking take part, at least.
    """

    k: float = 5.0
    lexical_weight: float = 0.5
    candidates: int = 50


def find(
    store: Store,
    query: str,
    vector: Floats | None,
    fingerprint: str,
    *,
    mode: Mode,
    top_k: int,
    threshold: float,
    fusion: Fusion,
) -> list[Hit]:
    """Returns the `top_k` best chunks for a query, best first.

    :param vector: the query's vector, of the embedding model with this `fingerprint`; None is enough for "lexical".
    :param threshold: least similarity, for "dense" and "hybrid", there of chunks found by words alone, too.
    :raises StoreError: as the store does.
    """
    if mode == "lexical":
        return store.lexical(query, top_k)
    assert vector is not None
    if mode == "dense":
        return [hit for hit in store.dense(vector, top_k, fingerprint) if hit.score >= threshold]
    candidates = max(fusion.candidates, top_k)
    dense = store.dense(vector, candidates, fingerprint)
    similar = [hit for hit in dense if hit.score >= threshold]
    lexical = store.lexical(query, candidates)
    allowed = {_key(hit) for hit in similar}
    by_words_alone = [hit for hit in lexical if _key(hit) not in allowed]
    if by_words_alone and len(similar) == len(dense):  # else they are less similar than one that is not similar enough
        compared = store.compare(vector, by_words_alone, fingerprint)
        allowed |= {_key(hit) for hit in compared if hit.score >= threshold}
    return fuse(similar, [hit for hit in lexical if _key(hit) in allowed], fusion)[:top_k]


def _key(hit: Hit) -> tuple[str, int]:
    return hit.file, hit.chunk.index


def fuse(dense: Sequence[Hit], lexical: Sequence[Hit], fusion: Fusion) -> list[Hit]:
    """Returns the hits of both rankings, best first, with fused scores between 0 and 1."""
    scores: dict[tuple[str, int], float] = {}
    hits: dict[tuple[str, int], Hit] = {}
    best = (1 + fusion.lexical_weight) / (fusion.k + 1)
    for ranking, weight in ((dense, 1.0), (lexical, fusion.lexical_weight)):
        for rank, hit in enumerate(ranking, 1):
            key = _key(hit)
            scores[key] = scores.get(key, 0.0) + weight / (fusion.k + rank) / best
            hits.setdefault(key, hit)
    order = sorted(scores, key=lambda key: (-scores[key], key))
    return [replace(hits[key], score=scores[key]) for key in order]


def merge_neighbours(hits: Sequence[Hit], count: Callable[[str], int]) -> list[Hit]:
    """Joins chunks that touch or overlap in their file into one hit, with the best score and the first one's index.

    :param count: tells how many tokens a text has.
    """
    by_file: dict[str, list[Hit]] = {}
    for hit in hits:
        by_file.setdefault(hit.file, []).append(hit)
    merged: list[Hit] = []
    for group in by_file.values():
        group.sort(key=lambda hit: hit.chunk.index)
        joined = group[:1]
        for hit in group[1:]:
            last = joined[-1]
            if hit.chunk.start <= last.chunk.end:
                chunk = _join(last.chunk, hit.chunk, count)
                joined[-1] = replace(last, chunk=chunk, score=max(last.score, hit.score))
            else:
                joined.append(hit)
        merged += joined
    return sorted(merged, key=lambda hit: -hit.score)


def _join(first: Chunk, second: Chunk, count: Callable[[str], int]) -> Chunk:
    text = first.text + second.text[first.end - second.start :]
    return Chunk(first.index, first.start, max(first.end, second.end), count(text), text)
