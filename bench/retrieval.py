"""Retrieval quality: nDCG@10 of every search mode over a public corpus with known-item questions.

Each question (see `bench.corpus`) has one right document, so nDCG@10 is 1 / log2(1 + its rank), 0 below rank 10. A
document's rank is that of its best chunk. Compared on the same chunks: dense, lexical (BM25), their plain reciprocal
rank fusion (Cormack et al., SIGIR 2009; k = 60), weighted fusions, and the store's default mode; and apart from chunks,
dense search over whole documents cut off at what the embedding model reads. Differences to the default mode are paired
by question, with 95% bootstrap intervals.

Then the threshold: the best cosine of these questions, and of questions that the corpus cannot answer.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bench.corpus import CorpusError, KnownItem, folder, load, questions_of
from bench.report import end_cleanly, fail, machine, machine_line, progress, table, write_json
from knowledge.embedder import Embedder
from knowledge.indexer import Indexer
from knowledge.settings import KnowledgeSettings
from knowledge.sqlite_store import SqliteStore
from knowledge.store import Hit, Store, StoreError

#: Chunks that each search contributes to a fusion.
DEPTH = 100
RESAMPLES = 10_000
#: The mode of `MODES` that the knowledge base has as its default.
DEFAULT = "RRF, k 10, dense 0.6"

#: Questions that no document of the corpus answers: small talk, other subjects, tasks without a subject.
UNANSWERABLE = (
    "Hello, how are you today?",
    "Thank you very much!",
    "Write a poem about the sea in autumn.",
    "What is the capital of Mongolia?",
    "Who was Albert Einstein?",
    "Give me a recipe for lentil soup.",
    "How do I get red wine stains out of a carpet?",
    "Translate good morning into Spanish.",
    "Tell me a joke about penguins.",
    "Which team won the football world cup in 1990?",
    "How long should I boil an egg?",
    "What should I wear to a wedding in winter?",
    "Explain how a volcano erupts.",
    "Who painted the Mona Lisa?",
    "What are good names for a cat?",
    "How can I fall asleep faster?",
    "Plan a weekend in Lisbon for two people.",
    "What is the difference between a crow and a raven?",
    "Summarize the plot of Hamlet.",
    "How tall is Mount Kilimanjaro?",
    "Suggest a birthday present for my grandmother.",
    "Why is the sky blue?",
    "How do plants make sugar from sunlight?",
    "What is the best way to learn the violin?",
    "Who was Thom Rhubarb?",
    "When did the Roman Empire fall?",
    "How much water should I drink a day?",
    "What rhymes with orange?",
    "How do I change a flat tyre on a bicycle?",
    "Which vitamins are in carrots?",
    "Write a short letter to my landlord about the heating.",
    "What is the plural of octopus?",
    "How many strings does a harp have?",
    "Is it going to rain tomorrow?",
    "What do the colours of the French flag mean?",
    "How far away is the moon?",
    "What is a good opening move in chess?",
    "Who wrote Pride and Prejudice?",
    "How do bees make honey?",
    "Can you recommend a good crime novel?",
)

Scores = npt.NDArray[np.float64]


def rrf(dense: Sequence[Hit], lexical: Sequence[Hit], k: float = 60, weight: float = 0.5) -> dict[str, float]:
    """Files by the best fused score of their chunks; `weight` is that of the dense list."""
    chunks: dict[tuple[str, int], float] = {}
    for share, hits in ((weight, dense), (1 - weight, lexical)):
        for rank, hit in enumerate(hits, 1):
            key = (hit.file, hit.chunk.index)
            chunks[key] = chunks.get(key, 0.0) + share / (k + rank)
    return _best_of_file([(file, score) for (file, _), score in chunks.items()])


def convex(dense: Sequence[Hit], lexical: Sequence[Hit], weight: float) -> dict[str, float]:
    """Files by a weighted sum of cosine and BM25, the latter divided by the query's best (Bruch et al., TOIS 2023)."""
    best = lexical[0].score if lexical else 1.0
    chunks = {(hit.file, hit.chunk.index): weight * hit.score for hit in dense}
    floor = dense[-1].score if dense else 0.0
    for hit in lexical:
        key = (hit.file, hit.chunk.index)
        chunks[key] = chunks.get(key, weight * floor) + (1 - weight) * hit.score / best
    return _best_of_file([(file, score) for (file, _), score in chunks.items()])


def files_of(hits: Sequence[Hit]) -> dict[str, float]:
    """Files by the best score of their chunks."""
    return _best_of_file([(hit.file, hit.score) for hit in hits])


def _best_of_file(scored: Sequence[tuple[str, float]]) -> dict[str, float]:
    files: dict[str, float] = {}
    for file, score in scored:
        files[file] = max(score, files.get(file, -np.inf))
    return files


def ndcg(files: dict[str, float], right: str) -> float:
    """NDCG@10 for one right file; ties are broken by name."""
    ranked = sorted(files, key=lambda file: (-files[file], file))[:10]
    return 1 / float(np.log2(ranked.index(right) + 2)) if right in ranked else 0.0


Mode = Callable[[Sequence[Hit], Sequence[Hit]], dict[str, float]]

MODES: dict[str, Mode] = {
    "dense": lambda dense, _: files_of(dense),
    "lexical": lambda _, lexical: files_of(lexical),
    "RRF, k 60": rrf,
    "RRF, k 10": lambda dense, lexical: rrf(dense, lexical, 10),
    "RRF, k 10, dense 0.6": lambda dense, lexical: rrf(dense, lexical, 10, 0.6),
    "RRF, k 10, dense 0.7": lambda dense, lexical: rrf(dense, lexical, 10, 0.7),
    "RRF, k 60, dense 0.7": lambda dense, lexical: rrf(dense, lexical, 60, 0.7),
    "scores, dense 0.5": lambda dense, lexical: convex(dense, lexical, 0.5),
    "scores, dense 0.6": lambda dense, lexical: convex(dense, lexical, 0.6),
    "scores, dense 0.7": lambda dense, lexical: convex(dense, lexical, 0.7),
    "scores, dense 0.8": lambda dense, lexical: convex(dense, lexical, 0.8),
}


def interval(differences: Scores, seed: int = 0) -> tuple[float, float]:
    """The 95% bootstrap interval of the mean of paired differences."""
    draws = np.random.default_rng(seed).integers(0, len(differences), (RESAMPLES, len(differences)))
    low, high = np.percentile(differences[draws].mean(axis=1), (2.5, 97.5))
    return float(low), float(high)


def write_corpus(items: Sequence[KnownItem], target: Path) -> None:
    """Write the documents below `target`, for an indexer to read."""
    for item in items:
        path = target / item.file
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_text() != item.text:
            path.write_text(item.text)


def whole_documents(embedder: Embedder, items: Sequence[KnownItem]) -> npt.NDArray[np.float32]:
    """Vectors (n, d) of the documents, each cut off at what the model reads."""
    vectors = np.empty((len(items), embedder.dimensions), np.float32)
    with progress(len(items), "embedding whole documents", "document") as bar:
        for at in range(0, len(items), 16):
            some = [embedder.tokenize(item.text)[: embedder.max_tokens] for item in items[at : at + 16]]
            vectors[at : at + 16] = embedder.embed(some)
            bar.update(len(some))
    return vectors


def evaluate(
    store: Store, embedder: Embedder, items: Sequence[KnownItem], fingerprint: str
) -> tuple[dict[str, Scores], Scores, Scores]:
    """NDCG@10 by mode and question; and the best cosine of each question, and of each that has no answer."""
    questions = questions_of(items)
    documents = whole_documents(embedder, items)
    scores: dict[str, list[float]] = {mode: [] for mode in (*MODES, "dense, whole documents cut off")}
    best = []
    with progress(len(questions), "asking", "question") as bar:
        for question, right in questions:
            vector = embedder.embed_query(question)
            dense = store.dense(vector, DEPTH, fingerprint)
            lexical = store.lexical(question, DEPTH)
            for mode, fuse in MODES.items():
                scores[mode].append(ndcg(fuse(dense, lexical), right))
            whole = dict(zip((item.file for item in items), (documents @ vector).tolist(), strict=True))
            scores["dense, whole documents cut off"].append(ndcg(whole, right))
            best.append(dense[0].score)
            bar.update()
    without = [store.dense(embedder.embed_query(query), 1, fingerprint)[0].score for query in UNANSWERABLE]
    return {mode: np.array(values) for mode, values in scores.items()}, np.array(best), np.array(without)


def main(arguments: Sequence[str] | None = None) -> int:
    """Index the corpus, ask every question, print the table; exit code 1 when another mode is clearly better."""
    end_cleanly()
    parser = argparse.ArgumentParser(prog="python -m bench.retrieval", description=__doc__)
    parser.add_argument("--per-kind", type=int, default=150, help="documents of each kind (%(default)s)")
    parser.add_argument("--model", default="model/embed.gguf", help="embedding model (%(default)s)")
    parser.add_argument("--threads", type=int, default=0, help="compute threads (all cores)")
    parser.add_argument("--chunk-tokens", type=int, default=KnowledgeSettings().chunk_tokens, help="(%(default)s)")
    parser.add_argument("--default", default=DEFAULT, choices=MODES, help="the mode to compare with (%(default)s)")
    parser.add_argument("--json", metavar="FILE", help="write the results there")
    parser.add_argument("--markdown", action="store_true", help="print the tables as Markdown")
    options = parser.parse_args(arguments)
    try:
        items = load(options.per_kind)
        name = f"retrieval-{options.per_kind}-{options.chunk_tokens}"
        write_corpus(items, folder() / f"texts-{options.per_kind}")
        settings = KnowledgeSettings(folder() / f"texts-{options.per_kind}", chunk_tokens=options.chunk_tokens)
        with Embedder(options.model, threads=options.threads) as embedder:
            store = SqliteStore(folder() / f"{name}.sqlite")
            Indexer(store, embedder, settings).run(progress=True)
            n_chunks = store.stats().n_chunks
            scores, answerable, unanswerable = evaluate(store, embedder, items, embedder.fingerprint)
            store.close()
    except (CorpusError, StoreError, OSError) as error:
        fail(str(error))
    kinds = np.array([file.partition("/")[0] for _, file in questions_of(items)])
    print(machine_line(machine()))
    print(f"{len(items)} documents, {n_chunks} chunks of up to {options.chunk_tokens} tokens, {len(kinds)} questions")
    rows: list[list[object]] = []
    beaten = False
    for mode, values in scores.items():
        low, high = interval(scores[options.default] - values)
        beaten |= high < 0
        by_kind = [float(values[kinds == kind].mean()) for kind in sorted(set(kinds))]
        difference = "the default" if mode == options.default else f"{low:+.3f} to {high:+.3f}"
        rows.append([mode, float(values.mean()), *by_kind, difference])
    print(table(("nDCG@10", "all", *sorted(set(kinds)), "default minus this"), rows, options.markdown))
    thresholds = [
        [f"{least:.2f}", float((answerable >= least).mean()), float((unanswerable < least).mean())]
        for least in np.arange(0.1, 0.61, 0.05)
    ]
    header = ("threshold", "answerable questions kept", "unanswerable ones left out")
    print(table(header, thresholds, options.markdown))
    if options.json:
        results = {mode: values.tolist() for mode, values in scores.items()}
        write_json(options.json, "bench.retrieval", vars(options), results)
    return int(beaten)


if __name__ == "__main__":
    sys.exit(main())
