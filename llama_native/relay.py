"""Writes the text of tokens to a client, in C: from the queue to the socket without Python's lock.

For streams in which nearly every token brings text and nothing else. What needs a thought stays in the queue: a token
that is not text by itself (part of a character), one that was withheld, whatever is not a token. Knows sockets and the
chunks of HTTP/1.1 (RFC 9112, 7.1); what stands around each text is bytes to it.
"""

from __future__ import annotations

import enum
import socket
from collections.abc import Callable, Collection
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from llama_native.ffi import C, ffi
from llama_native.token_queue import TokenQueue
from llama_native.vocab import Vocab

#: Most tokens of one call of `Relay.run`.
CAPACITY: Final = 256


class RelayEnd(enum.IntEnum):
    """Why `Relay.run` came back."""

    LEFT = 0
    """What is next in the queue is not for a relay."""
    TIME = 1
    """The time is up, or `CAPACITY` tokens were written."""
    BEHIND = 2
    """The client reads too slowly; what was being written may be cut off in the middle."""
    BROKEN = 3
    """The connection is broken, or there is no memory left; what was being written may be cut off in the middle."""


class Relayed(NamedTuple):
    """What `Relay.run` did.

    :ivar end: why it came back.
    :ivar times: float64, shape (n, 3): when each token was taken, rendered and written, by `time.perf_counter`.
    """

    end: RelayEnd
    times: NDArray[np.float64]


class TokenTexts:
    """What every token of a vocabulary is written as, where it is text by itself.

    :param vocab: the vocabulary; making the table reads all of it, a second for each million tokens.
    :param encode: gives the bytes that are written for a text.
    :param withheld: tokens that are not for a relay.
    """

    def __init__(self, vocab: Vocab, encode: Callable[[str], bytes], withheld: Collection[int] = ()) -> None:
        texts = [_written(vocab.token_bytes(token), encode) for token in range(vocab.n_tokens)]
        for token in withheld:
            texts[token] = None
        sizes = np.array([-1 if text is None else len(text) for text in texts], np.int32)
        offsets = np.zeros(len(texts), np.int64)
        np.cumsum(np.maximum(sizes, 0)[:-1], out=offsets[1:])
        data = b"".join(filter(None, texts))
        self._keep = (data, sizes, offsets)
        #: The C object.
        self.pointer = ffi.new("lucid_token_texts *")
        self.pointer.bytes = ffi.from_buffer("char[]", data)
        self.pointer.offsets = ffi.from_buffer("int64_t[]", offsets)
        self.pointer.sizes = ffi.from_buffer("int32_t[]", sizes)
        self.pointer.n_tokens = len(texts)


class Relay:
    """One client's end: where and how texts are written.

    :param connection: a connected TCP or Unix socket in non-blocking mode or with a timeout; it must stay open while
        `run` runs, and nothing else may write to it.
    :param chunked: each write is a chunk of an HTTP/1.1 body.
    :param patience: most seconds that a token may wait for its write, and that a write may take.
    """

    def __init__(self, connection: socket.socket, texts: TokenTexts, *, chunked: bool, patience: float) -> None:
        self._connection = connection
        self._texts = texts
        self._times = np.empty((CAPACITY, 3), np.float64)
        self._n = ffi.new("int32_t *")
        self._c: Any = ffi.new("lucid_relay_target *")
        self._c.socket = connection.fileno()
        self._c.chunked = chunked
        self._c.patience = patience
        self.frame(b"", b"")

    def frame(self, before: bytes, after: bytes) -> None:
        """Says what stands before and after each text; nothing, unless said."""
        self._frame = (before, after)  # which keeps their memory
        self._c.before, self._c.before_size = ffi.from_buffer("char[]", before), len(before)
        self._c.after, self._c.after_size = ffi.from_buffer("char[]", after), len(after)

    def run(self, queue: TokenQueue[Any], seconds: float) -> Relayed:
        """Takes tokens out of `queue` and writes them for `seconds`, or until something else comes.

        A write that has begun is finished, which takes at most `patience` more. Raises nothing: see `RelayEnd`.
        """
        times = ffi.from_buffer("double[]", self._times)
        end = C.lucid_relay(queue.pointer, self._texts.pointer, self._c, seconds, CAPACITY, times, self._n)
        return Relayed(RelayEnd(end), self._times[: self._n[0]].copy())


def _written(data: bytes, encode: Callable[[str], bytes]) -> bytes | None:
    try:
        return encode(data.decode())
    except UnicodeDecodeError:
        return None
