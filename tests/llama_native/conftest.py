"""Fixtures of the llama_native tests: tiny generated models, the demo models, and contexts that close themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import llama_native as ln
from tests.llama_native import tiny

PROMPT = "<|im_start|>user\nWho was Albert Einstein?<|im_end|>\n<|im_start|>assistant\n"

MakeContext = Callable[..., ln.Context]


def _has_kernels() -> bool:
    """Asked of the system, not of the library: where the processor has what they need, the kernels have to be there."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return False
    flags = next((set(line.split()) for line in lines if line.startswith("flags")), set())
    return {"avx2", "fma", "f16c"} <= flags and "amx_int8" not in flags


needs_kernels = pytest.mark.skipif(not _has_kernels(), reason="needs AVX2, FMA and F16C, and no AMX before them")


@pytest.fixture(scope="session")
def tiny_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generated Llama of two layers."""
    return tiny.llama(tmp_path_factory.mktemp("tiny") / "llama.gguf")


@pytest.fixture(scope="session")
def tiny_model(tiny_path: Path) -> Iterator[ln.Model]:
    with ln.Model(tiny_path) as model:
        yield model


@pytest.fixture(scope="session")
def mamba_model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ln.Model]:
    """A generated recurrent model."""
    with ln.Model(tiny.mamba(tmp_path_factory.mktemp("mamba") / "mamba.gguf")) as model:
        yield model


@pytest.fixture(scope="session")
def window_model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ln.Model]:
    """A generated model with sliding-window layers: they see 16 tokens."""
    with ln.Model(tiny.gemma(tmp_path_factory.mktemp("gemma") / "gemma.gguf", window=16)) as model:
        yield model


@pytest.fixture(scope="session")
def chat_model(chat_model_path: Path) -> Iterator[ln.Model]:
    """The demo chat model."""
    with ln.Model(chat_model_path) as model:
        yield model


@pytest.fixture(scope="session")
def embedding_model(embedding_model_path: Path) -> Iterator[ln.Model]:
    """The demo embedding model, a BERT."""
    with ln.Model(embedding_model_path) as model:
        yield model


@pytest.fixture
def make_context() -> Iterator[MakeContext]:
    """Makes contexts with small defaults; they are closed after the test."""
    made: list[ln.Context] = []

    def make(model: ln.Model, **params: Any) -> ln.Context:
        defaults = {"n_ctx": 512, "n_threads": 1, "flash_attention": ln.FlashAttention.OFF}
        context = ln.Context(model, ln.ContextParams(**{**defaults, **params}))
        made.append(context)
        return context

    yield make
    for context in made:
        context.close()


def filled(tokens: list[int], pos0: int = 0, seq: int = 0, capacity: int = 64, n_seq_max: int = 1) -> ln.Batch:
    """Returns a batch with these tokens of one sequence, an output on the last."""
    batch = ln.Batch(capacity, n_seq_max)
    batch.extend(tokens, pos0, seq, output_last=True)
    return batch
