"""Streams that share a copied prefix: attention reads it from one of them, and nobody can tell but by the clock.

Our kernels give the same bits whatever they are computed with, so every difference between a stream with a copied prefix
and the same tokens computed anew is a fault.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

import llama_native as ln
from llama_native.state import restore_sequence, sequence_state
from tests.llama_native.conftest import MakeContext, needs_kernels

STREAMS, CONTEXT, PREFIX = 4, 512, 200

pytestmark = needs_kernels


@pytest.fixture(scope="module")
def model(tiny_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ln.Model]:
    path = tmp_path_factory.mktemp("copies") / "q4_1.gguf"
    ln.quantize(tiny_path, path, ln.FileType.Q4_1, n_threads=1)
    with ln.Model(path) as model:
        yield model


class Streams:
    """A context with streams, and beside it what each of them ought to hold."""

    def __init__(self, model: ln.Model, make: MakeContext, seed: int) -> None:
        shape = {"flash_attention": ln.FlashAttention.ON, "n_threads": 2}
        self.context = make(model, n_ctx=STREAMS * CONTEXT, n_seq_max=STREAMS, **shape)
        self.fresh = make(model, n_ctx=CONTEXT, **shape)
        self.tokens: list[list[int]] = [[] for _ in range(STREAMS)]
        self.random = np.random.default_rng(seed)

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
            assert np.array_equal(found[row], self.anew(self.tokens[seq])), f"stream {seq}"

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
        copy_and_replace,
        clear,
    ],
    ids=["state", "shift", "last", "segment", "all", "anew", "over", "back", "replaced", "cleared"],
)
def test_what_becomes_of_the_origin_does_not_reach_its_copies(
    streams: Streams, change: Callable[[Streams], None]
) -> None:
    change(streams)
    streams.check()
    streams.check()


@pytest.mark.parametrize("seed", range(6))
def test_any_order_of_changes(model: ln.Model, make_context: MakeContext, seed: int) -> None:
    streams = Streams(model, make_context, seed)
    random = streams.random
    for _ in range(60):
        one, other = (int(seq) for seq in random.choice(STREAMS, 2, replace=False))
        length = len(streams.tokens[one])
        match int(random.integers(6)):
            case 0 | 1:
                streams.extend(one, int(random.integers(1, min(150, CONTEXT - length)))) if length < CONTEXT - 2 else None
            case 2 | 3:
                streams.copy(one, other) if length else None
            case 4:
                streams.cut(one, int(random.integers(1, length))) if length > 1 else None
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
