"""Brings a store to the state of a folder: reads, chunks and embeds what is new, forgets what is gone.

A file whose size and modification time are known is not read; one whose content is known is not embedded. Files are
written a few at a time, each group in one transaction, so that whatever ends the process costs the last group's work
only. Knows the order of the work; each step is a module of its own.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from tqdm import tqdm

from knowledge.chunking import Chunker
from knowledge.embedder import Embedder
from knowledge.in_document import in_document
from knowledge.readers import READER_VERSION, SkippedError, read
from knowledge.settings import KnowledgeSettings
from knowledge.store import Chunk, Document, FileRecord, Recipe, Store, StoreTakenError
from knowledge.walk import Walk, read_bytes, walk
from llama_native.arrays import Floats, Tokens

log = logging.getLogger(__name__)

#: Tokens that are embedded and written together.
_GROUP_TOKENS = 16384
#: Tokens between two looks at the stop event and two steps of the progress bar.
_SLICE_TOKENS = 4096
#: A file this young may change again without its time changing: its content is compared next time.
_RACY_NS = 2_000_000_000


class StoppedError(Exception):
    """The indexer was asked to stop before it was done. What it wrote until then is complete."""


@dataclass
class IndexReport:
    """What a run did. `seconds` is the whole run, `embed_seconds` the embedding alone."""

    n_files: int = 0
    added: int = 0
    changed: int = 0
    deleted: int = 0
    unchanged: int = 0
    skipped: list[tuple[str, str]] = field(default_factory=list)
    n_chunks: int = 0
    n_tokens: int = 0
    rebuilt: bool = False
    seconds: float = 0.0
    embed_seconds: float = 0.0

    def summary(self) -> str:
        """The run in a line."""
        counts = (
            f"{getattr(self, name)} {name}"
            for name in ("added", "changed", "deleted", "unchanged")
            if getattr(self, name) or name == "unchanged"
        )
        parts = [*counts, f"{len(self.skipped)} skipped"] if self.skipped else [*counts]
        return f"{self.n_files} files ({', '.join(parts)}), {self.n_chunks} chunks embedded in {self.seconds:.1f} s"


@dataclass
class Progress:
    """How far a run is, for other threads to look at."""

    done: int = 0
    total: int = 0

    @property
    def share(self) -> float:
        """The share of the files to be read that is done, 0 to 1."""
        return self.done / self.total if self.total else 0.0


@dataclass(frozen=True, slots=True)
class _Ready:
    """A file that is read and chunked and waits for its vectors."""

    record: FileRecord
    chunks: Sequence[Chunk]
    tokens: Sequence[Tokens]


class Indexer:
    """Indexes `settings.data_path` into `store` with `embedder`.

    :param stop: ends a run within some decodes, or one step of the store, when it is set.
    :param progress: is kept up to date during a run.
    :raises SettingsError: the chunk size does not fit the model.
    """

    def __init__(
        self,
        store: Store,
        embedder: Embedder,
        settings: KnowledgeSettings,
        stop: threading.Event | None = None,
        progress: Progress | None = None,
    ) -> None:
        self._store = store
        self._embedder = embedder
        self._settings = settings
        self._stop = stop or threading.Event()
        self._progress = progress or Progress()
        self._prefix = embedder.prefixes.document
        self._chunker = Chunker(
            embedder.vocab,
            settings.chunk_tokens,
            settings.chunk_overlap,
            embedder.max_tokens,
            self._prefix,
            self._check_stop,
        )
        self.recipe = Recipe(
            model=embedder.name,
            fingerprint=embedder.fingerprint,
            dimensions=embedder.dimensions,
            chunk_tokens=settings.chunk_tokens,
            chunk_overlap=settings.chunk_overlap,
            document_prefix=self._prefix,
            reader=READER_VERSION,
            document_weight=settings.document_weight,
        )
        """How this indexer makes vectors."""
        self._was_ours = False
        #: Files that were read and whose parser gave up for a reason that need not last: no time, a missing package.
        #: They are tried again by the next process, or when their content is another one.
        self._given_up: dict[str, FileRecord] = {}
        #: Why files were skipped, as the log has it already.
        self._said: dict[str, str] = {}

    def run(self, progress: bool = False) -> IndexReport:
        """Brings the store up to date and returns what was done.

        :param progress: show a progress bar on stderr.
        :raises OSError: the folder does not exist or cannot be listed; the store is left as it is.
        :raises StoreBusyError: another indexer is at work.
        :raises StoreTakenError: another indexer has made the store anew with another recipe.
        :raises StoreError: the store failed.
        :raises StoppedError: `stop` was set.
        """
        started = time.perf_counter()
        report = IndexReport()
        with self._store.writing():
            recipe = self._store.recipe()
            self._check_taken(recipe)
            found = walk(self._settings.data_path)
            self._skip_all(found, report)
            if recipe != self.recipe:
                report.rebuilt = recipe is not None
                self._store.reset(self.recipe)
            self._was_ours = True
            known = self._store.files()
            gone = [name for name in known if name not in found.files and not found.hides(name)]
            if gone:
                self._store.delete(gone)
            report.deleted = len(gone)
            self._update(found, known, report, progress)
        self._said = dict(report.skipped)
        report.n_files = len(found.files)
        report.seconds = time.perf_counter() - started
        return report

    def _update(self, found: Walk, known: Mapping[str, FileRecord], report: IndexReport, progress: bool) -> None:
        work = []
        self._given_up = {name: record for name, record in self._given_up.items() if name in found.files}
        for name, seen in found.files.items():
            records = (known.get(name), self._given_up.get(name))
            record = next((r for r in records if r is not None and (r.size, r.mtime_ns) == seen), None)
            if record is not None:
                report.unchanged += 1
                if record.skipped:
                    report.skipped.append((name, record.skipped))
            else:
                work.append(name)
        self._progress.done, self._progress.total = 0, len(work)
        group: list[_Ready] = []
        touched: list[FileRecord] = []
        n_tokens = 0
        with tqdm(total=len(work), desc="indexing", unit="file", disable=not progress, dynamic_ncols=True) as bar:
            for name in work:
                self._check_stop()
                ready = self._prepare(found, name, known.get(name), report, touched)
                if ready is not None:
                    group.append(ready)
                    n_tokens += sum(map(len, ready.tokens))
                if n_tokens >= _GROUP_TOKENS or len(group) >= 256:
                    self._write(group, report, bar)
                    group, n_tokens = [], 0
                bar.update()
                self._progress.done += 1
            self._write(group, report, bar)
        if touched:
            self._store.touch(touched)

    def _prepare(
        self, found: Walk, name: str, known: FileRecord | None, report: IndexReport, touched: list[FileRecord]
    ) -> _Ready | None:
        """Reads and chunks a file. None if nothing is to be written: it is the same, or could not be read this time."""
        size, mtime_ns = found.files[name]
        digest, skipped, chunks = "", "", list[Chunk]()
        try:
            data, size, mtime_ns = read_bytes(found.root, name, self._settings.file_bytes)
            if time.time_ns() - mtime_ns < _RACY_NS:
                mtime_ns = 0
            digest = hashlib.sha256(data).hexdigest()
            if known is not None and known.digest == digest:
                touched.append(FileRecord(name, size, mtime_ns, digest, known.skipped, known.n_chunks))
                report.unchanged += 1
                if known.skipped:
                    report.skipped.append((name, known.skipped))
                return None
            given_up = self._given_up.pop(name, None)
            if given_up is not None and given_up.digest == digest:
                raise SkippedError(given_up.skipped, lasting=False)
            chunks = self._chunker.split(read(name, data, self._stop))
        except SkippedError as error:
            self._check_stop()
            self._skip(name, str(error), report)
            skipped = str(error)
            if not error.lasting:
                if digest:
                    self._given_up[name] = FileRecord(name, size, mtime_ns, digest, skipped)
                return None
            if not digest:  # not even read: the limit may be another one next time
                mtime_ns = 0
            if known is not None and (known.digest, known.skipped) == (digest, skipped):
                report.unchanged += 1
                return None
        report.added += known is None
        report.changed += known is not None
        tokens = [self._embedder.tokenize(self._prefix + chunk.text) for chunk in chunks]
        return _Ready(FileRecord(name, size, mtime_ns, digest, skipped, len(chunks)), chunks, tokens)

    def _write(self, group: Sequence[_Ready], report: IndexReport, bar: tqdm[Any]) -> None:
        if not group:
            return
        vectors = self._embed([tokens for ready in group for tokens in ready.tokens], report, bar)
        documents, first = [], 0
        for ready in group:
            last = first + len(ready.chunks)
            documents.append(
                Document(ready.record, ready.chunks, in_document(vectors[first:last], self.recipe.document_weight))
            )
            first = last
        self._store.replace(documents)

    def _embed(self, inputs: Sequence[Tokens], report: IndexReport, bar: tqdm[Any]) -> Floats:
        started = time.perf_counter()
        result = np.empty((len(inputs), self._embedder.dimensions), np.float32)
        order = sorted(range(len(inputs)), key=lambda i: len(inputs[i]), reverse=True)  # full packs: alike together
        first = 0
        while first < len(order):
            last, n_tokens = first, 0
            while last < len(order) and n_tokens < _SLICE_TOKENS:
                n_tokens += len(inputs[order[last]])
                last += 1
            self._check_stop()
            result[order[first:last]] = self._embedder.embed([inputs[i] for i in order[first:last]])
            report.n_chunks += last - first
            report.n_tokens += n_tokens
            bar.set_postfix(chunks=report.n_chunks, refresh=True)
            first = last
        report.embed_seconds += time.perf_counter() - started
        return result

    def _skip_all(self, found: Walk, report: IndexReport) -> None:
        for name, reason in found.warnings:
            self._skip(name, reason, report)

    def _skip(self, name: str, reason: str, report: IndexReport) -> None:
        if self._said.get(name) != reason:
            log.warning("skipped %s: %s", name, reason)
            self._said[name] = reason
        report.skipped.append((name, reason))

    def _check_taken(self, recipe: Recipe | None) -> None:
        """Lets whoever was started last decide; else two indexers would undo each other's work for ever."""
        if self._was_ours and recipe is not None and recipe != self.recipe:
            theirs, ours = asdict(recipe), asdict(self.recipe)
            others = ", ".join(
                f"{name} {theirs[name]!r}, here {ours[name]!r}" for name in ours if theirs[name] != ours[name]
            )
            raise StoreTakenError(
                f"{self._store.location} was made anew by another indexer ({others}) and is left to it; "
                "give all that share a store the same settings, or restart the one whose settings are to count"
            )

    def _check_stop(self) -> None:
        if self._stop.is_set():
            raise StoppedError
