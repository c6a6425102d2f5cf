"""The native loop: prompt in, text out, one sequence, with nothing but this package.

It is what benchmarks compare everything else with, and the shortest example of how the parts fit together.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

from llama_native.arrays import TokenLike, token_array
from llama_native.batch import Batch
from llama_native.context import Context
from llama_native.errors import ContextError, InvalidBatch, SamplingError
from llama_native.results import StepResult
from llama_native.sampler import Sampler
from llama_native.utf8 import Utf8Decoder


class GeneratedToken(NamedTuple):
    """One generated token.

    :ivar token: its id.
    :ivar text: the text it completes; empty while a character is not whole yet, and for control tokens.
    :ivar decode_seconds: time in `llama_decode` since the token before; for the first token, the whole prefill.
    :ivar sampling_seconds: time spent choosing it.
    :ivar finish_reason: None, but for the last one: "stop" (end of generation) or "length" (max_tokens, context full).
    """

    token: int
    text: str
    decode_seconds: float
    sampling_seconds: float
    finish_reason: Literal["stop", "length"] | None


def generate(
    context: Context,
    tokens: TokenLike,
    sampler: Sampler | None = None,
    max_tokens: int = 128,
    seq: int = 0,
    ignore_eog: bool = False,
) -> Iterator[GeneratedToken]:
    """Continues `tokens`, which are appended to what sequence `seq` already holds.

    The prompt goes in pieces of `n_batch`. The last generated token is not in the memory when this ends.

    :param sampler: how to choose tokens; None takes the likeliest. The caller keeps and closes it.
    :param max_tokens: most tokens to generate, at least 1.
    :param ignore_eog: go on after an end-of-generation token.
    :raises InvalidBatch: the prompt is empty, or longer than the context.
    :raises SamplingError: no token could be sampled.
    :raises DecodeError: as `Context.decode` does.
    """
    vocab, decoder = context.model.vocab, Utf8Decoder()
    prompt = token_array(tokens)
    pos = context.memory.pos_max(seq) + 1
    if not context.model.can_generate:
        raise ContextError("this model does not predict next tokens")
    if max_tokens < 1:
        raise ValueError(f"max_tokens is {max_tokens}, it must be at least 1")
    if not 1 <= len(prompt) <= context.n_ctx_seq - pos:
        raise InvalidBatch(
            f"a prompt of {len(prompt)} tokens does not fit {context.n_ctx_seq - pos} free positions", -1
        )

    batch = Batch(min(context.n_batch, len(prompt)))
    decode_seconds = 0.0
    for start in range(0, len(prompt), batch.capacity):
        piece = prompt[start : start + batch.capacity]
        last = start + len(piece) == len(prompt)
        batch.clear()
        row = batch.extend(piece, pos + start, seq, output_last=last)
        result = context.step(batch, [row] if last else (), [sampler] if last else ())
        decode_seconds += result.decode_seconds
    pos += len(prompt)

    for count in range(1, max_tokens + 1):
        token = _token(result)
        stop = not ignore_eog and vocab.is_eog(token)
        text = decoder.feed(b"" if stop else vocab.token_bytes(token))
        full = count == max_tokens or pos >= context.n_ctx_seq
        if stop or full:
            reason: Literal["stop", "length"] = "stop" if stop else "length"
            yield GeneratedToken(token, text + decoder.flush(), decode_seconds, result.sampling_seconds, reason)
            return
        yield GeneratedToken(token, text, decode_seconds, result.sampling_seconds, None)
        batch.clear()
        batch.add(token, pos, seq, output=True)
        pos += 1
        result = context.step(batch, (0,), (sampler,))
        decode_seconds = result.decode_seconds


def _token(result: StepResult) -> int:
    if result.failures:
        raise SamplingError(result.failures[0])
    return result.tokens[0]
