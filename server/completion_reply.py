"""What a text completion looks like: OpenAI's legacy body, or its chunks.

Knows the JSON of completions, the echo of prompts, and where in the text each token begins; knows nothing of sockets.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Sequence

import msgspec

from engine import Piece, TokenLogprobs
from llama_native import Utf8Decoder, Vocab
from server import sse
from server.answer import Answer
from server.errors import ErrorBody
from server.prompt import Tokens
from server.schema.answer import TimingsBody, Usage, finite
from server.schema.completion import CompletionRequest, TextChoice, TextCompletion, TextLogprobs

_encode = msgspec.json.Encoder().encode


class CompletionReply:
    """The reply to one completion request (see `server.reply.Reply`)."""

    def __init__(self, answer: Answer, body: CompletionRequest, model: str) -> None:
        """`model` is the name to answer with."""
        self._answer = answer
        self._include_usage = body.include_usage
        self._id = f"cmpl-{uuid.uuid4().hex}"
        self._created = int(time.time())
        self._model = model
        given = [prompt for prompt in body.prompts for _ in range(body.choices)]
        self._choices = [
            _Choice(answer, index, prompt, echo=bool(body.echo), wanted=body.logprobs is not None)
            for index, prompt in enumerate(given)
        ]
        head = {"id": self._id, "object": "text_completion", "created": self._created, "model": model}
        self._head = b"data: " + _encode(head)[:-1] + b',"choices":['
        self._tail = b',"usage":null}\n\n' if self._include_usage else b"}\n\n"

    def take(self, index: int, piece: Piece) -> None:
        """Keep a piece for `body`."""
        self._choices[index].add(piece)

    def body(self) -> TextCompletion:
        """Return the complete answer."""
        answer = self._answer
        return TextCompletion(
            id=self._id,
            object="text_completion",
            created=self._created,
            model=self._model,
            choices=[choice.take_all() for choice in self._choices],
            usage=Usage.of(answer),
            timings=TimingsBody.of(answer, answer.exchange.timings),
        )

    def begin(self) -> Iterable[bytes]:
        """Nothing: a choice begins with its first piece."""
        return ()

    def events(self, index: int, piece: Piece) -> Iterable[bytes]:
        """Yield the chunk of a piece, and behind the very last the usage and the end mark."""
        choice, answer = self._choices[index], self._answer
        choice.add(piece)
        chunk = self._head + _encode(choice.take_all()) + b"]"
        if not answer.over:
            yield chunk + self._tail
            return
        timings = b',"timings":' + _encode(TimingsBody.of(answer, answer.exchange.timings)) + b"}\n\n"
        if self._include_usage:
            usage = self._head + b'],"usage":' + _encode(Usage.of(answer))
            yield chunk + self._tail + usage + timings + sse.DONE
        else:
            yield chunk + timings + sse.DONE

    def around(self) -> tuple[bytes, bytes]:
        """What stands around each text."""
        before, after = _encode(TextChoice(0, "", None, None)).split(b'""')
        return self._head + before + b'"', b'"' + after + b"]" + self._tail

    def error(self, body: ErrorBody) -> bytes:
        """The event for a failure."""
        return sse.error_event(body)


class _Choice:
    """What has come of one choice and was not sent yet."""

    def __init__(self, answer: Answer, index: int, prompt: str | list[int], *, echo: bool, wanted: bool) -> None:
        """`prompt` is what the client gave; `wanted` says that it wants log probabilities."""
        self._answer = answer
        self._index = index
        self._prompt = prompt
        self._echo = echo
        self._wanted = wanted
        self._table = _Table(answer.vocab)
        self._texts: list[str] = []
        self._finish_reason: str | None = None

    def add(self, piece: Piece) -> None:
        """Take the next piece, and before the first the prompt, if it is to be echoed."""
        if self._echo:
            self._echo = False
            self._add_prompt()
        self._texts.append(piece.text)
        if self._wanted:
            self._table.add(piece.logprobs or ())
            end = self._answer.end_logprobs(self._index)
            if piece.finish_reason and end is not None:
                self._table.add((end,))
        self._finish_reason = piece.finish_reason

    def take_all(self) -> TextChoice:
        """Return what has come since the last call."""
        logprobs = self._table.take_all() if self._wanted else None
        choice = TextChoice(self._index, "".join(self._texts), logprobs, self._finish_reason)
        self._texts.clear()
        return choice

    def _add_prompt(self) -> None:
        tokens = self._answer.requests[self._index].prompt
        spelled = _spelled(tokens, self._answer.vocab)
        text = self._prompt if isinstance(self._prompt, str) else spelled
        self._texts.append(text)
        if self._wanted:
            # A BOS token, and the space that some tokenizers put in front, are not in the client's text.
            self._table.offset = len(text) - len(spelled) if spelled.endswith(text) else 0
            self._table.add_first(int(tokens[0]))
            self._table.add(self._answer.prompt_logprobs(self._index), special=True)


class _Table:
    """Rows of `TextLogprobs` that were not sent yet."""

    def __init__(self, vocab: Vocab) -> None:
        self._vocab = vocab
        self._utf8 = Utf8Decoder()
        #: Characters of the text before the next token.
        self.offset = 0
        self._clear()

    def add_first(self, token: int) -> None:
        """Add the first token of a prompt, which follows nothing and so has no probability."""
        self._add_token(token, special=True)
        self._logprobs.append(None)
        self._tops.append(None)

    def add(self, entries: Iterable[TokenLogprobs], *, special: bool = False) -> None:
        """Add tokens; `special` if control tokens among them are part of the text."""
        for entry in entries:
            self._add_token(entry.token, special)
            self._logprobs.append(finite(entry.logprob))
            top = {self._name(token): finite(logprob) for token, logprob in entry.top}
            top[self._name(entry.token)] = finite(entry.logprob)  # to the last bit: harnesses compare the two
            self._tops.append(top)

    def take_all(self) -> TextLogprobs:
        """Return the rows and begin anew."""
        taken = TextLogprobs(self._tokens, self._logprobs, self._tops, self._offsets)
        self._clear()
        return taken

    def _add_token(self, token: int, special: bool) -> None:
        self._tokens.append(self._name(token))
        self._offsets.append(max(0, self.offset))
        self.offset += len(self._utf8.feed(self._vocab.token_bytes(token, special)))

    def _name(self, token: int) -> str:
        """Return a token's text; part of a character as OpenAI writes it, since several tokens can look the same."""
        data = self._vocab.token_bytes(token, special=True)
        try:
            return data.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)

    def _clear(self) -> None:
        self._tokens: list[str] = []
        self._logprobs: list[float | None] = []
        self._tops: list[dict[str, float] | None] = []
        self._offsets: list[int] = []


def _spelled(tokens: Sequence[int] | Tokens, vocab: Vocab) -> str:
    """Return the text of a prompt's tokens, control tokens included."""
    return b"".join(vocab.token_bytes(int(token), special=True) for token in tokens).decode("utf-8", "replace")
