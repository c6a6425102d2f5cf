"""The KV cache as the engine sees it: sequences, the tokens each of them holds, and prefixes shared among them.

The only module of the engine that changes llama.cpp's memory, so that the engine's picture of it is always true. A
sequence that no request runs in keeps its tokens: it is the prefix cache. A new prompt looks for the longest common
prefix in *every* sequence, idle or running, and either goes on in place, or copies the prefix into a sequence of its
own, or waits while another request is computing that very prefix.

Two layouts exist in llama.cpp. In `unified` all sequences share one table of cells: a copy only marks cells, memory is
shared, but every token attends over (masked) cells of all sequences. In `streams` each sequence has cells of its own:
a copy moves the stream's buffer, idle sequences cost nothing at decode. docs/ARCHITECTURE.md has the reasons.

Knows nothing of requests; the scheduler decides who runs when.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from engine.cells import Cells
from llama_native import Context

Tokens = npt.NDArray[np.int32]

#: Fewer tokens than this are computed rather than copied from another sequence or waited for, and are lost rather than
#: kept by a copy. A copy of 450 tokens of the demo model takes as long as some three prompt tokens; larger models pay
#: more for both.
WORTH_COPYING: Final = 16


class Sequence:
    """One sequence of the KV cache. `tokens[:length]` are computed, up to `expected` more are being computed now."""

    __slots__ = ("busy", "expected", "id", "last_used", "length", "one_token", "tokens")

    def __init__(self, sequence_id: int, context: int) -> None:
        self.id = sequence_id
        #: Token ids by position, int32, shape (context,).
        self.tokens: Tokens = np.zeros(context, dtype=np.int32)
        #: The same memory as `tokens`, for one at a time: see `Cells`.
        self.one_token = self.tokens.data
        #: How many of them are in the cache.
        self.length = 0
        #: Known tokens: `length`, or the whole prompt while it is being prefilled.
        self.expected = 0
        #: A request runs here.
        self.busy = False
        #: Order of last use; the smallest is evicted first.
        self.last_used = 0


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a prompt would run: in `target`, reusing the first `reuse` tokens of `source` (which may be `target`).

    `awaited` is the longer prefix that a running sequence will hold once its prefill has got there, else 0.
    """

    target: Sequence
    source: Sequence
    reuse: int
    awaited: int = 0


class KVCache:
    """All sequences of one context.

    `context` is the most tokens a single sequence may hold; `cuttable` says whether the model's memory can be cut at
    any position (not so for recurrent and hybrid models: there a prefix is reused whole or not at all).
    """

    def __init__(self, native: Context, context: int, *, unified: bool, cuttable: bool) -> None:
        self._memory = native.memory
        self._cuttable = cuttable
        self.unified = unified
        self.context = context
        self.sequences = [Sequence(i, context) for i in range(native.n_seq_max)]
        total = native.n_ctx if unified else native.n_seq_max * context
        self.cells = Cells(total, native.n_seq_max, context)
        #: How often a sequence lost cached tokens to another prompt, and how many tokens those were.
        self.evictions = 0
        self.evicted_tokens = 0
        self._use = itertools.count(1)

    def place(self, prompt: Tokens, reuse_prefix: bool = True) -> Placement | None:
        """Choose a sequence for `prompt`; None when every sequence is busy.

        In place where an idle sequence holds as much of the prompt as any other, unless a copy of the prefix destroys
        less: it goes into an empty sequence or the idle one used longest ago. Without `reuse_prefix` into that one at
        once.
        """
        idle = [s for s in self.sequences if not s.busy]
        if not idle:
            return None
        victim = min(idle, key=lambda s: s.last_used if s.length else 0)
        if not reuse_prefix:
            return Placement(victim, victim, 0)
        limit = prompt.size - 1  # the last token must be computed: its logits choose the first token of the answer
        usable: dict[int, int] = {}
        pending = 0
        for sequence in self.sequences:
            common = min(_common_prefix(sequence.tokens[: sequence.expected], prompt), limit)
            usable[sequence.id] = self._usable(sequence, min(common, sequence.length))
            if self._cuttable and common > sequence.length:
                pending = max(pending, common)
        here = max(idle, key=lambda s: (usable[s.id], -s.last_used))
        best = max(self.sequences, key=lambda s: usable[s.id])
        here_reuse, reuse = usable[here.id], usable[best.id]
        awaited = pending if pending >= reuse + WORTH_COPYING else 0
        if reuse >= here_reuse + WORTH_COPYING:
            return Placement(victim, best, reuse, awaited)
        if here_reuse < WORTH_COPYING:
            return Placement(victim, victim, usable[victim.id], awaited)
        lost = here.length - here_reuse
        if here is victim or lost < max(WORTH_COPYING, victim.length - usable[victim.id]):
            return Placement(here, here, here_reuse, awaited)
        return Placement(victim, here, here_reuse, awaited)

    def occupy(self, placement: Placement, prompt: Tokens) -> int:
        """Carry out a placement: the target holds the reused prefix and is busy with `prompt` from now on.

        Returns how many tokens are in the cache already. That can be fewer than planned where the model's memory
        turns out not to allow the cut.
        """
        target, source, reuse = placement.target, placement.source, placement.reuse
        self._count_eviction(target.length - _common_prefix(target.tokens[: target.length], prompt))
        if target is source:
            self._cut(target, reuse)
        else:
            self._clear(target)
            if reuse:
                self._copy(source, target, reuse)
        target.tokens[target.length : prompt.size] = prompt[target.length :]
        target.expected = prompt.size
        target.busy = True
        target.last_used = next(self._use)
        return target.length

    def computed(self, sequence: Sequence, tokens: Tokens) -> None:
        """Note that `tokens` were computed after what `sequence` held."""
        end = sequence.length + tokens.size
        sequence.tokens[sequence.length : end] = tokens
        self.cells.extend(sequence.id, tokens.size)
        sequence.length = end
        sequence.expected = max(sequence.expected, end)

    def computed_one(self, sequence: Sequence, token: int) -> None:
        """Note that `token` was computed after what `sequence` held: `computed` for the steps of an answer."""
        sequence.one_token[sequence.length] = token
        self.cells.append(sequence.id)
        sequence.length += 1
        if sequence.expected < sequence.length:
            sequence.expected = sequence.length

    def release(self, sequence: Sequence) -> None:
        """The request is done; what was computed stays as cache."""
        sequence.busy = False
        sequence.expected = sequence.length
        sequence.last_used = next(self._use)

    def discard(self, sequence: Sequence) -> None:
        """The request failed and what its sequence holds is uncertain: drop it."""
        self._clear(sequence)
        sequence.busy = False
        sequence.expected = 0

    def make_room(self, placement: Placement, tokens: int) -> bool:
        """Evict idle sequences, least recently used first, until there are cells for `tokens` tokens in all.

        Of them the placement's reused prefix has its cells already, and the target's own cells beyond it will come
        free. Returns False, with nothing evicted, if there is no room even then. Only the unified layout can run out
        of cells.
        """
        target, source = placement.target, placement.source
        wanted = tokens - placement.reuse
        if not self.unified or self._room(placement) >= wanted:
            return True
        kept = [self.cells.owned(s.id) for s in self.sequences if s.busy]
        kept.append(self.cells.owned(source.id)[: placement.reuse if target is source else None])
        if self.cells.total - np.unique(np.concatenate(kept)).size < wanted:
            return False
        for sequence in sorted(self.sequences, key=_last_used):
            if sequence.length and not sequence.busy and sequence is not source:
                self._count_eviction(sequence.length)
                self._clear(sequence)
                if self._room(placement) >= wanted:
                    break
        return self._room(placement) >= wanted

    def _count_eviction(self, tokens: int) -> None:
        self.evictions += tokens > 0
        self.evicted_tokens += tokens

    def _room(self, placement: Placement) -> int:
        """Cells free once the placement's target has been cut down to what it will reuse."""
        kept = placement.reuse if placement.target is placement.source else 0
        return self.cells.free + self.cells.exclusive(placement.target.id, kept)

    def _usable(self, sequence: Sequence, length: int) -> int:
        """How much of a common prefix of `length` tokens in `sequence` can be kept, given the model's memory."""
        if length in (0, sequence.length) or self._memory.can_continue(sequence.id, length):
            return length
        return 0

    def _cut(self, sequence: Sequence, length: int) -> None:
        if length == sequence.length:
            return
        if length == 0 or not self._memory.remove(sequence.id, length, -1):
            self._clear(sequence)
            return
        self.cells.cut(sequence.id, length)
        sequence.length = sequence.expected = length

    def _copy(self, source: Sequence, target: Sequence, length: int) -> None:
        if self.unified:
            self._memory.copy(source.id, target.id, 0, length)
            self.cells.share(source.id, target.id, length)
        else:
            self._memory.copy(source.id, target.id)
            self.cells.extend(target.id, length)
            if length < source.length and not self._memory.remove(target.id, length, -1):
                self._clear(target)
                return
        target.tokens[:length] = source.tokens[:length]
        target.length = target.expected = length
        source.last_used = next(self._use)

    def _clear(self, sequence: Sequence) -> None:
        self._memory.remove(sequence.id, -1, -1)
        self.cells.cut(sequence.id, 0)
        sequence.length = sequence.expected = 0


def _last_used(sequence: Sequence) -> int:
    return sequence.last_used


def _common_prefix(a: Tokens, b: Tokens) -> int:
    """Length of the longest common prefix."""
    size = min(a.size, b.size)
    if size == 0 or a[0] != b[0]:
        return 0
    differ = a[:size] != b[:size]
    first = int(differ.argmax())
    return first if differ[first] else size
