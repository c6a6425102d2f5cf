"""Streams that share a copied prefix: attention reads it from one of them, and nobody can tell but by the clock.

Our kernels give the same bits whatever they are computed with, so every difference between a stream with a copied
prefix and the same tokens computed anew is a fault.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import llama_native as ln
from llama_native.ffi import C
from llama_native.state import restore_sequence, sequence_state
from tests.llama_native import tiny
from tests.llama_native.conftest import MakeContext, needs_kernels

STREAMS, CONTEXT, PREFIX = 4, 512, 200

pytestmark = needs_kernels


@pytest.fixture(scope="module")
def plain_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Heads of 32 dimensions, so that a cache may have 8 bits."""
    return tiny.llama(tmp_path_factory.mktemp("copies") / "f32.gguf", n_head_dimensions=32)


@pytest.fixture(scope="module")
def model(plain_path: Path) -> Iterator[ln.Model]:
    path = plain_path.with_name("q4_1.gguf")
    ln.quantize(plain_path, path, ln.FileType.Q4_1, n_threads=1)
    with ln.Model(path) as model:
        yield model


class Streams:
    """A context with streams, and beside it what each of them ought to hold."""

    def __init__(self, model: ln.Model, make: MakeContext, seed: int, tolerance: float = 0.0, **shape: Any) -> None:
        shape = {"flash_attention": ln.FlashAttention.ON, "n_threads": 2} | shape
        self.context = make(model, n_ctx=STREAMS * CONTEXT, n_seq_max=STREAMS, **shape)
        self.fresh = make(model, n_ctx=CONTEXT, **shape)
        self.tokens: list[list[int]] = [[] for _ in range(STREAMS)]
        self.random = np.random.default_rng(seed)
        #: Of llama.cpp's own kernels, which round otherwise in other company.
        self.tolerance = tolerance

    def some(self, count: int) -> list[int]:
        return [int(token) for token in self.random.integers(3, 259, count)]

    def extend(self, seq: int, count: int) -> None:
        new = self.some(count)
        batch = ln.Batch(CONTEXT)
        batch.extend(new, len(self.tokens[seq]), seq, output_last=True)
        self.context.decode(batch)
        self.tokens[seq] += new

    def copy(self, source: int, target: int) -> None:
        self.context.memory.copy(source, target)
        self.tokens[target] = list(self.tokens[source])

    def cut(self, seq: int, length: int) -> None:
        assert self.context.memory.remove(seq, length, -1)
        del self.tokens[seq][length:]

    def check(self) -> None:
        """One more token for every stream that holds some, computed together, and each alone and anew."""
        held = [seq for seq in range(STREAMS) if 0 < len(self.tokens[seq]) < CONTEXT - 1]
        if not held:
            return
        token = self.some(1)[0]
        batch = ln.Batch(CONTEXT)
        for seq in held:
            batch.add(token, len(self.tokens[seq]), seq, output=True)
        self.context.decode(batch)
        found = self.context.logits_all(len(held)).copy()
        for row, seq in enumerate(held):
            self.tokens[seq].append(token)
            error = np.abs(found[row] - self.anew(self.tokens[seq])).max()
            assert error <= self.tolerance, f"stream {seq}: {error}"

    def anew(self, tokens: list[int]) -> NDArray[np.float32]:
        self.fresh.memory.clear()
        batch = ln.Batch(CONTEXT)
        batch.extend(tokens, 0, 0, output_last=True)
        self.fresh.decode(batch)
        return self.fresh.logits(-1).copy()


@pytest.fixture
def streams(model: ln.Model, make_context: MakeContext) -> Streams:
    """Stream 0 holds a prefix, of which 1 and 2 are copies, and each has gone its own way."""
    made = Streams(model, make_context, 1)
    made.extend(0, PREFIX)
    made.copy(0, 1)
    made.copy(1, 2)
    for seq in range(3):
        made.extend(seq, 5 + seq)
    made.check()
    return made


def shared_cells() -> int:
    """Over keys and values of the two layers of all contexts."""
    return int(C.lucid_shared_cells())


def test_a_copied_prefix_is_known_until_it_is_changed(model: ln.Model, make_context: MakeContext) -> None:
    """What the other tests could not tell from doing nothing."""
    tensors, before = 4, shared_cells()
    made = Streams(model, make_context, 1)
    made.extend(0, PREFIX)
    made.copy(0, 1)
    made.copy(1, 2)
    made.extend(1, 7)
    made.extend(2, 9)
    assert shared_cells() - before == tensors * 2 * PREFIX
    made.cut(2, 150)
    made.extend(2, 3)
    assert shared_cells() - before == tensors * (PREFIX + 150)
    made.cut(0, 70)
    made.extend(0, 1)
    assert shared_cells() - before == tensors * 2 * 70
    made.context.close()
    assert shared_cells() == before


def state(streams: Streams) -> None:
    """What stream 3 holds is put into stream 0."""
    streams.extend(3, PREFIX)
    kept = sequence_state(streams.context, 3)
    streams.context.memory.remove(0)
    restore_sequence(streams.context, 0, kept)
    streams.tokens[0] = list(streams.tokens[3])


def shift(streams: Streams) -> None:
    """Stream 0 loses its first tokens and the rest moves up, so that its keys are other ones; nobody else's are."""
    streams.context.memory.remove(0, 0, 70)
    streams.context.memory.shift(0, 70, -1, -70)
    streams.tokens[0] = []  # what it holds now depends on what it has lost


def rewrite(streams: Streams, from_: int) -> None:
    streams.cut(0, from_)
    streams.extend(0, 100)


def start_anew(streams: Streams) -> None:
    streams.context.memory.remove(0)
    streams.tokens[0] = []
    streams.extend(0, 90)


def copy_over(streams: Streams) -> None:
    streams.extend(3, 150)
    streams.copy(3, 0)


def copy_back(streams: Streams) -> None:
    streams.copy(2, 0)
    streams.extend(2, 3)


def copy_less_over_more(streams: Streams) -> None:
    """Then grow into cells that held something else."""
    streams.extend(3, 20)
    streams.copy(3, 0)
    streams.extend(0, 250)
    streams.copy(0, 3)


def copy_and_replace(streams: Streams) -> None:
    """Both copies are carried out at the next decode, in this order."""
    streams.extend(3, 150)
    streams.copy(0, 1)
    streams.copy(3, 0)


def clear(streams: Streams) -> None:
    streams.context.memory.clear()
    streams.tokens = [[] for _ in range(STREAMS)]
    streams.extend(1, 300)


@pytest.mark.parametrize(
    "change",
    [
        state,
        shift,
        lambda streams: rewrite(streams, PREFIX - 1),
        lambda streams: rewrite(streams, 63),
        lambda streams: rewrite(streams, 0),
        start_anew,
        copy_over,
        copy_back,
        copy_less_over_more,
        copy_and_replace,
        clear,
    ],
    ids=["state", "shift", "last", "segment", "all", "anew", "over", "back", "less", "replaced", "cleared"],
)
def test_what_becomes_of_the_origin_does_not_reach_its_copies(
    streams: Streams, change: Callable[[Streams], None]
) -> None:
    change(streams)
    streams.check()
    streams.check()


@pytest.mark.parametrize("seed", range(6))
def test_any_order_of_changes(model: ln.Model, make_context: MakeContext, seed: int) -> None:
    any_order(Streams(model, make_context, seed))


@pytest.mark.parametrize(
    ("shape", "tolerance"),
    [
        ({"flash_attention": ln.FlashAttention.OFF}, 0.1),
        ({"type_k": ln.GgmlType.Q8_0, "type_v": ln.GgmlType.Q8_0}, 0.5),
        ({"n_ubatch": 16}, 0.0),
        ({"n_threads": 1}, 0.0),
        ({"n_threads": 5}, 0.0),
    ],
    ids=["no flash attention", "8 bits", "micro-batches", "one thread", "five threads"],
)
def test_other_shapes(model: ln.Model, make_context: MakeContext, shape: dict[str, Any], tolerance: float) -> None:
    """With values transposed, with a cache in 8 bits, in several graphs; the first two by llama.cpp's attention."""
    any_order(Streams(model, make_context, 7, tolerance, **shape))


def test_without_our_kernels_copies_are_whole_too(plain_path: Path, make_context: MakeContext) -> None:
    with ln.Model(plain_path, ln.ModelParams(kernels=False)) as plain:
        any_order(Streams(plain, make_context, 8, 0.1))


def test_two_contexts_at_once(model: ln.Model, make_context: MakeContext) -> None:
    def run(seed: int) -> None:
        any_order(Streams(model, make_context, seed, n_threads=1))

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(run, (11, 12)))


def any_order(streams: Streams) -> None:
    random = streams.random
    for _ in range(60):
        one, other = (int(seq) for seq in random.choice(STREAMS, 2, replace=False))
        length = len(streams.tokens[one])
        match int(random.integers(6)):
            case 0 | 1 if length < CONTEXT - 2:
                streams.extend(one, int(random.integers(1, min(150, CONTEXT - length))))
            case 2 | 3 if length:
                streams.copy(one, other)
            case 4 if length > 1:
                streams.cut(one, int(random.integers(1, length)))
            case _:
                streams.check()
    streams.check()


def test_contexts_do_not_know_of_each_others(model: ln.Model, make_context: MakeContext) -> None:
    """Memory of one that was closed may be given to the next."""
    for seed in range(4):
        streams = Streams(model, make_context, seed)
        streams.extend(0, PREFIX)
        streams.copy(0, 1)
        streams.extend(1, 3)
        streams.check()
        streams.context.close()
