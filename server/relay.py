"""Which streams go past Python: from the engine's queue of tokens to the client's socket in C.

Nearly every token of a plain stream brings a few characters between bytes that are always the same. Rendering one takes
a microsecond in C; in Python it takes a quarter of a millisecond of a processor on which the model computes. Knows what
a socket and a request must be like for it; the answers' bytes are their replies' business.
"""

from __future__ import annotations

import socket
from collections.abc import Collection, Sequence
from typing import Final

import msgspec

from engine import Request
from llama_native import Relay, TokenTexts, Vocab
from server.exchange import Exchange

#: By protocol, whether gunicorn writes a body of unknown length, as every stream has, in chunks.
CHUNKED: Final = {"HTTP/1.0": False, "HTTP/1.1": True}

_encode = msgspec.json.Encoder().encode


def json_texts(vocab: Vocab, withheld: Collection[int]) -> TokenTexts:
    """Return what each token is between the quotes of a JSON string; tokens `withheld` are left to Python."""
    return TokenTexts(vocab, lambda text: _encode(text)[1:-1], withheld)


def make_relay(
    exchange: Exchange, requests: Sequence[Request], texts: TokenTexts, shown: frozenset[int], patience: float
) -> Relay | None:
    """Return what writes to the client of `exchange`; None if its stream needs a look at every piece.

    `shown` are the control tokens that `texts` withholds, `patience` the most seconds that a client may be behind.
    """
    environ = exchange.request.environ
    connection = environ["gunicorn.socket"]
    if type(connection) is not socket.socket:  # one that encrypts
        return None
    if len(requests) > 1 or not requests[0].relayable or requests[0].visible != shown or exchange.answered is not None:
        return None
    chunked = CHUNKED.get(environ["SERVER_PROTOCOL"])
    return None if chunked is None else Relay(connection, texts, chunked=chunked, patience=patience)
