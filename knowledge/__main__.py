"""The command line of the knowledge base: index a folder, search it, see what the store holds.

Options default to the environment variables that the server reads, so that both speak of the same store. Results go to
stdout, progress and warnings to stderr. Exit codes: 0 done, 1 failed, 2 wrong usage or settings.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm.contrib.logging import logging_redirect_tqdm

from knowledge.embedder import EmbeddingModelError
from knowledge.knowledge import Knowledge, open_store
from knowledge.settings import MODES, KnowledgeSettings, SettingsError, from_environment
from knowledge.store import StoreError
from llama_native import LlamaError

_EPILOG = "Each option defaults to the environment variable named in its help, as the server reads it."


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command line."""
    main = argparse.ArgumentParser(prog="python -m knowledge", description=__doc__.split("\n\n")[0], epilog=_EPILOG)
    commands = main.add_subparsers(dest="command", required=True, metavar="COMMAND")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--data", metavar="FOLDER", help="folder of documents (DATA_PATH)")
    common.add_argument("--model", metavar="FILE", help="embedding model, a GGUF file (EMBEDDING_MODEL)")
    common.add_argument("--store", metavar="URL", help="path of an SQLite file, or postgresql://... (KNOWLEDGE_URL)")
    common.add_argument("--json", action="store_true", help="print one JSON object")

    index = commands.add_parser("index", parents=[common], help="bring the store up to date with the folder")
    index.add_argument("--chunk-tokens", metavar="N", help="most tokens of a chunk (KNOWLEDGE_CHUNK_TOKENS)")
    index.add_argument("--chunk-overlap", metavar="N", help="tokens that neighbours share (KNOWLEDGE_CHUNK_OVERLAP)")
    index.add_argument("--quiet", action="store_true", help="no progress bar, no warnings")

    search = commands.add_parser("search", parents=[common], help="find the chunks that fit a query")
    search.add_argument("query", help="what to look for, in plain words")
    search.add_argument("--top-k", metavar="N", help="how many chunks (KNOWLEDGE_TOP_K)")
    search.add_argument("--mode", choices=MODES, help="how to search (KNOWLEDGE_MODE)")
    search.add_argument("--threshold", metavar="X", help="least similarity (KNOWLEDGE_THRESHOLD)")

    stats = commands.add_parser("stats", parents=[common], help="show what the store holds")
    stats.add_argument("--files", action="store_true", help="list the files too, with the reasons of those skipped")
    return main


_VARIABLES = {
    "data": "DATA_PATH",
    "model": "EMBEDDING_MODEL",
    "store": "KNOWLEDGE_URL",
    "chunk_tokens": "KNOWLEDGE_CHUNK_TOKENS",
    "chunk_overlap": "KNOWLEDGE_CHUNK_OVERLAP",
    "top_k": "KNOWLEDGE_TOP_K",
    "mode": "KNOWLEDGE_MODE",
    "threshold": "KNOWLEDGE_THRESHOLD",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command and returns the exit code."""
    options = parser().parse_args(arguments)
    given = {name: getattr(options, option, None) for option, name in _VARIABLES.items()}
    environ = dict(os.environ) | {name: str(value) for name, value in given.items() if value is not None}
    run = {"index": _index, "search": _search, "stats": _stats}[options.command]
    try:
        settings = from_environment(environ)
        return run(settings, options)
    except SettingsError as error:
        return _fail(str(error), 2)
    except (StoreError, LlamaError, EmbeddingModelError, OSError) as error:
        return _fail(str(error), 1)
    except KeyboardInterrupt:
        return _fail("interrupted; what was written until now is kept", 130)


def _index(settings: KnowledgeSettings, options: argparse.Namespace) -> int:
    if not settings.data_path.is_dir():
        return _fail(f"{settings.data_path} is not a folder; set --data or DATA_PATH", 2)
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.ERROR if options.quiet else logging.WARNING)
    with Knowledge(settings) as knowledge, logging_redirect_tqdm():
        report = knowledge.index(progress=not options.quiet and sys.stderr.isatty())
        result = dataclasses.asdict(report) | {"store": knowledge.store.location}
    if options.json:
        _print_json(result)
        return 0
    if report.rebuilt:
        what = (
            "the embedding model, its document prefix, the chunking, KNOWLEDGE_DOCUMENT_WEIGHT or the program's version"
        )
        print(f"indexed anew: {what} is another one")
    print(report.summary())
    if report.embed_seconds:
        print(f"{report.n_chunks / report.seconds:.1f} chunks/s, {report.n_tokens / report.embed_seconds:.0f} tokens/s")
    print(f"store: {result['store']}")
    return 0


def _search(settings: KnowledgeSettings, options: argparse.Namespace) -> int:
    with Knowledge(settings) as knowledge:
        if knowledge.store.recipe() is None:
            return _nothing_indexed(settings)
        result = knowledge.search(options.query)
    if options.json:
        data = [
            {"file": hit.file, "chunk": hit.chunk.index, "score": hit.score, "text": hit.chunk.text}
            for hit in result.hits
        ]
        _print_json({"object": "list", "data": data, "timings": dict(result.timings)})
        return 0
    for hit in result.hits:
        print(f"{hit.score:.3f}  {hit.file}, chunk {hit.chunk.index}")
        print("\n".join(f"    {line}" for line in hit.chunk.text.strip().splitlines()) + "\n")
    if not result.hits:
        print("nothing found")
    print("  ".join(f"{phase} {1000 * seconds:.1f} ms" for phase, seconds in result.timings.items()))
    return 0


def _stats(settings: KnowledgeSettings, options: argparse.Namespace) -> int:
    store = open_store(settings)
    try:
        stats, files = store.stats(), store.files()
        if stats.recipe is None:
            return _nothing_indexed(settings)
        result = dataclasses.asdict(stats) | {"store": store.location}
        if options.files:
            result["files"] = [dataclasses.asdict(record) for _, record in sorted(files.items())]
    finally:
        store.close()
    if options.json:
        _print_json(result)
        return 0
    recipe = stats.recipe
    print(f"store       {result['store']} ({stats.n_bytes / 1e6:.1f} MB)")
    print(f"files       {stats.n_files}, of which skipped {stats.n_skipped}")
    print(f"chunks      {stats.n_chunks}, {stats.n_tokens} tokens")
    print(f"model       {recipe.model}, {recipe.dimensions} dimensions")
    print(f"chunking    up to {recipe.chunk_tokens} tokens, {recipe.chunk_overlap} shared")
    print(f"vectors     {recipe.document_weight:g} of a chunk's is its document's beginning")
    if options.files:
        for name, record in sorted(files.items()):
            print(f"{record.n_chunks:6} {name}" + (f"  (skipped: {record.skipped})" if record.skipped else ""))
    return 0


def _nothing_indexed(settings: KnowledgeSettings) -> int:
    return _fail(f"nothing is indexed yet: python -m knowledge index --data {settings.data_path}", 1)


def _print_json(value: dict[str, Any]) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False, default=_plain))


def _plain(value: object) -> str:
    if isinstance(value, Path):
        return str(value)
    raise TypeError(type(value).__name__)


def _fail(message: str, code: int) -> int:
    print(f"error: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
