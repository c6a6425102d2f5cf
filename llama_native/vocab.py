"""The vocabulary of a model: text to tokens and back, and what each token is.

Thread-safe. It knows token ids and their bytes; how the bytes of a stream become text is Utf8Decoder's business.
"""

from __future__ import annotations

from functools import cached_property
from itertools import pairwise

import numpy as np

from llama_native.arrays import TokenLike, Tokens, token_array
from llama_native.enums import TokenAttr, VocabType
from llama_native.errors import TokenizeError, failure_reason
from llama_native.ffi import C, ffi, text
from llama_native.handle import Handle, Resource

_GUARDED = -(2**31)
_MAX_BYTES = 2**31 - 64


class Vocab(Resource):
    """The vocabulary of a model; get it as `model.vocab`. It closes with its model."""

    def __init__(self, model: Handle) -> None:
        vocab = C.llama_model_get_vocab(model.pointer)
        self._handle = Handle(vocab, _nothing, model)  # the model owns the C object
        self.type = VocabType(C.llama_vocab_type(vocab))
        """The kind of tokenizer."""
        self.n_tokens = int(C.llama_vocab_n_tokens(vocab))
        """Number of tokens; ids are 0 to n_tokens - 1."""

    def tokenize(self, source: str | bytes, add_special: bool = False, parse_special: bool = False) -> Tokens:
        """Returns the tokens of a text, int32 of shape (n,).

        Time is linear in the length (a megabyte takes seconds), except that SPM vocabularies take time quadratic in
        the number of characters they have no token for (40 000 of them: 0.4 s). `longest_token` tells without
        tokenizing when a text cannot fit.

        :param add_special: add BOS/EOS where the model is configured so.
        :param parse_special: read special tokens such as <|im_start|> in the text as what they are, not as text.
        :raises TokenizeError: the text cannot be encoded (lone surrogates), or the model has no vocabulary.
        """
        vocab = self._usable()
        try:
            data = source.encode() if isinstance(source, str) else bytes(source)
        except UnicodeEncodeError as error:
            raise TokenizeError(
                f"the text holds a lone surrogate at index {error.start}, which is not a character"
            ) from None
        if len(data) > _MAX_BYTES:
            raise TokenizeError(f"the text has {len(data)} bytes, at most {_MAX_BYTES} can be tokenized")
        capacity = len(data) + 8  # a token is at least one byte, apart from a few special ones
        while True:
            tokens = np.empty(capacity, np.int32)
            pointer = ffi.from_buffer("llama_token[]", tokens)
            n = C.lucid_tokenize(vocab.pointer, data, len(data), pointer, capacity, add_special, parse_special)
            if n >= 0:
                return tokens[:n].copy()
            if n == _GUARDED:
                raise TokenizeError(failure_reason("llama.cpp could not tokenize the text"))
            capacity = -n

    def detokenize(self, tokens: TokenLike, remove_special: bool = False, unparse_special: bool = False) -> str:
        """Returns the text of a whole token sequence. For a stream use `token_bytes` and `Utf8Decoder`.

        :param remove_special: leave out a leading BOS and a trailing EOS where the model adds them.
        :param unparse_special: write special tokens as their text; otherwise they are left out.
        :raises TokenizeError: a token is outside the vocabulary.
        """
        vocab = self._usable()
        try:
            array = token_array(tokens)
        except ValueError as error:
            raise TokenizeError(str(error)) from error
        if array.size and (array.min() < 0 or array.max() >= self.n_tokens):
            raise TokenizeError(f"a token is outside the vocabulary of {self.n_tokens}")
        pointer = ffi.from_buffer("llama_token[]", array)
        capacity = 16 * array.size + 64
        while True:
            buffer = ffi.new("char[]", capacity)
            n = C.lucid_detokenize(
                vocab.pointer, pointer, array.size, buffer, capacity, remove_special, unparse_special
            )
            if n >= 0:
                return bytes(ffi.buffer(buffer, n)).decode("utf-8", errors="replace")
            if n == _GUARDED:
                raise TokenizeError(failure_reason("llama.cpp could not detokenize"))
            capacity = -n

    def token_bytes(self, token: int, special: bool = False) -> bytes:
        """Returns the bytes a token stands for, which need not be whole characters.

        :param special: give control tokens their text; otherwise they have no bytes.
        :raises TokenizeError: the token is outside the vocabulary.
        """
        table = self._special_pieces if special else self._pieces
        if not 0 <= token < len(table):
            raise self._outside(token)
        return table[token]

    @cached_property
    def _pieces(self) -> list[bytes]:
        return self._read_pieces(special=False)

    @cached_property
    def _special_pieces(self) -> list[bytes]:
        return self._read_pieces(special=True)

    def _read_pieces(self, special: bool) -> list[bytes]:
        vocab = self._usable()
        offsets = np.empty(self.n_tokens + 1, np.int64)
        pointer = ffi.from_buffer("int64_t[]", offsets)
        size = C.lucid_vocab_pieces(vocab.pointer, special, ffi.NULL, 0, pointer)
        if size < 0:
            raise TokenizeError(failure_reason("llama.cpp could not read the vocabulary"))
        buffer = ffi.new("char[]", size + 1)
        C.lucid_vocab_pieces(vocab.pointer, special, buffer, size, pointer)
        data, ends = bytes(ffi.buffer(buffer, size)), offsets.tolist()
        return [data[start:end] for start, end in pairwise(ends)]

    def is_eog(self, token: int) -> bool:
        """Returns whether the token ends a generation (end of text, end of turn)."""
        return bool(C.llama_vocab_is_eog(self._checked(token).pointer, token))

    def is_control(self, token: int) -> bool:
        """Returns whether the token is a control token, which has no text of its own."""
        return bool(C.llama_vocab_is_control(self._checked(token).pointer, token))

    def attr(self, token: int) -> TokenAttr:
        """Returns what kind of token it is."""
        return TokenAttr(C.llama_vocab_get_attr(self._checked(token).pointer, token))

    def text(self, token: int) -> str:
        """Returns the token as the vocabulary writes it (with its own marks for spaces and bytes)."""
        return text(C.llama_vocab_get_text(self._checked(token).pointer, token))

    def score(self, token: int) -> float:
        """Returns the token's score in the vocabulary; its meaning depends on the tokenizer."""
        return float(C.llama_vocab_get_score(self._checked(token).pointer, token))

    def prepare(self) -> None:
        """Reads what `token_bytes` and `eog_tokens` look up, which the first call of each would do: some 30 ms."""
        _ = self._pieces, self.eog_tokens

    @cached_property
    def eog_tokens(self) -> frozenset[int]:
        """All tokens that end a generation."""
        vocab = self._usable()
        return frozenset(t for t in range(self.n_tokens) if C.llama_vocab_is_eog(vocab.pointer, t))

    @cached_property
    def longest_token(self) -> int:
        """Bytes of the longest token: a text of n bytes has at least n / longest_token tokens."""
        return max((len(piece) for piece in self._special_pieces), default=1)

    @property
    def bos(self) -> int | None:
        """Beginning of sequence; None if the model has none, as for all special tokens here."""
        return self._special(C.llama_vocab_bos)

    @property
    def eos(self) -> int | None:
        """End of sequence."""
        return self._special(C.llama_vocab_eos)

    @property
    def eot(self) -> int | None:
        """End of turn."""
        return self._special(C.llama_vocab_eot)

    @property
    def sep(self) -> int | None:
        """Sentence separator."""
        return self._special(C.llama_vocab_sep)

    @property
    def nl(self) -> int | None:
        """Line feed."""
        return self._special(C.llama_vocab_nl)

    @property
    def pad(self) -> int | None:
        """Padding."""
        return self._special(C.llama_vocab_pad)

    @property
    def mask(self) -> int | None:
        """Mask, of models trained to fill in."""
        return self._special(C.llama_vocab_mask)

    @property
    def add_bos(self) -> bool:
        """Whether `tokenize(add_special=True)` adds BOS."""
        return bool(C.llama_vocab_get_add_bos(self._live().pointer))

    @property
    def add_eos(self) -> bool:
        """Whether `tokenize(add_special=True)` adds EOS."""
        return bool(C.llama_vocab_get_add_eos(self._live().pointer))

    @property
    def add_sep(self) -> bool:
        """Whether `tokenize(add_special=True)` adds a separator."""
        return bool(C.llama_vocab_get_add_sep(self._live().pointer))

    def _special(self, function: object) -> int | None:
        token = int(function(self._live().pointer))  # type: ignore[operator]
        return token if 0 <= token < self.n_tokens else None

    def _usable(self) -> Handle:
        handle = self._live()
        if self.type == VocabType.NONE:
            raise TokenizeError("this model has no vocabulary")
        return handle

    def _checked(self, token: int) -> Handle:
        if not 0 <= token < self.n_tokens:
            raise self._outside(token)
        return self._usable()

    def _outside(self, token: int) -> TokenizeError:
        return TokenizeError(f"token {token} is outside the vocabulary of {self.n_tokens}")


def _nothing(_: object) -> None:
    """Frees nothing: the model owns its vocabulary."""
