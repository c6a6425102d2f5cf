"""The settings of the knowledge base, and reading them from the environment for the command line.

The server reads the same variables in its own configuration and passes them here. Knows values only.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, get_args

Mode = Literal["dense", "lexical", "hybrid"]
MODES: tuple[Mode, ...] = get_args(Mode)

#: Overlap of neighbouring chunks in tokens, where chunks are large enough for it.
CHUNK_OVERLAP: Final = 32
#: What KNOWLEDGE_URL may be.
STORE_URLS: Final = "the path of a file, sqlite:// and a path, or postgresql://..."


class SettingsError(Exception):
    """A setting that cannot be used; the message names the variable and what is allowed."""


@dataclass(frozen=True, slots=True)
class KnowledgeSettings:
    """What to index, how, and how to search it unless a search says otherwise.

    :ivar data_path: folder of documents.
    :ivar embedding_model: GGUF file of an embedding model.
    :ivar url: where the store is: `postgresql://...`, or the path of an SQLite file; "" is a file in the user's data
        folder, one for each data folder.
    :ivar top_k: chunks that a search gives.
    :ivar threshold: least similarity of a hit, for modes dense and hybrid.
    :ivar mode: how to search.
    :ivar chunk_tokens: most tokens of a chunk, as the embedding model counts.
    :ivar chunk_overlap: most tokens that neighbouring chunks share.
    :ivar watch: follow changes of the folder while a server runs.
    :ivar document_weight: share of its document's beginning in what a chunk is found by (`knowledge.in_document`).
    :ivar file_bytes: larger files are skipped with a warning.
    :ivar query_prefix, document_prefix: put before texts for the embedding model; None takes the model family's.
    :ivar threads: threads that embed; 0 means one per available CPU.
    :ivar gpu_layers, main_gpu: layers of the embedding model on the GPU, and which.
    :ivar kernels: let Lucid's own matrix kernels take the weights they are faster with.
    """

    data_path: Path = Path("data")
    embedding_model: Path = Path("model/embed.gguf")
    url: str = ""
    top_k: int = 3
    threshold: float = 0.3
    mode: Mode = "hybrid"
    chunk_tokens: int = 200
    chunk_overlap: int = CHUNK_OVERLAP
    document_weight: float = 0.35
    watch: bool = True
    file_bytes: int = 32 << 20
    query_prefix: str | None = None
    document_prefix: str | None = None
    threads: int = 0
    gpu_layers: int = 0
    main_gpu: int = 0
    kernels: bool = True

    def __post_init__(self) -> None:
        """Refuses what cannot work with any model."""
        try:
            store_url(self.url)
        except ValueError:
            scheme = self.url.partition(":")[0]  # not all of it: there may be a password in it
            raise SettingsError(f"KNOWLEDGE_URL={scheme}://... is not valid; allowed: {STORE_URLS}") from None
        if self.chunk_tokens < 16:
            raise SettingsError(f"KNOWLEDGE_CHUNK_TOKENS={self.chunk_tokens} is not valid; allowed: at least 16")
        if not 0 <= self.chunk_overlap <= self.chunk_tokens // 2:
            raise SettingsError(
                f"KNOWLEDGE_CHUNK_OVERLAP={self.chunk_overlap} is not valid; allowed: 0 to {self.chunk_tokens // 2}, "
                "half of KNOWLEDGE_CHUNK_TOKENS"
            )

    @property
    def sqlite_path(self) -> Path:
        """The SQLite file that `url` means. Its default depends on the data folder's path alone."""
        if self.url:
            return Path(self.url.removeprefix("sqlite://")).expanduser()
        home = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
        folder = self.data_path.expanduser().resolve()
        key = hashlib.sha256(os.fsencode(folder)).hexdigest()[:12]
        return Path(home).expanduser() / "lucid-llm" / "knowledge" / f"{folder.name or 'root'}-{key}.sqlite"


def store_url(text: str) -> str:
    """Returns `text` if it may name a store, which is `STORE_URLS`. Raises ValueError."""
    scheme, is_url, _ = text.partition("://")
    if is_url and scheme not in ("sqlite", "postgresql", "postgres"):
        raise ValueError(f"no store is known by {scheme}://")
    if not is_url and text.startswith(("postgresql:", "postgres:")):  # not a file's name, which is shown
        raise ValueError("the slashes of postgresql:// are not two")
    return text


def usual_overlap(chunk_tokens: int) -> int:
    """Returns the overlap for chunks of this size where none is set."""
    return min(CHUNK_OVERLAP, chunk_tokens // 4)


def prefix(text: str | None) -> str | None:
    """Returns the prefix that the text of a variable means: `none` is no prefix, nothing is the model's own (None)."""
    return "" if text == "none" else text or None


def from_environment(environ: Mapping[str, str]) -> KnowledgeSettings:
    """Returns the settings that the variables of the same names as the server's give.

    Raises `SettingsError` for a value that is not allowed. A variable that is empty counts as unset.
    """
    default = KnowledgeSettings()

    def text(name: str, otherwise: str) -> str:
        return environ.get(name) or otherwise

    def number(name: str, otherwise: int, least: int = 0) -> int:
        value = text(name, str(otherwise))
        if not value.isascii() or not value.isdigit() or int(value) < least:
            raise SettingsError(f"{name}={value!r} is not valid; allowed: a whole number, at least {least}")
        return int(value)

    def fraction(name: str, otherwise: float, least: float) -> float:
        value = text(name, str(otherwise))
        try:
            result = float(value)
        except ValueError:
            result = math.nan
        if not least <= result <= 1:
            raise SettingsError(f"{name}={value!r} is not valid; allowed: a number from {least:g} to 1")
        return result

    def switch(name: str, otherwise: bool) -> bool:
        value = text(name, "on" if otherwise else "off")
        if value.lower() not in ("on", "off"):
            raise SettingsError(f"{name}={value!r} is not valid; allowed: on, off")
        return value.lower() == "on"

    mode = text("KNOWLEDGE_MODE", default.mode).lower()
    if mode == "off":  # says what a server does, not the command line
        mode = default.mode
    chosen = next((known for known in MODES if known == mode), None)
    if chosen is None:
        raise SettingsError(f"KNOWLEDGE_MODE={mode!r} is not valid; allowed: {', '.join(MODES)}")
    chunk_tokens = number("KNOWLEDGE_CHUNK_TOKENS", default.chunk_tokens)
    return KnowledgeSettings(
        data_path=Path(text("DATA_PATH", str(default.data_path))),
        embedding_model=Path(text("EMBEDDING_MODEL", str(default.embedding_model))),
        url=text("KNOWLEDGE_URL", default.url),
        top_k=number("KNOWLEDGE_TOP_K", default.top_k, 1),
        threshold=fraction("KNOWLEDGE_THRESHOLD", default.threshold, -1),
        mode=chosen,
        chunk_tokens=chunk_tokens,
        chunk_overlap=number("KNOWLEDGE_CHUNK_OVERLAP", usual_overlap(chunk_tokens)),
        document_weight=fraction("KNOWLEDGE_DOCUMENT_WEIGHT", default.document_weight, 0),
        file_bytes=number("KNOWLEDGE_FILE_BYTES", default.file_bytes, 1),
        query_prefix=prefix(environ.get("KNOWLEDGE_QUERY_PREFIX")),
        document_prefix=prefix(environ.get("KNOWLEDGE_DOCUMENT_PREFIX")),
        threads=number("MODEL_THREADS", default.threads),
        gpu_layers=number("MODEL_GPU_LAYERS", default.gpu_layers),
        main_gpu=number("MAIN_GPU", default.main_gpu),
        kernels=switch("MODEL_KERNELS", default.kernels),
    )
