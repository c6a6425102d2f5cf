"""The steps a sampler chain can be made of: llama.cpp's samplers, one function each.

Each function checks its parameters (llama.cpp does not) and returns a `Step`; a bad one raises `ValueError`. A seed
of None draws one. `min_keep` is the least number of candidates a step leaves. Steps that sort (top_p, typical,
mirostat) take milliseconds on a whole vocabulary: put top_k or min_p before them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from llama_native.errors import GrammarError
from llama_native.ffi import C, ffi
from llama_native.sampler import Step
from llama_native.vocab import Vocab

_MAX_LAST_N = 1 << 20
_MAX_GRAMMAR = 1 << 20


def greedy() -> Step:
    """Selects the likeliest token."""
    return Step(C.llama_sampler_init_greedy)


def dist(seed: int | None = None) -> Step:
    """Selects a token at random by its probability."""
    value = _seed(seed)
    return Step(lambda: C.llama_sampler_init_dist(value))


def top_k(k: int) -> Step:
    """Keeps the k likeliest tokens; 0 or less keeps all (https://arxiv.org/abs/1904.09751)."""
    value = max(0, _whole("k", k, -(2**31), 2**31 - 1))
    return Step(lambda: C.llama_sampler_init_top_k(value))


def top_p(p: float, min_keep: int = 1) -> Step:
    """Keeps the likeliest tokens that together have probability p; 1 keeps all (https://arxiv.org/abs/1904.09751)."""
    _real("p", p, 0, 1)
    _keep(min_keep)
    return Step(lambda: C.llama_sampler_init_top_p(p, min_keep))


def min_p(p: float, min_keep: int = 1) -> Step:
    """Keeps tokens at least p times as likely as the likeliest; 0 keeps all (https://arxiv.org/abs/2407.01082)."""
    _real("p", p, 0, 1)
    _keep(min_keep)
    return Step(lambda: C.llama_sampler_init_min_p(p, min_keep))


def typical(p: float, min_keep: int = 1) -> Step:
    """Keeps the tokens of typical surprise that together have probability p (https://arxiv.org/abs/2202.00666)."""
    _real("p", p, 0, 1)
    _keep(min_keep)
    return Step(lambda: C.llama_sampler_init_typical(p, min_keep))


def temp(temperature: float) -> Step:
    """Divides the logits by `temperature`; 0 leaves only the likeliest token."""
    _real("temperature", temperature, 0, 1e6)
    return Step(lambda: C.llama_sampler_init_temp(temperature))


def temp_ext(temperature: float, delta: float, exponent: float = 1.0) -> Step:
    """Temperature between temperature - delta and temperature + delta, by entropy (https://arxiv.org/abs/2309.02772)."""
    _real("temperature", temperature, 0, 1e6)
    _real("delta", delta, 0, 1e6)
    _real("exponent", exponent, 0, 1e3)
    return Step(lambda: C.llama_sampler_init_temp_ext(temperature, delta, exponent))


def xtc(probability: float, threshold: float, min_keep: int = 1, seed: int | None = None) -> Step:
    """With this probability drops all tokens above `threshold` but the least likely of them.

    https://github.com/oobabooga/text-generation-webui/pull/6335
    """
    _real("probability", probability, 0, 1)
    _real("threshold", threshold, 0, 1)
    _keep(min_keep)
    value = _seed(seed)
    return Step(lambda: C.llama_sampler_init_xtc(probability, threshold, min_keep, value))


def top_n_sigma(n: float) -> Step:
    """Keeps logits within n standard deviations of the largest; 0 keeps all (https://arxiv.org/abs/2411.07641)."""
    _real("n", n, 0, 1e6)
    return Step(lambda: C.llama_sampler_init_top_n_sigma(n))


def mirostat(vocab: Vocab, tau: float = 5.0, eta: float = 0.1, m: int = 100, seed: int | None = None) -> Step:
    """Selects a token, keeping the surprise near `tau` (bits) (https://arxiv.org/abs/2007.14966).

    :param eta: how fast it adapts.
    :param m: how many of the likeliest tokens the estimate uses.
    """
    _real("tau", tau, 0, 1e6)
    _real("eta", eta, 0, 1)
    _whole("m", m, 2, 1 << 20)
    handle, value = vocab._usable(), _seed(seed)
    return Step(lambda: C.llama_sampler_init_mirostat(vocab.n_tokens, value, tau, eta, m), handle)


def mirostat_v2(tau: float = 5.0, eta: float = 0.1, seed: int | None = None) -> Step:
    """Selects a token, keeping the surprise near `tau` (bits); the simpler version 2 of `mirostat`."""
    _real("tau", tau, 0, 1e6)
    _real("eta", eta, 0, 1)
    value = _seed(seed)
    return Step(lambda: C.llama_sampler_init_mirostat_v2(value, tau, eta))


def adaptive_p(target: float, decay: float = 0.9, seed: int | None = None) -> Step:
    """Selects tokens whose probability is near `target` in the long run (https://github.com/ggml-org/llama.cpp/pull/17927).

    :param decay: weight of the past, 0 to 0.99.
    """
    _real("target", target, 0, 1)
    _real("decay", decay, 0, 0.99)
    value = _seed(seed)
    return Step(lambda: C.llama_sampler_init_adaptive_p(target, decay, value))


def penalties(
    vocab: Vocab, last_n: int = 64, repeat: float = 1.0, frequency: float = 0.0, presence: float = 0.0
) -> Step:
    """Makes tokens less likely that were accepted among the last `last_n`.

    :param last_n: how far back to look; 0 turns the penalties off.
    :param repeat: divides the logit (https://arxiv.org/abs/1909.05858); 1 is off.
    :param frequency, presence: subtracted from the logit, times the count or once, as in OpenAI's interface.
    """
    _whole("last_n", last_n, 0, _MAX_LAST_N)
    _real("repeat", repeat, 1e-6, 1e6)
    _real("frequency", frequency, -1e6, 1e6)
    _real("presence", presence, -1e6, 1e6)
    handle = vocab._usable()
    return Step(lambda: C.llama_sampler_init_penalties(vocab.n_tokens, last_n, repeat, frequency, presence), handle)


def dry(
    vocab: Vocab,
    multiplier: float,
    base: float = 1.75,
    allowed_length: int = 2,
    last_n: int = 1024,
    breakers: Sequence[str] = ("\n", ":", '"', "*"),
) -> Step:
    """Makes tokens less likely that would continue a repetition (https://github.com/oobabooga/text-generation-webui/pull/5677).

    :param multiplier: strength; 0 is off.
    :param base: growth with the length of the repetition, at least 1.
    :param allowed_length: repetitions up to this length cost nothing.
    :param last_n: how many tokens to look back.
    :param breakers: texts that no repetition goes across.
    """
    _real("multiplier", multiplier, 0, 1e6)
    _real("base", base, 1, 1e6)
    _whole("allowed_length", allowed_length, 0, _MAX_LAST_N)
    _whole("last_n", last_n, 0, _MAX_LAST_N)
    texts = [ffi.new("char[]", _c_text("breakers", item)) for item in breakers]
    array = ffi.new("char *[]", texts or 1)
    handle = vocab._usable()
    return Step(
        lambda: C.lucid_sampler_dry(
            handle.pointer, multiplier, base, allowed_length, last_n, ffi.cast("const char **", array), len(texts)
        ),
        handle,
    )


def logit_bias(vocab: Vocab, bias: Mapping[int, float]) -> Step:
    """Adds a number to the logits of some tokens; -inf excludes one."""
    for token, value in bias.items():
        _whole("token", token, 0, vocab.n_tokens - 1)
        if math.isnan(value) or value > 1e6:
            raise ValueError(f"the bias {value} of token {token} must be a number up to 1e6, or -inf")
    array = ffi.new("llama_logit_bias[]", list(bias.items()) or 1)
    return Step(lambda: C.llama_sampler_init_logit_bias(vocab.n_tokens, len(bias), array), vocab._usable())


def infill(vocab: Vocab) -> Step:
    """Joins tokens with a common beginning, for filling in the middle; use after `top_k` and `top_p`."""
    handle = vocab._usable()
    return Step(lambda: C.llama_sampler_init_infill(handle.pointer), handle)


def grammar(vocab: Vocab, text: str, root: str = "root") -> Step:
    """Allows only what a GBNF grammar allows (https://github.com/ggml-org/llama.cpp/tree/master/grammars).

    A chain with a grammar that cannot be parsed raises `GrammarError`.
    """
    source, start = _c_text("grammar", text, _MAX_GRAMMAR), _c_text("root", root)
    handle = vocab._usable()
    return Step(lambda: C.lucid_sampler_grammar(handle.pointer, source, start), handle, GrammarError)


def grammar_lazy(
    vocab: Vocab,
    text: str,
    root: str = "root",
    patterns: Sequence[str] = (),
    tokens: Sequence[int] = (),
) -> Step:
    """Like `grammar`, but only from the point where a trigger appears in the output.

    :param patterns: regular expressions (ECMAScript), matched against the output from its start; the grammar begins
        with the first group.
    :param tokens: token ids; the grammar begins with the token itself.
    """
    if not patterns and not tokens:
        raise ValueError("a lazy grammar needs patterns or tokens that trigger it")
    source, start = _c_text("grammar", text, _MAX_GRAMMAR), _c_text("root", root)
    texts = [ffi.new("char[]", _c_text("patterns", item, _MAX_GRAMMAR)) for item in patterns]
    array = ffi.new("char *[]", texts or 1)
    ids = ffi.new("llama_token[]", [_whole("token", token, 0, vocab.n_tokens - 1) for token in tokens] or 1)
    handle = vocab._usable()

    def make() -> object:
        start_of = ffi.cast("const char **", array)
        return C.lucid_sampler_grammar_lazy(handle.pointer, source, start, start_of, len(texts), ids, len(tokens))

    return Step(make, handle, GrammarError)


def _seed(seed: int | None) -> int:
    return int(C.LLAMA_DEFAULT_SEED) if seed is None else _whole("seed", seed, 0, 2**64) & 0xFFFFFFFF


def _whole(name: str, value: int, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f"{name} is {value!r}, it must be a whole number from {low} to {high}")
    return value


def _real(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:  # false for NaN too
        raise ValueError(f"{name} is {value!r}, it must be a number from {low:g} to {high:g}")


def _keep(min_keep: int) -> None:
    _whole("min_keep", min_keep, 0, 1 << 24)


def _c_text(name: str, value: str, limit: int = 1 << 16) -> bytes:
    data = value.encode("utf-8", errors="surrogatepass")
    if not data or b"\0" in data or len(data) > limit:
        raise ValueError(f"{name}: a text must have 1 to {limit} bytes and no null byte")
    return data
