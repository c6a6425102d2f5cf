"""Sampler chains: how a token is chosen from the logits.

A chain is a list of steps that run one after the other, each narrowing or reweighting the candidates; the last must
select one (greedy, dist, mirostat, adaptive_p). The steps come from `llama_native.samplers`. A chain belongs to one
sequence: it remembers the tokens it accepted (penalties, grammar) and its random state. It is not thread-safe.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from llama_native.arrays import Floats
from llama_native.errors import GrammarError, LlamaError, SamplingError, failure_reason
from llama_native.ffi import C, ffi, text
from llama_native.handle import Handle, Resource

if TYPE_CHECKING:
    from llama_native.context import Context


@dataclass(frozen=True)
class Step:
    """One step of a chain: how to make llama.cpp's sampler for it. Made by the functions in `llama_native.samplers`.

    A step is a recipe, so the same one may go into many chains.
    """

    make: Callable[[], Any]
    vocab: Handle | None = None  # what the C object refers to
    error: type[LlamaError] = LlamaError


class Sampler(Resource):
    """A chain of sampling steps, applied in the order given.

    :raises GrammarError: a grammar step could not be parsed.
    :raises LlamaError: llama.cpp could not create a step.
    """

    def __init__(self, steps: Iterable[Step]) -> None:
        steps = list(steps)
        if not steps:
            raise ValueError("a sampler chain needs at least one step")
        pointer = C.llama_sampler_chain_init(C.llama_sampler_chain_default_params())
        self._handle = Handle(pointer, C.llama_sampler_free, *(step.vocab for step in steps))
        for step in steps:
            made = step.make()
            if made == ffi.NULL:
                raise step.error(failure_reason("llama.cpp could not create a step of the sampler chain"))
            C.llama_sampler_chain_add(pointer, made)  # from here on the chain owns it

    def __repr__(self) -> str:
        return f"<Sampler {'(closed)' if self.closed else ' -> '.join(self.names)}>"

    def sample(self, context: Context, row: int) -> int:
        """Returns the token chosen for the output at index `row` of the last batch, and accepts it.

        `Context.step` does the same for many sequences without giving the GIL back in between.

        :raises SamplingError: the logits are not finite, or no candidate is left (a grammar that allows nothing).
        """
        chain = self._live()
        with context._exclusive() as handle:
            token = int(C.lucid_sample(handle.pointer, chain.pointer, row, context.n_vocab))
        return self._sampled(token)

    def sample_logits(self, logits: Floats) -> int:
        """Returns the token chosen from `logits` (n_vocab,), and accepts it. Raises as `sample` does."""
        chain = self._live()
        array = np.ascontiguousarray(logits, np.float32)
        if array.ndim != 1 or not array.size:
            raise ValueError("logits must be a flat array that is not empty")
        return self._sampled(int(C.lucid_sample_logits(chain.pointer, ffi.from_buffer("float[]", array), array.size)))

    def _sampled(self, token: int) -> int:
        if token < 0:
            raise SamplingError(failure_reason("no token could be sampled"))
        return token

    def accept(self, token: int) -> None:
        """Tells the chain that `token` comes next without sampling it (a prompt's token, a forced one).

        :raises GrammarError: a grammar of the chain does not allow it.
        """
        if token < 0:
            raise ValueError(f"token {token} is negative")
        if not C.lucid_sampler_accept(self._live().pointer, token):
            raise GrammarError(failure_reason("the grammar does not allow this token"))

    def reset(self) -> None:
        """Forgets accepted tokens and starts the random numbers again from the seed."""
        if not C.lucid_sampler_reset(self._live().pointer):
            raise LlamaError(failure_reason("the sampler chain could not be reset"))

    def clone(self) -> Sampler:
        """Returns an independent copy in the same state."""
        chain = self._live()
        pointer = C.lucid_sampler_clone(chain.pointer)
        if pointer == ffi.NULL:
            raise LlamaError(failure_reason("the sampler chain could not be copied"))
        copy = Sampler.__new__(Sampler)
        copy._handle = Handle(pointer, C.llama_sampler_free, chain)  # `chain` keeps the vocabulary
        return copy

    @property
    def seed(self) -> int | None:
        """The seed in use, drawn by llama.cpp if none was given; None if no step is random."""
        seed = int(C.llama_sampler_get_seed(self._live().pointer))
        return None if seed == C.LLAMA_DEFAULT_SEED else seed

    @property
    def names(self) -> list[str]:
        """llama.cpp's names of the steps; one that does nothing begins with "?"."""
        chain = self._live().pointer
        return [
            text(C.llama_sampler_name(C.llama_sampler_chain_get(chain, i)))
            for i in range(C.llama_sampler_chain_n(chain))
        ]
