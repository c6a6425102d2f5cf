"""The memory of a context: which tokens of which sequence it holds. For most models that is the KV cache.

Every operation checks its arguments, because llama.cpp ends the process on some of them. Positions count from 0;
a range p0..p1 holds p0 and not p1, and -1 leaves that end open.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llama_native.enums import RopeType
from llama_native.errors import ContextError, SequenceError, assertion_failed, failure_reason
from llama_native.ffi import C, ffi

if TYPE_CHECKING:
    from llama_native.context import Context

_FAILED = -(2**31)


class Memory:
    """The memory of a context; get it as `context.memory`."""

    __slots__ = ("_context", "_exclusive", "_pointer")

    def __init__(self, context: Context, pointer: Any) -> None:
        self._context = context
        self._pointer = pointer
        self._exclusive = context._exclusive

    @property
    def exists(self) -> bool:
        """Whether the model needs a memory at all. Embedding models like BERT have none."""
        return bool(self._pointer != ffi.NULL)

    @property
    def can_shift(self) -> bool:
        """Whether `shift` and `divide` work for this model."""
        self._context._live()
        return bool(C.llama_memory_can_shift(self._pointer)) and self._context.model.rope_type not in (
            RopeType.MROPE,
            RopeType.IMROPE,
            RopeType.VISION,
        )

    def clear(self, data: bool = True) -> None:
        """Forgets all sequences. `data=False` leaves the old numbers in place, which is faster and just as right."""
        self._run(C.lucid_memory_clear, data)

    def can_continue(self, seq: int, pos: int) -> bool:
        """Returns whether `seq` can be cut at `pos` and go on from there: whether what a token at `pos` needs is held.

        Always true for plain attention. Sliding-window layers forget what is behind their window (with `swa_full` only
        where other sequences of a unified cache took its cells), and a recurrent state can only be continued at its
        end. Position 0, a fresh start, is always possible.
        """
        self._context._check_sequence(seq)
        end = self.pos_max(seq) + 1
        if pos == 0 or pos == end:
            return True
        if not 0 < pos < end or self._context._recurrent:
            return False
        return self._context._window == 0 or self.pos_min(seq) <= max(0, pos - self._context._window)

    def remove(self, seq: int, p0: int = -1, p1: int = -1) -> bool:
        """Forgets the tokens of `seq` (-1: of all sequences) in the range.

        Returns False, and nothing changed, where the model's memory cannot be cut (see `can_continue`). Removing a
        whole sequence always succeeds.
        """
        if seq == -1:
            if p0 > 0 and not all(self._can_cut(other, p0, p1) for other in range(self._context.n_seq_max)):
                return False
        else:
            self._context._check_sequence(seq)
            if not self._can_cut(seq, p0, p1):
                return False
        with self._exclusive():
            removed = bool(C.lucid_memory_remove(self._pointer, seq, p0, p1))
            if not removed and C.lucid_failure() != C.LUCID_OK:
                raise self._failed()
        return removed

    def _can_cut(self, seq: int, p0: int, p1: int) -> bool:
        """Returns whether removing the range leaves a sequence that can go on. llama.cpp would compute nonsense."""
        if not self._context._window or p0 <= 0 or p0 > self.pos_max(seq) or 0 <= p1 <= self.pos_max(seq):
            return True
        return self.can_continue(seq, p0)

    def copy(self, src: int, dst: int, p0: int = -1, p1: int = -1) -> None:
        """Makes the tokens of `src` in the range also belong to `dst`.

        In a unified cache both then share the same cells: nothing is computed or moved. Where each sequence has its
        own stream, the numbers are copied at the next decode, only whole sequences can be copied, and `dst` loses
        what it had.

        :raises SequenceError: a part of a sequence was asked for and the cache is not unified, or the model's memory
            cannot be cut there (see `can_continue`).
        """
        context = self._context
        context._check_sequence(src)
        context._check_sequence(dst)
        if src == dst:
            return
        partial = p0 > 0 or 0 <= p1 <= self.pos_max(src)
        if partial and not context.params.kv_unified and context.n_seq_max > 1 and self.exists:
            raise SequenceError("only a whole sequence can be copied to another stream: use kv_unified, or no range")
        if 0 < p1 <= self.pos_max(src) and not self.can_continue(src, p1):
            raise SequenceError(f"the memory of this model does not hold what sequence {src} needs at position {p1}")
        self._run(C.lucid_memory_copy, src, dst, *((p0, p1) if partial else (-1, -1)))

    def keep(self, seq: int) -> None:
        """Forgets every sequence but `seq`."""
        self._context._check_sequence(seq)
        for other in range(self._context.n_seq_max):
            if other != seq:
                self.remove(other)

    def shift(self, seq: int, p0: int, p1: int, delta: int) -> None:
        """Adds `delta` to the positions of `seq` in the range; rotary embeddings are corrected at the next decode.

        Tokens whose position becomes negative are forgotten.

        :raises SequenceError: the model's memory cannot be shifted, or a position would be out of range.
        """
        self._check_movable(seq)
        if abs(delta) > 1 << 24:
            raise SequenceError(f"a shift by {delta} positions is out of range")
        self._run(C.lucid_memory_shift, seq, p0, p1, delta)

    def divide(self, seq: int, p0: int, p1: int, divisor: int) -> None:
        """Divides the positions of `seq` in the range by `divisor`, rounding down (self-extend, arXiv:2401.01325).

        :raises SequenceError: the model's memory cannot be shifted, or the divisor is less than 1.
        """
        self._check_movable(seq)
        if not 1 <= divisor <= 1 << 24:
            raise SequenceError(f"positions cannot be divided by {divisor}")
        self._run(C.lucid_memory_divide, seq, p0, p1, divisor)

    def pos_min(self, seq: int) -> int:
        """Returns the smallest position that `seq` has in the memory; -1 if it is empty."""
        return self._position(C.lucid_memory_pos_min, seq)

    def pos_max(self, seq: int) -> int:
        """Returns the largest position that `seq` has in the memory; -1 if it is empty."""
        return self._position(C.lucid_memory_pos_max, seq)

    def _position(self, function: Any, seq: int) -> int:
        self._context._check_sequence(seq)
        with self._exclusive():
            result = int(function(self._pointer, seq))
            if result == _FAILED:
                raise self._failed()
        return result

    def _run(self, function: Any, *arguments: int) -> None:
        with self._exclusive():
            if not function(self._pointer, *arguments):
                raise self._failed()

    def _failed(self) -> ContextError:
        reason = failure_reason("llama.cpp gave no reason")
        if assertion_failed():
            self._context._poison(reason)
        return ContextError(f"memory operation failed: {reason}")

    def _check_movable(self, seq: int) -> None:
        self._context._check_sequence(seq)
        if not self.can_shift:
            raise SequenceError("the memory of this model cannot be shifted")
