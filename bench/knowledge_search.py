"""Searching the SQLite store: latency against a bare numpy product, time to open, memory.

The store is filled in one process and measured in a fresh one. Exact searches and bare products of the same matrix and
vector take turns. Texts are words drawn by Zipf's law, so that words are as unevenly common as in a language.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.report import end_cleanly, fail, machine, machine_line, progress, table, write_json
from knowledge.search import Fusion, find
from knowledge.sqlite_store import SqliteStore
from knowledge.store import Chunk, Document, FileRecord, Recipe
from llama_native.arrays import Floats

CHUNKS_PER_FILE = 20
VOCABULARY = 50_000
P95_BAR, PRODUCT_BAR, OPEN_BAR, MEMORY_BAR = 0.025, 2.0, 2.0, 1.3


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.knowledge_search", description=__doc__)
    parser.add_argument("--chunks", type=int, default=100_000, help="chunks in the store (%(default)s)")
    parser.add_argument("--dimensions", type=int, default=384, help="length of a vector (%(default)s)")
    parser.add_argument("--words", type=int, default=120, help="words of a chunk (%(default)s)")
    parser.add_argument("--searches", type=int, default=200, help="searches of each kind (%(default)s)")
    parser.add_argument("--top-k", type=int, default=10, help="hits of a search (%(default)s)")
    parser.add_argument("--json", metavar="FILE", help="write the results there")
    options = parser.parse_args(arguments)
    if min(options.chunks, options.dimensions, options.words, options.searches, options.top_k) < 1:
        parser.error("all numbers must be at least 1")
    return options


def unit_vectors(draw: np.random.Generator, count: int, dimensions: int) -> Floats:
    """Random vectors of length 1."""
    drawn = draw.standard_normal((count, dimensions), np.float32)
    return np.asarray(drawn / np.linalg.norm(drawn, axis=1, keepdims=True), np.float32)


def text(draw: np.random.Generator, words: int) -> str:
    """Random words by Zipf's law."""
    return " ".join(f"w{rank % VOCABULARY}" for rank in draw.zipf(1.2, words).tolist())


def fill(path: Path, options: argparse.Namespace) -> None:
    """Write the store."""
    draw = np.random.default_rng(1)
    store = SqliteStore(path)
    with store.writing(), progress(options.chunks, "filling the store", "chunk") as bar:
        store.reset(Recipe("random", "random", options.dimensions, 200, 0, "", 1))
        for first in range(0, options.chunks, 50 * CHUNKS_PER_FILE):
            documents = []
            for start in range(first, min(first + 50 * CHUNKS_PER_FILE, options.chunks), CHUNKS_PER_FILE):
                count = min(CHUNKS_PER_FILE, options.chunks - start)
                texts = [text(draw, options.words) for _ in range(count)]
                chunks = [Chunk(i, i, i + 1, options.words, content) for i, content in enumerate(texts)]
                record = FileRecord(f"{start}.txt", 1, 1, "digest", "", count)
                documents.append(Document(record, chunks, unit_vectors(draw, count, options.dimensions)))
                bar.update(count)
            store.replace(documents)
    store.close()


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def measure(path: Path, options: argparse.Namespace, answer: Any) -> None:
    """Open the store and search it; sends the results as JSON. Runs in a process of its own."""
    draw = np.random.default_rng(2)
    queries = unit_vectors(draw, options.searches + 5, options.dimensions)
    np.matmul(queries, queries.T)  # numpy's own threads and buffers are not the store's memory
    before = resident()
    started = time.perf_counter()
    store = SqliteStore(path)
    store.recipe()  # the first use opens it and loads the vectors
    opened = time.perf_counter() - started
    for query in queries[:5]:
        store.dense(query, options.top_k, "random")
    memory = resident() - before
    matrix = unit_vectors(draw, options.chunks, options.dimensions)
    kinds: dict[str, Callable[[Floats, str], object]] = {
        "bare product": lambda vector, _: matrix @ vector,
        "dense": lambda vector, _: store.dense(vector, options.top_k, "random"),
        "lexical, 6 words": lambda _, words: store.lexical(words, options.top_k),
        "hybrid": lambda vector, words: find(
            store, words, vector, "random", mode="hybrid", top_k=options.top_k, threshold=-1.0, fusion=Fusion()
        ),
    }
    seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
    for query in queries[5:]:
        words = text(draw, 6)
        for kind, search in kinds.items():
            begun = time.perf_counter()
            search(query, words)
            seconds[kind].append(time.perf_counter() - begun)
    store.close()
    answer.send(json.dumps({"open_seconds": opened, "memory_bytes": memory, "seconds": seconds}))


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; exit code 1 when a bar is missed."""
    end_cleanly()
    options = parse_arguments(arguments)
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "store.sqlite"
        fill(path, options)
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=measure, args=(path, options, theirs))
        process.start()
        theirs.close()
        try:
            results = json.loads(ours.recv())
        except EOFError:
            fail("the measuring process ended early")
        process.join()
        n_bytes = path.stat().st_size
    rows: list[list[object]] = []
    for kind, seconds in results["seconds"].items():
        p50, p95 = np.percentile(seconds, [50, 95]).tolist()
        rows.append([kind, 1000 * p50, 1000 * p95])
    vector_bytes = 4 * options.chunks * options.dimensions
    product, dense = (float(np.percentile(results["seconds"][kind], 95)) for kind in ("bare product", "dense"))
    bars = [
        ("dense p95, ms", 1000 * dense, 1000 * P95_BAR),
        ("dense p95 / bare product p95", dense / product, PRODUCT_BAR),
        ("opening, s", results["open_seconds"], OPEN_BAR),
        ("resident memory / vectors", results["memory_bytes"] / vector_bytes, MEMORY_BAR),
    ]
    print(machine_line(machine()))
    print(f"{options.chunks} chunks of {options.dimensions} dimensions, {n_bytes / 1e6:.0f} MB on disk")
    print(table(("search", "p50 ms", "p95 ms"), rows))
    print(table(("", "measured", "bar", ""), [[*bar, "pass" if bar[1] < bar[2] else "FAIL"] for bar in bars]))
    if options.json:
        write_json(options.json, "bench.knowledge_search", vars(options), results)
    return 0 if all(value < bar for _, value, bar in bars) else 1


if __name__ == "__main__":
    sys.exit(main())
