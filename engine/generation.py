"""The caller's end of a request: tokens come in from the engine thread, text goes out to whoever iterates.

Turning tokens into text, and looking for stop strings in it, happens here, in the caller's thread, so that the engine
thread does nothing but decode. Knows tokens and characters; knows nothing of batches or HTTP.
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple, Self

from engine.request import Request
from engine.stops import StopMatcher
from engine.timings import DETOKENIZE, HANDOFF, clock
from llama_native import Outbox, Relay, RelayEnd, TokenQueue, Utf8Decoder, Vocab

STOP: Final = "stop"
LENGTH: Final = "length"


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Log probabilities (natural) of one token and of the most probable alternatives, best first."""

    token: int
    logprob: float
    top: tuple[tuple[int, float], ...]


class Piece(NamedTuple):  # not a frozen dataclass: one is made for nearly every token, at a third of the cost
    """What became certain at once: some text, the tokens it came from, and, in the last piece, why it ended.

    `text` can be empty (in the last piece). `logprobs` has one entry a token when they were asked for.
    """

    text: str
    tokens: tuple[int, ...]
    logprobs: tuple[TokenLogprobs, ...] | None
    finish_reason: str | None


@dataclass(frozen=True, slots=True)
class End:
    """The engine's last word on a generation: `finish_reason`, or the error that ended it.

    `token` is the end-of-generation token that the model chose, if it did and log probabilities were asked for.
    """

    finish_reason: str | None = None
    error: Exception | None = None
    token: TokenLogprobs | None = None


#: From the engine thread: a token, a token with log probabilities, those of prompt tokens, or the end.
Item = int | TokenLogprobs | tuple[TokenLogprobs, ...] | End

#: Where the engine thread leaves them, each with the place of its generation among those that share the inbox.
Inbox = TokenQueue[TokenLogprobs | tuple[TokenLogprobs, ...] | End]


class Generation:
    """A submitted request. Iterate it, in one thread, for its text; any thread may cancel it.

    Leaving the iteration early does not stop the engine: call `cancel`, or use the generation as a context manager,
    which cancels on exit whatever is left.
    """

    def __init__(
        self,
        request: Request,
        vocab: Vocab,
        on_leave: Callable[[Generation, bool], None],
        inbox: Inbox | None = None,
        place: int = 0,
    ) -> None:
        self.request = request
        self.timings = request.timings
        #: What the engine thread notes of its work for this generation.
        self.course = request.timings.submit()
        #: Tokens of the prompt, those of them found in the KV cache, and tokens of the answer handed out so far.
        self.prompt_tokens = int(request.prompt.size)
        self.cached_tokens = 0
        self.completion_tokens = 0
        #: One entry for each prompt token but the first, if asked for; complete before the first piece.
        self.prompt_logprobs: list[TokenLogprobs] = []
        #: That of the end-of-generation token, which is in no piece, if the model chose one; known at the last piece.
        self.end_logprobs: TokenLogprobs | None = None
        #: Why the generation ended; None while it runs or when it failed.
        self.finish_reason: str | None = None
        self._vocab = vocab
        self._on_leave = on_leave
        self._inbox: Inbox = TokenQueue() if inbox is None else inbox
        self._place = place
        self._utf8 = Utf8Decoder()
        self._stops = StopMatcher(request.stop)
        self._tokens: list[int] = []
        self._logprobs: list[TokenLogprobs] = []
        self._over = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.cancel()

    def __iter__(self) -> Iterator[Piece]:
        """Yield pieces until the one with a finish_reason. Raises what ended the generation, if an error did."""
        while (piece := self.next()) is not None:
            yield piece
            if piece.finish_reason:
                return

    def next(self, timeout: float | None = None) -> Piece | None:
        """Wait for the next piece, at most `timeout` seconds (None: for ever).

        None when none came in time, when the last one has been handed out, or when the generation was cancelled.
        Raises what ended the generation, if an error did.
        """
        taken = _next(self._inbox, (self,), timeout)
        return taken and taken[1]

    def relay(self, relay: Relay, seconds: float) -> RelayEnd | None:
        """Let `relay` write the text of tokens as they come, for `seconds` (see `Relay.run`); `next` goes on there.

        Only for one whose request is `relayable`, which is alone in its inbox, and of which `relay` withholds the
        `visible` tokens. None while the text so far does not end with a whole character, or when it is over. When it is
        cancelled meanwhile, tokens that are there already are still written.
        """
        if self._over or self._utf8.pending:
            return None
        end, times = relay.run(self._inbox, seconds)
        self.timings.relayed(times)
        self.completion_tokens += len(times)
        return end

    def cancel(self) -> None:
        """Stop computing for this request. Harmless when it is over; nothing more is yielded after it."""
        if not self._over:
            self._over = True
            self.course.end(clock())
            self._on_leave(self, False)

    @property
    def submitted(self) -> float:
        """When it was queued, as a time of `clock`."""
        return self.course.submitted

    @property
    def over(self) -> bool:
        """True once the last piece was handed out, an error was raised, or the generation was cancelled."""
        return self._over

    def put(self, item: Item, outbox: Outbox | None = None) -> None:
        """Hand over the next token or the end. Any thread; by way of `outbox`, if given, which its thread sends."""
        if outbox is None:
            self._inbox.put(self._place, item)
        else:
            outbox.add(self._inbox, self._place, item)

    def take(self, item: Item) -> Piece | None:
        """Turn an item from the inbox into the piece it completes, if it does (the consumer's side)."""
        self.timings.lap(HANDOFF)
        try:  # `Timings.phase` would be a generator for every token
            return self._take(item)
        finally:
            self.timings.lap(DETOKENIZE)

    def _take(self, item: Item) -> Piece | None:
        if self._over:  # cancelled by another thread while this one waited
            return None
        if isinstance(item, End):
            self._over = True
            if item.error is not None:
                raise item.error
            self.end_logprobs = item.token
            text = self._stops.feed(self._utf8.flush())
            return self._piece(text + self._stops.flush(), STOP if self._stops.matched else item.finish_reason)
        if isinstance(item, tuple):
            self.prompt_logprobs += item
            return None
        if isinstance(item, int):
            token = item
        else:
            token = item.token
            self._logprobs.append(item)
        self._tokens.append(token)
        self.completion_tokens += 1
        text = self._stops.feed(self._utf8.feed(self._vocab.token_bytes(token, token in self.request.visible)))
        if self._stops.matched:
            self._over = True
            self.course.end_at_token(self.completion_tokens)
            self._on_leave(self, True)
            return self._piece(text, STOP)
        return self._piece(text, None) if text else None

    def _piece(self, text: str, finish_reason: str | None) -> Piece:
        logprobs = tuple(self._logprobs) if self.request.sampling.logprobs is not None else None
        piece = Piece(text, tuple(self._tokens), logprobs, finish_reason)
        self._tokens.clear()
        self._logprobs.clear()
        self.finish_reason = finish_reason
        return piece


class GenerationGroup:
    """Generations that were submitted together; one thread takes the pieces of all of them as they come.

    `generations` keeps the order of the requests. They share an inbox, so they must not be iterated one by one.
    """

    def __init__(self, generations: Sequence[Generation], inbox: Inbox) -> None:
        self.generations = tuple(generations)
        self._inbox = inbox

    def next(self, timeout: float | None = None) -> tuple[int, Piece] | None:
        """Wait for the next piece of any generation; return it with that generation's place.

        None and errors as for `Generation.next`; after an error the others still run until they are cancelled.
        """
        return _next(self._inbox, self.generations, timeout)

    def cancel(self) -> None:
        """Stop computing for all of them. Any thread."""
        for generation in self.generations:
            generation.cancel()

    @property
    def over(self) -> bool:
        """True once every one of them is over."""
        return all(generation.over for generation in self.generations)


def _next(inbox: Inbox, generations: Sequence[Generation], timeout: float | None) -> tuple[int, Piece] | None:
    """Take items from `inbox` until one completes a piece, the time is up, or all `generations` are over.

    Returns the piece with its generation's place among `generations`.
    """
    deadline = None if timeout is None else clock() + timeout
    while not all(generation.over for generation in generations):
        try:
            place, item = inbox.get(None if deadline is None else max(0.0, deadline - clock()))
        except queue.Empty:
            return None
        piece = generations[place].take(item)
        if piece is not None:
            return place, piece
    return None
