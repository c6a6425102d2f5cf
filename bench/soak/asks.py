"""What clients ask and how an answer is told to be wrong: every constrained answer must be this very request's code.

The order of requests in a batch changes the low bits of logits, so free text of a busy server need not be what the
same server says alone, at temperature 0 either. What an answer must be is therefore forced: a JSON schema allows one
text only, with a code that no other request has. Knows request bodies and answers; knows nothing of sockets.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import cycle
from random import Random
from typing import Any

from bench import workloads
from bench.recording import Answer, read_answer
from bench.soak.exchange import Exchange, Leave, Response, post

MODEL = "rusty_llm"
CHAT = "/v1/chat/completions"
_LATE = "queue_timeout"

Address = tuple[str, int]
Check = Callable[[Exchange, Response], "str | None"]
"""What is wrong with an answer that came with the expected status, if anything is."""


@dataclass(frozen=True, slots=True)
class Ask:
    """A request of kind `kind`; it should be answered `status`, or 503 if it is one that may be `refusable`.

    `generations`: how many the engine makes for it. `named`: the response must bring back `code` as X-Request-Id.
    """

    kind: str
    code: str
    request: bytes
    check: Check
    status: int = 200
    generations: int = 1
    refusable: bool = True
    named: bool = True
    leave: Leave | None = None
    text: str = ""
    """The user's message, where that matters."""


def new_code(random: Random) -> str:
    """24 hexadecimal digits that no other request has."""
    return random.randbytes(12).hex()


def only(code: str) -> dict[str, Any]:
    """The response_format that allows one answer."""
    schema = {
        "type": "object",
        "properties": {"code": {"const": code}},
        "required": ["code"],
        "additionalProperties": False,
    }
    return {"type": "json_schema", "json_schema": {"name": "code", "schema": schema}}


def expected(code: str) -> str:
    """That answer."""
    return json.dumps({"code": code})


class Texts:
    """User messages of the benchmarks, in turn: short questions, 300 words, a question behind a shared text."""

    def __init__(self, seed: str, each: int = 400) -> None:
        kinds = [
            [conversation.turns[0] for conversation in workloads.build(name, each, seed)]
            for name in ("chat", "unique", "rag")
        ]
        self._texts: Iterator[str] = cycle(text for texts in zip(*kinds, strict=True) for text in texts)

    def next(self) -> str:
        """The next one."""
        return next(self._texts)


def body(text: str, **fields: Any) -> dict[str, Any]:
    """The body of a greedy chat completion."""
    return {"model": MODEL, "messages": [{"role": "user", "content": text}], "temperature": 0, **fields}


def coded_stream(address: Address, text: str, code: str, **fields: Any) -> Ask:
    """A streamed chat completion that can only answer with its code."""
    usage = {"include_usage": True}
    asked = body(text, max_tokens=64, stream=True, stream_options=usage, response_format=only(code), **fields)

    def check(found: Exchange, _: Response) -> str | None:
        answer = stream_of(found)
        return wrong_stream(answer) or wrong_text(answer.text, answer.finish_reason, code)

    return Ask("constrained stream", code, post(address, CHAT, asked, code), check)


def stream_of(found: Exchange) -> Answer:
    """The streamed answer in the bytes that came."""
    return read_answer(found.pieces, found.started, found.ended)


def wrong_stream(answer: Answer) -> str | None:
    """What is wrong with the form of a streamed answer of ASCII text: it is whole, has one id, and counts right."""
    if answer.error is not None:
        return answer.error
    if len(answer.ids) != 1:
        return f"chunks of several answers: {sorted(answer.ids)}"
    if answer.counted != "usage" or answer.prompt_tokens < 1:
        return "no usage"
    if len(answer.token_times) != answer.completion_tokens:
        return f"{len(answer.token_times)} chunks with text, but usage counts {answer.completion_tokens} tokens"
    return None


def wrong_text(text: str, finish_reason: str | None, code: str) -> str | None:
    """What is wrong with the text of an answer that must be its code."""
    if text != expected(code):
        return f"answered {text!r} instead of {expected(code)!r}"
    return None if finish_reason == "stop" else f"finish_reason {finish_reason!r} instead of 'stop'"


@dataclass(frozen=True, slots=True)
class Outcome:
    """One answer, judged.

    `kind` is "answered", "refused" (503 with Retry-After), "late" (accepted, and given up after QUEUE_TIMEOUT), "left",
    "wrong" or "hung".
    """

    kind: str
    reason: str = ""
    retry_after: float = 0.0


def judge(ask: Ask, found: Exchange) -> Outcome:
    """Compare what came with what was asked."""
    if found.hung:
        return Outcome("hung", f"{ask.kind}: {found.failure}")
    if found.left:
        return Outcome("left")
    response = found.response
    if response is None:
        return Outcome("wrong", f"{ask.kind}: {found.failure}")
    if ask.named and (name := response.headers.get("x-request-id")) != ask.code:
        return Outcome("wrong", f"{ask.kind}: X-Request-Id {name!r} instead of {ask.code!r}")
    if response.status == 503 and ask.refusable:
        wait = response.headers.get("retry-after", "")
        if not wait.isdecimal() or int(wait) < 1 or (bad := wrong_error(response)):
            return Outcome("wrong", f"{ask.kind}: refused with Retry-After {wait!r}: {response.body[:200]!r}")
        late = response.json["error"]["code"] == _LATE
        return Outcome("late" if late else "refused", retry_after=float(wait))
    if response.status != ask.status:
        return Outcome("wrong", f"{ask.kind}: HTTP {response.status} instead of {ask.status}: {response.body[:200]!r}")
    try:
        bad = ask.check(found, response)
    except (ValueError, LookupError, TypeError) as error:
        bad = f"{type(error).__name__}: {error} in {response.body[:200]!r}"
    if bad is None:
        return Outcome("answered")
    late = bad.startswith("error in the stream") and f'"{_LATE}"' in bad
    return Outcome("late" if late else "wrong", f"{ask.kind}: {bad}", 1.0)


def wrong_error(response: Response) -> str | None:
    """What is wrong with an error body, which must be OpenAI's."""
    error = response.json["error"]
    if set(error) != {"message", "type", "param", "code"} or not error["message"]:
        return f"not an error body: {response.body[:200]!r}"
    return None
