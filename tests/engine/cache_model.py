"""The prefix cache in plain Python, to hold against the engine's: what every sequence has, and who was used last.

`watch` puts it beside a KV cache. From then on the engine thread repeats every change on lists, compares both with each
other and with llama.cpp's own memory, and checks what a placement promises. A difference ends the engine.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

from engine_cases import Tokens

from engine import Engine
from engine.kv import WORTH_COPYING, KVCache, Placement, Sequence
from engine.scheduler import Step
from llama_native import Memory


def common_prefix(a: list[int], b: list[int]) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


class CacheModel:
    """Lists for each sequence: its tokens, the cells that hold them, and since when it is unused."""

    def __init__(self, kv: KVCache, memory: Memory, cuttable: bool) -> None:
        self._kv, self._memory, self._cuttable = kv, memory, cuttable
        every = range(len(kv.sequences))
        self._tokens: list[list[int]] = [[] for _ in every]
        self._cells: list[list[int]] = [[] for _ in every]
        self._busy = [False for _ in every]
        self._used = [0 for _ in every]
        self._clock, self._new_cell = count(1), count()
        self._evictions = self._evicted_tokens = 0
        #: Changes that were compared.
        self.compared = 0

    def place(self, prompt: Tokens, reuse_prefix: bool, placement: Placement | None) -> None:
        """Check where a prompt is to run: nothing better is at hand, and nobody loses more than a little for it."""
        idle = [i for i, busy in enumerate(self._busy) if not busy]
        assert (placement is None) == (not idle)
        if placement is None:
            return
        target, source, wanted = placement.target.id, placement.source.id, prompt.tolist()
        assert target in idle
        assert self._tokens[source][: placement.reuse] == wanted[: placement.reuse]
        best = max(self._usable(tokens, wanted) for tokens in self._tokens) if reuse_prefix else 0
        assert best - WORTH_COPYING < placement.reuse <= best
        lost = len(self._tokens[target]) - common_prefix(self._tokens[target], wanted)
        if lost >= WORTH_COPYING:
            assert all(self._tokens[i] for i in idle), "an empty sequence was at hand"
            oldest = min(idle, key=self._used.__getitem__)
            spared = len(self._tokens[oldest]) - common_prefix(self._tokens[oldest], wanted)
            assert target == oldest or lost < spared, "another one was used longer ago, and has less to lose"

    def _usable(self, tokens: list[int], prompt: list[int]) -> int:
        common = min(common_prefix(tokens, prompt), len(prompt) - 1)
        return common if self._cuttable or common == len(tokens) else 0

    def occupy(self, placement: Placement, prompt: Tokens, reused: int) -> None:
        target, source = placement.target.id, placement.source.id
        assert reused in (0, placement.reuse)
        self._lose(len(self._tokens[target]) - common_prefix(self._tokens[target], prompt.tolist()))
        if target != source and reused:
            self._used[source] = next(self._clock)
        shared = self._kv.unified or target == source
        self._cells[target] = self._cells[source][:reused] if shared else [next(self._new_cell) for _ in range(reused)]
        self._tokens[target] = self._tokens[source][:reused]
        self._busy[target] = True
        self._used[target] = next(self._clock)

    def make_room(self, placement: Placement, found: bool) -> None:
        """Whoever was evicted for room was idle, and of those that could be the ones used longest ago."""
        could = [s.id for s in self._kv.sequences if self._tokens[s.id] and not s.busy and s is not placement.source]
        gone = [i for i in could if not self._kv.sequences[i].length]
        assert found or not gone
        assert set(gone) == set(sorted(could, key=self._used.__getitem__)[: len(gone)])
        for i in gone:
            self._lose(len(self._tokens[i]))
            self._tokens[i], self._cells[i] = [], []

    def computed(self, sequence: Sequence, tokens: Tokens) -> None:
        assert self._busy[sequence.id]
        self._tokens[sequence.id] += tokens.tolist()
        self._cells[sequence.id] += [next(self._new_cell) for _ in range(tokens.size)]

    def computed_one(self, sequence: Sequence, token: int) -> None:
        assert self._busy[sequence.id]
        self._tokens[sequence.id].append(token)
        self._cells[sequence.id].append(next(self._new_cell))

    def release(self, sequence: Sequence) -> None:
        self._busy[sequence.id] = False
        self._used[sequence.id] = next(self._clock)

    def discard(self, sequence: Sequence) -> None:
        self._busy[sequence.id] = False
        self._tokens[sequence.id], self._cells[sequence.id] = [], []

    def _lose(self, tokens: int) -> None:
        self._evictions += tokens > 0
        self._evicted_tokens += tokens

    def compare(self) -> None:
        """Both, and llama.cpp's memory, hold the same."""
        kv = self._kv
        for sequence, tokens, busy in zip(kv.sequences, self._tokens, self._busy, strict=True):
            assert sequence.tokens[: sequence.length].tolist() == tokens
            assert sequence.busy == busy
            assert self._memory.pos_max(sequence.id) + 1 == len(tokens)
        assert kv.cells.used == len({cell for cells in self._cells for cell in cells})
        held = [s for s in kv.sequences if s.length]
        order = sorted(held, key=lambda s: s.last_used)
        assert order == sorted(held, key=lambda s: self._used[s.id])
        assert (kv.evictions, kv.evicted_tokens) == (self._evictions, self._evicted_tokens)
        self.compared += 1


def watch(engine: Engine) -> CacheModel:
    """Put a model beside the KV cache of `engine`, which must not have run anything."""
    kv, cuttable = engine._kv, not (engine.model.is_recurrent or engine.model.is_hybrid)
    model = CacheModel(kv, engine._native.memory, cuttable)
    place, occupy, make_room, step = kv.place, kv.occupy, kv.make_room, engine._step

    def watched_place(prompt: Tokens, reuse_prefix: bool = True) -> Placement | None:
        placement = place(prompt, reuse_prefix)
        model.place(prompt, reuse_prefix, placement)
        return placement

    def watched_occupy(placement: Placement, prompt: Tokens) -> int:
        reused = occupy(placement, prompt)
        model.occupy(placement, prompt, reused)
        model.compare()
        return reused

    def watched_make_room(placement: Placement, tokens: int) -> bool:
        found = make_room(placement, tokens)
        model.make_room(placement, found)
        model.compare()
        return found

    def both(change: Callable[..., None], repeat: Callable[..., None]) -> Callable[..., None]:
        def watched(sequence: Sequence, *rest: Tokens | int) -> None:
            change(sequence, *rest)
            repeat(sequence, *rest)
            if repeat not in (model.computed, model.computed_one):  # llama.cpp computed the others of the step already
                model.compare()

        return watched

    def watched_step(planned: Step) -> None:
        step(planned)
        model.compare()

    engine._step = watched_step  # type: ignore[method-assign]
    kv.place, kv.occupy, kv.make_room = watched_place, watched_occupy, watched_make_room  # type: ignore[method-assign]
    for name in ("computed", "computed_one", "release", "discard"):
        setattr(kv, name, both(getattr(kv, name), getattr(model, name)))
    return model
