"""Tokens and text of the demo models' vocabularies."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import llama_native as ln
from llama_native import TokenAttr
from tests.llama_native import tiny


def test_facts(chat_model: ln.Model) -> None:
    vocab = chat_model.vocab
    assert vocab.n_tokens == 49152
    assert vocab.type == ln.VocabType.BPE
    assert (vocab.bos, vocab.eos, vocab.pad) == (1, 2, 2)
    assert vocab.eot == 0
    assert vocab.mask is None
    assert (vocab.add_bos, vocab.add_eos, vocab.add_sep) == (False, False, False)
    assert {0, 2} <= vocab.eog_tokens
    assert all(vocab.is_eog(token) for token in vocab.eog_tokens)
    assert not vocab.is_eog(100)


def test_bert_vocabulary(embedding_model: ln.Model) -> None:
    vocab = embedding_model.vocab
    assert vocab.type == ln.VocabType.WPM
    tokens = vocab.tokenize("hello", add_special=True)
    assert (tokens[0], tokens[-1]) == (vocab.bos, vocab.sep)
    assert vocab.tokenize("hello").tolist() == tokens[1:-1].tolist()


def test_special_tokens_in_text(chat_model: ln.Model) -> None:
    vocab = chat_model.vocab
    as_token = vocab.tokenize("<|im_start|>", parse_special=True)
    assert as_token.tolist() == [1]
    as_text = vocab.tokenize("<|im_start|>")
    assert len(as_text) > 1
    assert vocab.detokenize(as_text) == "<|im_start|>"


def test_attributes(chat_model: ln.Model, tiny_model: ln.Model) -> None:
    vocab = chat_model.vocab
    assert TokenAttr.CONTROL in vocab.attr(1)
    assert vocab.is_control(1)
    assert vocab.text(1) == "<|im_start|>"
    assert vocab.token_bytes(1) == b""
    assert vocab.token_bytes(1, special=True) == b"<|im_start|>"
    ordinary = int(vocab.tokenize(" hello")[0])
    assert TokenAttr.NORMAL in vocab.attr(ordinary)
    assert vocab.token_bytes(ordinary) == b" hello"
    byte = tiny_model.vocab
    assert TokenAttr.BYTE in byte.attr(3 + 0xE9)
    assert byte.token_bytes(3 + 0xE9) == b"\xe9"
    assert byte.score(5) == -5.0


# The demo vocabulary lacks a few bytes, so not every code point can be expressed: rare planes and control characters.
TEXTS = st.text(st.characters(max_codepoint=0x1FFFF, exclude_categories=["Cs", "Cc"]), max_size=60)


@settings(max_examples=60)
@given(TEXTS)
def test_tokens_and_their_bytes_give_the_text_back(chat_model: ln.Model, text: str) -> None:
    vocab = chat_model.vocab
    tokens = vocab.tokenize(text)
    assert tokens.dtype == np.int32
    assert b"".join(vocab.token_bytes(token) for token in tokens).decode() == text
    assert vocab.detokenize(tokens) == text
    assert vocab.tokenize(text.encode()).tolist() == tokens.tolist()


def test_characters_of_several_tokens(chat_model: ln.Model) -> None:
    vocab, decoder = chat_model.vocab, ln.Utf8Decoder()
    text = "ᚠ𓀀👩‍🚀 naïve"
    tokens = vocab.tokenize(text)
    assert len(vocab.tokenize("𓀀")) > 1
    assert "".join(decoder.feed(vocab.token_bytes(token)) for token in tokens) + decoder.flush() == text


def test_null_bytes_and_invalid_utf8(chat_model: ln.Model) -> None:
    vocab = chat_model.vocab
    tokens = vocab.tokenize("a\0b")
    assert b"".join(vocab.token_bytes(token) for token in tokens) == b"a\0b"
    for data in (b"\xff\xfe", b"abc\xe2\x9c", b"\xed\xa0\x80", bytes(range(256))):
        assert len(vocab.tokenize(data)) > 0  # what is not UTF-8 is replaced


def test_a_lone_surrogate_is_refused(chat_model: ln.Model) -> None:
    with pytest.raises(ln.TokenizeError, match="lone surrogate at index 2"):
        chat_model.vocab.tokenize("ab\ud800")


def test_empty(chat_model: ln.Model) -> None:
    assert chat_model.vocab.tokenize("").shape == (0,)
    assert chat_model.vocab.detokenize([]) == ""


@pytest.mark.parametrize("unit", ["a", " ", "word ", "é", "1", "\n", "字", "!"])
def test_long_texts(chat_model: ln.Model, unit: str) -> None:
    vocab, text = chat_model.vocab, unit * 50_000
    tokens = vocab.tokenize(text)
    assert b"".join(map(vocab.token_bytes, tokens.tolist())).decode() == text
    assert len(tokens) >= len(text.encode()) / vocab.longest_token


@pytest.mark.parametrize("token", [-1, 49152, 2**31 - 1, -(2**31)])
def test_tokens_outside_the_vocabulary(chat_model: ln.Model, token: int) -> None:
    vocab = chat_model.vocab
    calls = (vocab.token_bytes, vocab.is_eog, vocab.is_control, vocab.attr, vocab.text, vocab.score)
    for call in calls:
        with pytest.raises(ln.TokenizeError, match="outside the vocabulary of 49152"):
            call(token)
    with pytest.raises(ln.TokenizeError):
        vocab.detokenize([5, token])
    with pytest.raises(ln.TokenizeError):
        vocab.detokenize(np.zeros((2, 2), np.int32))


def test_detokenize_with_special_tokens(tiny_model: ln.Model) -> None:
    vocab = tiny_model.vocab
    tokens = [1, *vocab.tokenize("ab").tolist(), 2]
    assert vocab.detokenize(tokens, remove_special=True).strip() == "ab"
    assert vocab.detokenize(tokens, unparse_special=True).startswith("<s>")
    assert vocab.n_tokens == tiny.N_VOCAB
