"""Retrieval quality: nDCG@10 of the shipped search and of its variants, on a public corpus with known-item questions.

Each question (see `bench.corpus`) has one right document, so nDCG@10 is 1 / log2(1 + its rank), 0 where it is not
found. Every row but one is the search of `knowledge.search` for 10 chunks, a document's rank being that of its best
chunk: as it ships, with other fusions (Cormack et al., SIGIR 2009), by vector or by word alone. The last row is apart
from chunks: dense search over whole documents, cut off at what the embedding model reads.

The defaults were chosen on the first 40 documents of each kind; these are left out (`--skip`), so that the judgement
is on others. Differences are paired by question, with 95% bootstrap intervals. Bars, on the means: the default is at
least as good as the best of dense, BM25 and their plain fusion (k = 60), and chunks beat cut-off documents.

Then the threshold: the best similarity of these questions, and of questions that the corpus cannot answer.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from bench.corpus import CorpusError, KnownItem, folder, load, questions_of
from bench.report import end_cleanly, fail, machine, machine_line, progress, table, write_json
from knowledge.embedder import Embedder, EmbeddingModelError
from knowledge.indexer import Indexer
from knowledge.search import Fusion, find
from knowledge.settings import KnowledgeSettings, Mode, SettingsError
from knowledge.sqlite_store import SqliteStore
from knowledge.store import Store, StoreError
from llama_native import LlamaError

#: Chunks that each search gives, and documents that nDCG looks at.
TOP_K: Final = 10
RESAMPLES: Final = 10_000

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


@dataclass(frozen=True, slots=True)
class Search:
    """How `knowledge.search.find` is called; as it is written here it is the shipped default."""

    mode: Mode = KnowledgeSettings().mode
    threshold: float = KnowledgeSettings().threshold
    fusion: Fusion = field(default_factory=Fusion)

    def files(self, store: Store, question: str, vector: npt.NDArray[np.float32], fingerprint: str) -> list[str]:
        """The documents found, best first."""
        hits = find(
            store,
            question,
            vector,
            fingerprint,
            mode=self.mode,
            top_k=TOP_K,
            threshold=self.threshold,
            fusion=self.fusion,
        )
        return list(dict.fromkeys(hit.file for hit in hits))


DEFAULT: Final = "the default"
DENSE: Final = "dense over chunks"
LEXICAL: Final = "lexical over chunks (BM25)"
PLAIN: Final = "RRF, k 60, equal weights"
WHOLE: Final = "dense over whole documents, cut off"

SEARCHES: Final[Mapping[str, Search]] = {
    DEFAULT: Search(),
    "the default without threshold": Search(threshold=-1),
    "RRF, k 5, equal weights": Search("hybrid", -1, Fusion(k=5, lexical_weight=1)),
    "RRF, k 10, words count half": Search("hybrid", -1, Fusion(k=10, lexical_weight=0.5)),
    PLAIN: Search("hybrid", -1, Fusion(k=60, lexical_weight=1)),
    DENSE: Search("dense", -1),
    LEXICAL: Search("lexical"),
}


def ndcg(files: Sequence[str], right: str) -> float:
    """NDCG@10 of a ranking, best first, for one right file."""
    best = list(files[:TOP_K])
    return 1 / float(np.log2(best.index(right) + 2)) if right in best else 0.0


@dataclass(frozen=True, slots=True)
class Difference:
    """One search's scores minus another's, paired by question; a bar unless it is only reported."""

    first: str
    second: str
    mean: float
    low: float
    high: float
    met: bool | None

    @property
    def verdict(self) -> str:
        """pass, FAIL or a dash."""
        return "-" if self.met is None else "pass" if self.met else "FAIL"


def differences(scores: Mapping[str, Scores]) -> list[Difference]:
    """The comparisons of the bars, and the default against whole documents."""
    best = max((DENSE, LEXICAL, PLAIN), key=lambda name: float(scores[name].mean()))
    pairs = [(DEFAULT, name) for name in (DENSE, LEXICAL, PLAIN)] + [(DENSE, WHOLE), (DEFAULT, WHOLE)]
    found = []
    for first, second in pairs:
        paired = scores[first] - scores[second]
        mean, (low, high) = float(paired.mean()), interval(paired)
        met = mean >= 0 if second == best else mean > 0 if second == WHOLE else None
        found.append(Difference(first, second, mean, low, high, met))
    return found


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


def whole_documents(embedder: Embedder, items: Sequence[KnownItem]) -> tuple[npt.NDArray[np.float32], set[str]]:
    """Vectors (n, d) of the documents, each cut off at what the model reads; and the files that were cut."""
    vectors = np.empty((len(items), embedder.dimensions), np.float32)
    cut = set()
    with progress(len(items), "embedding whole documents", "document") as bar:
        for at, item in enumerate(items):
            tokens = embedder.tokenize(embedder.prefixes.document + item.text)
            if len(tokens) > embedder.max_tokens:
                cut.add(item.file)
            vectors[at] = embedder.embed([tokens[: embedder.max_tokens]])[0]
            bar.update()
    return vectors, cut


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What the questions gave.

    :ivar scores: nDCG@10 by search, one of each question.
    :ivar groups: which questions (n,) belong to each kind of document, and to those that were cut off.
    :ivar answerable, unanswerable: the best similarity of each question, and of each that has no answer.
    """

    scores: dict[str, Scores]
    groups: dict[str, npt.NDArray[np.bool_]]
    answerable: Scores
    unanswerable: Scores


def evaluate(store: Store, embedder: Embedder, items: Sequence[KnownItem]) -> Evaluation:
    """Asks every question of every search. Raises `StoreError`."""
    questions = questions_of(items)
    documents, cut = whole_documents(embedder, items)
    scores: dict[str, list[float]] = {name: [] for name in (*SEARCHES, WHOLE)}
    best = []
    with progress(len(questions), "asking", "question") as bar:
        for question, right in questions:
            vector = embedder.embed_query(question)
            for name, search in SEARCHES.items():
                scores[name].append(ndcg(search.files(store, question, vector, embedder.fingerprint), right))
            whole = np.argsort(-(documents @ vector), kind="stable")[:TOP_K]
            scores[WHOLE].append(ndcg([items[at].file for at in whole], right))
            best.append(store.dense(vector, 1, embedder.fingerprint)[0].score)
            bar.update()
    without = [store.dense(embedder.embed_query(query), 1, embedder.fingerprint)[0].score for query in UNANSWERABLE]
    kinds = np.array([file.partition("/")[0] for _, file in questions])
    groups = {kind: kinds == kind for kind in sorted(set(kinds.tolist()))}
    groups["cut off"] = np.array([file in cut for _, file in questions])
    return Evaluation(
        {name: np.array(values) for name, values in scores.items()}, groups, np.array(best), np.array(without)
    )


def show(found: Evaluation, markdown: bool) -> list[Difference]:
    """Prints the tables; returns the comparisons."""
    rows: list[list[object]] = []
    for name, values in found.scores.items():
        by_group = [float(values[group].mean()) if group.any() else None for group in found.groups.values()]
        rows.append([name, float(values.mean()), *by_group])
    counts = [f"{name} ({int(group.sum())})" for name, group in found.groups.items()]
    print(table(("nDCG@10", "all", *counts), rows, markdown))
    compared = differences(found.scores)
    rows = [
        [f"{d.first} minus {d.second}", f"{d.mean:+.3f}", f"{d.low:+.3f} to {d.high:+.3f}", d.verdict] for d in compared
    ]
    print(table(("difference", "mean", "95% interval", "bar"), rows, markdown))
    thresholds = [
        [f"{least:.2f}", float((found.answerable >= least).mean()), float((found.unanswerable < least).mean())]
        for least in np.arange(0.1, 0.61, 0.05)
    ]
    print(table(("threshold", "answerable questions kept", "unanswerable ones left out"), thresholds, markdown))
    return compared


def main(arguments: Sequence[str] | None = None) -> int:
    """Index the corpus, ask every question, print the tables; exit code 1 when a bar is missed."""
    end_cleanly()
    parser = argparse.ArgumentParser(prog="python -m bench.retrieval", description=__doc__)
    parser.add_argument("--per-kind", type=int, default=100, help="documents of each kind (%(default)s)")
    parser.add_argument("--skip", type=int, default=40, help="leave out the first documents of each kind (%(default)s)")
    parser.add_argument("--max-words", type=int, default=30_000, help="leave out longer documents (%(default)s)")
    parser.add_argument("--model", default="model/embed.gguf", help="embedding model (%(default)s)")
    parser.add_argument("--threads", type=int, default=0, help="compute threads (all cores)")
    parser.add_argument("--chunk-tokens", type=int, default=KnowledgeSettings().chunk_tokens, help="(%(default)s)")
    parser.add_argument("--json", metavar="FILE", help="write the results there")
    parser.add_argument("--markdown", action="store_true", help="print the tables as Markdown")
    options = parser.parse_args(arguments)
    if options.per_kind < 1 or options.skip < 0:
        fail("--per-kind must be at least 1, --skip at least 0")
    try:
        items = load(options.per_kind, skip=options.skip, max_words=options.max_words)
        if not questions_of(items):
            fail("no documents are left: take a smaller --skip or a larger --max-words")
        name = f"{options.per_kind}-{options.skip}-{options.max_words}"
        texts = folder() / f"texts-{name}"
        write_corpus(items, texts)
        settings = KnowledgeSettings(texts, chunk_tokens=options.chunk_tokens)
        with Embedder(options.model, threads=options.threads) as embedder:
            store = SqliteStore(folder() / f"retrieval-{name}-{options.chunk_tokens}.sqlite")
            Indexer(store, embedder, settings).run(progress=True)
            n_chunks = store.stats().n_chunks
            found = evaluate(store, embedder, items)
            store.close()
    except (CorpusError, StoreError, SettingsError, LlamaError, EmbeddingModelError, OSError) as error:
        fail(str(error))
    print(machine_line(machine()))
    print(
        f"{len(items)} documents, {n_chunks} chunks of up to {options.chunk_tokens} tokens, "
        f"{len(found.answerable)} questions"
    )
    compared = show(found, options.markdown)
    if options.json:
        results = {
            "documents": len(items),
            "chunks": n_chunks,
            "scores": {name: values.tolist() for name, values in found.scores.items()},
            "differences": [asdict(difference) for difference in compared],
        }
        write_json(options.json, "bench.retrieval", vars(options), results)
    return int(any(difference.met is False for difference in compared))


if __name__ == "__main__":
    sys.exit(main())
