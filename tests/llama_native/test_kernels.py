"""Our own matrix kernels: the weights they take, and that they compute what llama.cpp computes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import llama_native as ln
from llama_native.ffi import C
from tests.llama_native.conftest import MakeContext, needs_kernels

TOKENS = [int(token) for token in np.random.default_rng(5).integers(3, 259, 67)]

pytestmark = needs_kernels


@pytest.fixture(scope="module", params=[ln.FileType.Q4_1, ln.FileType.Q8_0], ids=lambda kind: kind.name)
def paths(
    request: pytest.FixtureRequest, tiny_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """A model with weights that our kernels multiply, and the same weights in 32 bits."""
    folder = tmp_path_factory.mktemp("kernels")
    few_bits, exact = folder / "few_bits.gguf", folder / "f32.gguf"
    ln.quantize(tiny_path, few_bits, request.param, n_threads=1)
    ln.quantize(few_bits, exact, ln.FileType.F32, n_threads=1, allow_requantize=True)
    return few_bits, exact


@pytest.fixture(scope="module")
def ours(paths: tuple[Path, Path]) -> Iterator[ln.Model]:
    with ln.Model(paths[0]) as model:
        yield model


@pytest.fixture(scope="module")
def theirs(paths: tuple[Path, Path]) -> Iterator[ln.Model]:
    with ln.Model(paths[0], ln.ModelParams(kernels=False)) as model:
        yield model


@pytest.fixture(scope="module")
def exact(paths: tuple[Path, Path]) -> Iterator[ln.Model]:
    with ln.Model(paths[1]) as model:
        yield model


def logits(context: ln.Context, tokens: list[int], step: int = 100) -> NDArray[np.float32]:
    """Of every token, computed `step` at a time."""
    context.memory.clear()
    found = []
    for start in range(0, len(tokens), step):
        batch = ln.Batch(step)
        part = tokens[start : start + step]
        batch.extend(part, start, 0, output_all=True)
        context.decode(batch)
        found.append(context.logits_all(len(part)).copy())
    return np.concatenate(found)


def packed_size(path: Path, params: ln.ModelParams) -> int:
    with ln.Model(path, params) as model:
        return model.packed_size


def test_weights_in_q4_1_are_packed_unless_told_otherwise(tiny_path: Path, tmp_path: Path) -> None:
    packed, plain = tmp_path / "q4_1.gguf", tmp_path / "q8_0.gguf"
    ln.quantize(tiny_path, packed, ln.FileType.Q4_1, n_threads=1)
    ln.quantize(tiny_path, plain, ln.FileType.Q8_0, n_threads=1)
    assert packed_size(packed, ln.ModelParams()) > 10_000
    assert packed_size(packed, ln.ModelParams(kernels=False)) == 0
    assert packed_size(packed, ln.ModelParams(use_extra_bufts=False)) == 0
    assert packed_size(plain, ln.ModelParams()) == 0
    assert packed_size(tiny_path, ln.ModelParams()) == 0


@pytest.mark.parametrize("step", [1, 2, 3, 4, 5, 6, 7, 8, 9, 33, 67])
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_they_are_nearer_to_exact_than_llama_cpps(
    ours: ln.Model, theirs: ln.Model, exact: ln.Model, make_context: MakeContext, step: int, threads: int
) -> None:
    """Both round what meets the weights to 8 bits; ours keeps its scales in 32 bits, llama.cpp's in 16."""
    found, reference, truth = (
        logits(make_context(model, n_threads=threads, n_threads_batch=threads), TOKENS, step)
        for model in (ours, theirs, exact)
    )
    error, their_error = (np.sqrt(np.square(logits - truth).mean()) for logits in (found, reference))
    assert 0 < error < their_error, (error, their_error)


def test_what_is_packed_is_not_kept_twice(chat_model_path: Path) -> None:
    """Of the mapped file, only what is used as it is stays in memory."""

    def resident() -> int:
        """Bytes of the file's pages in this process."""
        total, ours = 0, False
        for line in Path("/proc/self/smaps").read_text().splitlines():
            if "-" in line.split()[0]:
                ours = line.endswith(str(chat_model_path.resolve()))
            elif ours and line.startswith("Rss:"):
                total += int(line.split()[1]) * 1024
        return total

    before = resident()
    with ln.Model(chat_model_path) as model:
        assert model.packed_size > 50_000_000
        assert resident() - before < model.size - model.packed_size


def test_instructions_for_products_of_bytes_give_the_same_bits(chat_model: ln.Model, make_context: MakeContext) -> None:
    """The demo model's layers are in Q4_1, its output in Q8_0."""
    try:
        if not C.lucid_use_vnni(True):
            pytest.skip("this processor has no AVX-512 VNNI")
        with_them = [logits(make_context(chat_model, n_ctx=128), TOKENS, step) for step in (1, 2, 3, 67)]
        assert not C.lucid_use_vnni(False)
        without = [logits(make_context(chat_model, n_ctx=128), TOKENS, step) for step in (1, 2, 3, 67)]
    finally:
        C.lucid_use_vnni(True)
    for ours, theirs in zip(with_them, without, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_they_are_there() -> None:
    assert ln.build_info()["kernels"]


@pytest.mark.parametrize("step", [1, 2, 3, 4, 5, 6, 7, 8, 9, 33])
def test_how_many_are_computed_at_once_does_not_change_a_bit(
    ours: ln.Model, make_context: MakeContext, step: int
) -> None:
    """With our own attention beside them; llama.cpp's depends on it."""
    at_once, otherwise = (
        logits(make_context(ours, flash_attention=ln.FlashAttention.ON), TOKENS, n) for n in (100, step)
    )
    assert np.array_equal(at_once, otherwise)


def test_threads_do_not_change_a_bit(ours: ln.Model, make_context: MakeContext) -> None:
    one, three = (make_context(ours, n_threads=n, n_threads_batch=n) for n in (1, 3))
    assert np.array_equal(logits(one, TOKENS), logits(three, TOKENS))


def test_the_demo_model_says_the_same(chat_model: ln.Model, chat_model_path: Path, make_context: MakeContext) -> None:
    prompt = [int(token) for token in chat_model.vocab.tokenize("The capital of France is", add_special=True)]
    with ln.Model(chat_model_path, ln.ModelParams(kernels=False)) as plain:
        found, reference = (logits(make_context(model), prompt)[-1] for model in (chat_model, plain))
    assert found.argmax() == reference.argmax()
    assert np.corrcoef(found, reference)[0, 1] > 0.999
