"""Constraints: what an answer may look like, as a mask over the token that comes next.

A grammar (JSON schema, Lark or regular expression, as llguidance writes them) is compiled once, by the thread that
submits the request; the engine thread then follows the answer with a state of its own for each request and computes
one mask a step. llguidance (https://github.com/guidance-ai/llguidance) does the parsing. Knows token ids and their
bytes; knows nothing of messages or of why the answer must have that form.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from functools import cached_property
from typing import Final

import llguidance
import numpy as np

from engine.errors import ConstraintFailed, InvalidRequest
from llama_native import Mask, TokenAttr, Vocab, mask_words

#: What one grammar may cost; llguidance gives up beyond it. A step's fuel and items bound one mask to some 10 ms, the
#: initial ones a compilation to some 100 ms; a lexer state takes 1 to 2 KB.
_LIMITS: Final = llguidance.LLParserLimits(
    max_items_in_row=10_000,
    initial_lexer_fuel=500_000,
    step_lexer_fuel=100_000,
    step_max_items=50_000,
    max_lexer_states=20_000,
    max_grammar_size=100_000,
    verbose_errors=False,
)

#: Tokens whose text has a meaning to the model only; an answer spells them by accident at most.
_SPECIAL: Final = TokenAttr.CONTROL | TokenAttr.UNKNOWN | TokenAttr.UNUSED


class ConstraintState:
    """Where one answer is in its grammar. For one thread at a time."""

    __slots__ = ("_matcher",)

    def __init__(self, matcher: llguidance.LLMatcher) -> None:
        self._matcher = matcher

    def accept(self, token: int) -> None:
        """Go on with `token`, which the last mask allowed."""
        self._matcher.consume_token(token)

    @property
    def complete(self) -> bool:
        """The answer is whole and nothing can follow it."""
        return bool(self._matcher.is_stopped()) and not self._matcher.is_error()

    @property
    def failure(self) -> ConstraintFailed | None:
        """Why it cannot go on: the grammar became too complex here. None if it can."""
        return ConstraintFailed(_reason(self._matcher.get_error())) if self._matcher.is_error() else None


class Constraint:
    """A compiled grammar, made by `Constraints.compile`. It can be shared by any number of requests."""

    def __init__(self, matcher: llguidance.LLMatcher) -> None:
        self._matcher = matcher

    def start(self) -> ConstraintState:
        """Return the state before the first token of an answer. Any thread."""
        return ConstraintState(self._matcher.deep_copy())


class Constraints:
    """Compiles grammars for one vocabulary. Thread-safe."""

    def __init__(self, vocab: Vocab) -> None:
        self._vocab = vocab
        self._lock = threading.Lock()

    def compile(self, grammar: str) -> Constraint:
        """Compile `grammar`, in Lark syntax or as llguidance's JSON. The GIL is free meanwhile.

        Raises `InvalidRequest` for a grammar that is wrong, needs what llguidance does not have, or is too complex.
        """
        with self._lock:  # made by the first request that needs it
            tokenizer = self._tokenizer
        matcher = llguidance.LLMatcher(tokenizer, grammar, log_level=0, limits=_LIMITS)
        if not matcher.is_error():
            # What the first mask costs beyond the others is paid here and not in the engine thread.
            matcher.compute_bitmask()
        if matcher.is_error():
            raise InvalidRequest("constraint", _reason(matcher.get_error()))
        return Constraint(matcher)

    def special(self, text: str) -> int | None:
        """Return the token that `text` spells, if it is one that no plain text can be tokenized to; else None."""
        return self._special_by_text.get(text.encode())

    @cached_property
    def _special_by_text(self) -> dict[bytes, int]:
        return {self._vocab.token_bytes(token, special=True): token for token in _special_tokens(self._vocab)}

    @cached_property
    def _tokenizer(self) -> llguidance.LLTokenizer:
        tokens = llguidance.TokenizerWrapper(_Tokens(self._vocab))
        return llguidance.LLTokenizer(tokens, self._vocab.n_tokens, eos_token=sorted(self._vocab.eog_tokens))


class MaskTable:
    """The masks of all sequences, a row for each; the engine thread's."""

    def __init__(self, rows: int, n_vocab: int) -> None:
        self._table = np.zeros((rows, mask_words(n_vocab)), np.uint32)
        self._rows: list[Mask] = list(self._table)
        self._executor = llguidance.LLExecutor(1)

    def compute(self, rows: Sequence[tuple[ConstraintState | None, int]]) -> list[Mask | None]:
        """Return what the next token of each answer may be, as `Context.step` takes it; None where all may.

        `rows` are each answer's state and its own row. The masks are views, valid until the next call. They are
        computed in one call without the GIL. A state in error allows nothing.
        """
        matchers = [(state._matcher, row) for state, row in rows if state is not None]
        if not matchers:
            return []
        count, words = self._table.shape
        self._executor.unsafe_compute_mask_ptr(matchers, self._table.ctypes.data, 4 * words, count)
        for matcher, row in matchers:
            if matcher.is_error():
                self._table[row] = 0
        return [None if state is None else self._rows[row] for state, row in rows]


class _Tokens:
    """A vocabulary as llguidance's `TokenizerWrapper` wants it."""

    def __init__(self, vocab: Vocab) -> None:
        special = _special_tokens(vocab)
        self.special_token_ids = sorted(special)
        self.tokens = [vocab.token_bytes(token, special=token in special) for token in range(vocab.n_tokens)]
        self.bos_token_id = vocab.bos
        self.eos_token_id = min(vocab.eog_tokens, default=None)
        self._vocab = vocab

    def __call__(self, text: str | bytes) -> list[int]:
        ids: list[int] = self._vocab.tokenize(text).tolist()
        return ids


def _special_tokens(vocab: Vocab) -> frozenset[int]:
    return frozenset(token for token in range(vocab.n_tokens) if vocab.attr(token) & _SPECIAL) | vocab.eog_tokens


def _reason(message: str) -> str:
    """Return what llguidance says, in one line: without notes for its developers and places in texts that we made."""
    first, *others = message.strip().split("\n")
    if first.startswith("NoExtension"):
        return "nothing matches the grammar"
    first = re.sub(r"^at \d+\(\d+\): (failed to compile JSON schema: )?", "", first)
    details = [line.strip().removeprefix("error: ") for line in others if line.startswith("error: ")]
    return " ".join([first.split(". Enable ")[0], *details]).rstrip(".")
