"""How fast a folder is indexed, against what the embedding model alone reaches.

Documents are written in rounds into one folder. After each round the folder is indexed, and the same chunks are
embedded by the bare model in the pack size that was fastest before; the two take turns, so that a slow moment of the
host meets both. At the end, nothing changes and the folder is indexed once more.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from bench.report import end_cleanly, fail, machine, machine_line, progress, table, write_json
from bench.vocabulary import ADJECTIVES, NOUNS, PLACES, TIMES, VERBS
from knowledge.embedder import Embedder, EmbeddingModelError
from knowledge.indexer import Indexer
from knowledge.settings import KnowledgeSettings
from knowledge.sqlite_store import SqliteStore
from knowledge.walk import walk
from llama_native import LlamaError
from llama_native.arrays import Tokens

PACKS = (256, 512, 1024)
RATIO_BAR, AGAIN_BAR = 0.9, 2.0


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.knowledge_index", description=__doc__)
    parser.add_argument("--model", default="model/embed.gguf", help="embedding model (%(default)s)")
    parser.add_argument("--documents", type=int, default=2000, help="documents in all (%(default)s)")
    parser.add_argument("--words", type=int, default=500, help="words of a document, about (%(default)s)")
    parser.add_argument("--rounds", type=int, default=4, help="rounds (%(default)s)")
    parser.add_argument("--json", metavar="FILE", help="write the results there")
    options = parser.parse_args(arguments)
    if min(options.words, options.rounds) < 1 or options.documents < options.rounds:
        parser.error("words and rounds must be at least 1, and documents at least as many as rounds")
    return options


def document(number: int, words: int) -> str:
    """A text of sentences and paragraphs that is like no other."""
    draw = random.Random(number)
    sentences, length = [f"Report {number} of the {draw.choice(NOUNS)} society."], 6
    while length < words:
        sentence = (
            f"The {draw.choice(ADJECTIVES)} {draw.choice(NOUNS)} {draw.choice(VERBS)} {draw.randrange(2, 90)} "
            f"{draw.choice(ADJECTIVES)} {draw.choice(NOUNS)}s {draw.choice(PLACES)} {draw.choice(TIMES)}."
        )
        length += len(sentence.split())
        sentences.append(sentence + ("\n\n" if draw.random() < 0.2 else ""))
    return " ".join(sentences)


def alone(embedder: Embedder, inputs: Sequence[Tokens]) -> float:
    """Chunks per second of the model alone."""
    started = time.perf_counter()
    embedder.embed(inputs)
    return len(inputs) / (time.perf_counter() - started)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; exit code 1 when a bar is missed."""
    end_cleanly()
    options = parse_arguments(arguments)
    per_round = options.documents // options.rounds
    rows: list[list[object]] = []
    try:
        embedders = {pack: Embedder(options.model, pack_tokens=pack) for pack in PACKS}
    except (LlamaError, EmbeddingModelError) as error:
        fail(str(error))
    with tempfile.TemporaryDirectory() as name, progress(options.rounds, "indexing", "round") as bar:
        settings = KnowledgeSettings(Path(name) / "data", url=str(Path(name) / "store.sqlite"))
        settings.data_path.mkdir()
        store = SqliteStore(settings.sqlite_path)
        normal = Embedder(options.model)
        indexer = Indexer(store, normal, settings)
        best = 0
        for turn in range(options.rounds):
            names = [f"{turn}/{number}.txt" for number in range(per_round)]
            (settings.data_path / str(turn)).mkdir()
            for number, file in enumerate(names):
                text = document(turn * per_round + number, options.words)
                (settings.data_path / file).write_text(text)
            time.sleep(2.1)  # files this young would be looked at again later
            report = indexer.run()
            chunks = [chunk for file in names[: max(1, per_round // 4)] for chunk in store.chunks(file, 0, 1 << 30)]
            inputs = [normal.tokenize(chunk.text) for chunk in chunks]
            if not best:
                sample = inputs[:200]
                best = max(PACKS, key=lambda pack: max(alone(embedders[pack], sample) for _ in range(2)))
            bare = alone(embedders[best], inputs)
            rate = report.n_chunks / report.seconds
            share = report.embed_seconds / report.seconds
            rows.append([str(turn + 1), report.n_chunks, report.n_tokens, rate, bare, rate / bare, share])
            bar.update()
        started = time.perf_counter()
        again = indexer.run()
        again_seconds = time.perf_counter() - started
        unchanged, n_files = again.unchanged, len(walk(settings.data_path).files)
        store.close()
    ratio = statistics.median(float(str(row[5])) for row in rows)
    print(machine_line(machine()))
    print(table(("round", "chunks", "tokens", "indexing chunks/s", "model alone chunks/s", "ratio", "share"), rows))
    print("share: of the indexing time, what was spent in the model")
    print(f"model alone: packs of {best} tokens, the fastest of {', '.join(map(str, PACKS))}")
    print(f"median ratio {ratio:.2f}, bar {RATIO_BAR}: {'pass' if ratio >= RATIO_BAR else 'FAIL'}")
    passed = again_seconds < AGAIN_BAR and unchanged == n_files
    print(f"once more, {unchanged} of {n_files} files unchanged: {again_seconds:.2f} s: {'pass' if passed else 'FAIL'}")
    if options.json:
        results = {"rounds": rows, "ratio": ratio, "pack": best, "again_seconds": again_seconds, "files": n_files}
        write_json(options.json, "bench.knowledge_index", vars(options), results)
    return 0 if ratio >= RATIO_BAR and passed else 1


if __name__ == "__main__":
    sys.exit(main())
