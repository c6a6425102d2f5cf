"""The knowledge base as others use it: open it, search it, keep it current, see what it holds.

One object joins settings, embedding model, store and indexer. Searches come from any thread and go on while the folder
is indexed. Knows how the parts work together; each part is a module of its own.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

import watchfiles
from watchfiles import Change

from knowledge.embedder import Embedder
from knowledge.indexer import Indexer, IndexReport, Progress, StoppedError
from knowledge.search import Fusion, find, merge_neighbours
from knowledge.settings import KnowledgeSettings, Mode
from knowledge.sqlite_store import SqliteStore
from knowledge.store import Hit, Store, StoreBusyError, StoreError, StoreStats

log = logging.getLogger(__name__)

#: Seconds between attempts while another indexer is at work, or after a failure.
_RETRY_SECONDS = 5.0
#: How long closing waits for the indexer. It ends sooner, unless a step of the store or of the disk holds it.
_LAST_SECONDS = 1.0

State = Literal["idle", "indexing", "waiting", "failed"]


@dataclass(frozen=True, slots=True)
class SearchResult:
    """What a search found, best first, and the seconds of its phases "embed" and "search"."""

    hits: tuple[Hit, ...]
    timings: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class KnowledgeStats:
    """What there is to search, and what the indexer does.

    :ivar store: files, chunks, tokens and bytes.
    :ivar location: where the store is.
    :ivar model, dimensions: the embedding model in use.
    :ivar state: "indexing", "waiting" for another indexer, "failed" (it tries again), or "idle".
    :ivar progress: share of the run under way that is done; None unless indexing.
    :ivar error: why the last run failed.
    """

    store: StoreStats
    location: str
    model: str
    dimensions: int
    state: State
    progress: float | None
    error: str | None


def open_store(settings: KnowledgeSettings) -> Store:
    """Returns the store that `settings.url` names. Raises `StoreError`."""
    if settings.url.startswith(("postgresql://", "postgres://")):
        try:
            from knowledge.postgres import PostgresStore  # an extra: its libraries may not be installed
        except ImportError as error:
            raise StoreError(
                f"KNOWLEDGE_URL needs the package {error.name}: pip install 'lucid-llm[postgres]'"
            ) from None
        return PostgresStore(settings.url)
    return SqliteStore(settings.sqlite_path)


def _identity(folder: Path) -> tuple[int, int]:
    """Which folder the path leads to now. Raises OSError if to none."""
    found = folder.stat()
    return found.st_dev, found.st_ino


class Knowledge:
    """The knowledge base of one folder. Thread-safe.

    :param embedder: used instead of loading `settings.embedding_model`; the caller closes it.
    :raises StoreError: the store's package is not installed.
    :raises SettingsError: the chunk size does not fit the model.
    :raises LlamaError, EmbeddingModelError: the embedding model cannot be loaded.
    """

    def __init__(
        self, settings: KnowledgeSettings, embedder: Embedder | None = None, fusion: Fusion | None = None
    ) -> None:
        self.settings = settings
        self.embedder = embedder or Embedder(
            settings.embedding_model,
            threads=settings.threads,
            gpu_layers=settings.gpu_layers,
            main_gpu=settings.main_gpu,
            kernels=settings.kernels,
            query_prefix=settings.query_prefix,
            document_prefix=settings.document_prefix,
        )
        self._owns_embedder = embedder is None
        self._fusion = fusion or Fusion()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._state: State = "idle"
        self._error: str | None = None
        #: When the last run that succeeded began; and whether every change since then would have been noticed.
        self._current_at: float | None = None
        self._followed = False
        self._progress = Progress()
        self._store: Store | None = None
        try:
            self._store = open_store(settings)
            self._indexer = Indexer(self._store, self.embedder, settings, self._stop, self._progress)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def store(self) -> Store:
        """The store."""
        assert self._store is not None
        return self._store

    def stop(self) -> None:
        """Tells the indexer to stop, and does not wait until it has. Searches go on."""
        self._stop.set()

    def close(self) -> None:
        """Stops indexing and closes store and model. May be called twice.

        An indexer that does not stop within a second is left behind: the store it writes keeps its last complete state.
        """
        self.stop()
        if self._thread is not None:
            self._thread.join(_LAST_SECONDS)
            if self._thread.is_alive():
                log.warning("the indexer of %s is left in the middle of its work", self.settings.data_path)
            self._thread = None
        if self._store is not None:
            self._store.close()
        if self._owns_embedder:
            self.embedder.close()

    def search(
        self,
        query: str,
        *,
        top_k: int | None = None,
        mode: Mode | None = None,
        threshold: float | None = None,
        merge: bool = True,
    ) -> SearchResult:
        """Returns the chunks that fit a query best; what is None is as the settings say.

        :param merge: join chunks that are neighbours in their file.
        :raises StoreError: the store failed. `StoreMismatchError`: it was indexed with another embedding model.
        :raises LlamaError: the query could not be embedded (`TokenizeError` for lone surrogates).
        """
        mode = mode or self.settings.mode
        started = time.perf_counter()
        vector = None if mode == "lexical" else self.embedder.embed_query(query)
        embedded = time.perf_counter()
        hits = find(
            self.store,
            query,
            vector,
            self.embedder.fingerprint,
            mode=mode,
            top_k=self.settings.top_k if top_k is None else top_k,
            threshold=self.settings.threshold if threshold is None else threshold,
            fusion=self._fusion,
        )
        if merge:
            hits = self.merge(hits)
        return SearchResult(tuple(hits), {"embed": embedded - started, "search": time.perf_counter() - embedded})

    def merge(self, hits: Sequence[Hit]) -> list[Hit]:
        """Returns the hits, best first, with chunks that are neighbours in their file joined into one."""
        return merge_neighbours(hits, lambda text: len(self.embedder.vocab.tokenize(text)))

    def index(self, progress: bool = False) -> IndexReport:
        """Brings the store up to date with the folder, in this thread. Raises as `Indexer.run` does."""
        return self._indexer.run(progress)

    def stats(self) -> KnowledgeStats:
        """Returns what there is to search. Raises `StoreError`."""
        return KnowledgeStats(
            store=self.store.stats(),
            location=self.store.location,
            model=self.embedder.name,
            dimensions=self.embedder.dimensions,
            state=self._state,
            progress=self._progress.share if self._state == "indexing" else None,
            error=self._error,
        )

    def age(self) -> float | None:
        """Returns the seconds since the store was last known to hold what the folder holds, without asking the store.

        0 while changes are followed, None before the first run has succeeded.
        """
        at = self._current_at
        return 0.0 if self._followed else None if at is None else time.monotonic() - at

    def start_watching(self) -> None:
        """Indexes in a thread of its own: now, and with `settings.watch` whenever something in the folder changes.

        Failures are logged, show in `stats` and are tried again. Returns at once.
        """
        if self._thread is None:
            self._thread = threading.Thread(target=self._keep_current, name="knowledge-indexer", daemon=True)
            self._thread.start()

    def _keep_current(self) -> None:
        while not self._stop.is_set():
            try:
                self._follow()
            except (
                OSError,
                RuntimeError,
            ) as error:  # no folder, or no more watches to be had: look again every few seconds
                log.warning("%s cannot be watched: %s", self.settings.data_path, error)
                self._run_once()
            if not self.settings.watch and self._state == "idle":
                return
            self._stop.wait(_RETRY_SECONDS)

    def _follow(self) -> None:
        """Indexes at every change; returns when that failed, or the folder was replaced by another."""
        folder = self.settings.data_path
        identity, root = _identity(folder), folder.resolve()
        first = True
        try:
            # The watch begins before the first run, so that nothing falls between.
            for changes in watchfiles.watch(
                root, stop_event=self._stop, watch_filter=None, yield_on_timeout=True, rust_timeout=200
            ):
                if (first or changes) and not self._run_once():
                    return
                # The watch is on a folder, not on its path: a link to another one, or a mount over it, is no change.
                # One that is deleted and made again may even be the same by its numbers.
                if not self.settings.watch or _identity(folder) != identity or (Change.deleted, str(root)) in changes:
                    return
                first, self._followed = False, True
        finally:
            self._no_longer_followed()

    def _no_longer_followed(self) -> None:
        if self._followed:
            self._current_at = time.monotonic()
            self._followed = False

    def _run_once(self) -> bool:
        """Indexes; returns whether the store is up to date now."""
        self._no_longer_followed()
        begin = time.monotonic()
        try:
            self._state = "indexing"
            report = self._indexer.run()
        except StoppedError:
            return True
        except StoreBusyError:
            self._state = "waiting"
            return False
        except Exception as error:
            if self._stop.is_set():  # it was left behind, and what it works with is closed by now
                return True
            if str(error) != self._error:
                unexpected = not isinstance(error, (StoreError, OSError))
                again = f"trying again every {_RETRY_SECONDS:g} s"
                log.error("indexing %s failed, %s: %s", self.settings.data_path, again, error, exc_info=unexpected)
            self._state, self._error = "failed", str(error)
            return False
        failed, self._state, self._error, self._current_at = self._error, "idle", None, begin
        if failed or report.added or report.changed or report.deleted or report.rebuilt:
            log.info("indexed %s: %s", self.settings.data_path, report.summary())
        return True
