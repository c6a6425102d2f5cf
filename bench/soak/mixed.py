"""Everything at once for a long time, to see what grows in a server that serves, refuses and is left.

A few more clients than sequences, each drawing its next request at random: chats, whole and streamed, with documents
and without, completions, structured answers, tools, embeddings, searches, and bad input; every fourth generation is
abandoned at a random moment. /proc is sampled meanwhile.
"""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from random import Random
from typing import Any

from bench.processes import ServerProcess
from bench.report import advance, progress
from bench.soak import misuse
from bench.soak.accounts import Seen, gauges
from bench.soak.asks import (
    CHAT,
    MODEL,
    Address,
    Ask,
    Texts,
    body,
    coded_stream,
    expected,
    judge,
    new_code,
    only,
    stream_of,
    wrong_text,
)
from bench.soak.exchange import Exchange, Response, exchange, post
from bench.soak.samples import Sample, sample

#: Every so many generations one is abandoned.
LEAVE_EVERY = 4

_TOOL = {
    "type": "function",
    "function": {
        "name": "move",
        "parameters": {
            "type": "object",
            "properties": {"left": {"type": "boolean"}, "steps": {"type": "integer", "minimum": 1, "maximum": 99}},
            "required": ["left", "steps"],
        },
    },
}


class Mix:
    """Makes requests of every kind, at random."""

    def __init__(self, address: Address, seed: str) -> None:
        self._address = address
        self._random = Random(f"{seed}/mix")
        self._texts = Texts(seed)
        self._count = 0
        self.kinds: Sequence[tuple[int, Callable[[], Ask]]] = (
            (5, self._stream),
            (3, self._whole),
            (2, self._with_documents),
            (3, self._completion),
            (2, self._regex),
            (2, self._tools),
            (1, self._responses),
            (2, self._embeddings),
            (2, self._search),
            (2, self._tokenize),
            (3, lambda: misuse.bad(address, self._random)),
            (1, lambda: misuse.unsupported_type(address, self._random)),
            (1, lambda: misuse.too_large(address, self._random)),
            (1, lambda: misuse.malformed(address, self._random)),
        )

    def next(self) -> Ask:
        """A request; every fourth that generates will be abandoned."""
        (draw,) = self._random.choices([it[1] for it in self.kinds], [it[0] for it in self.kinds])
        ask = draw()
        if not ask.generations:
            return ask
        self._count += 1
        return ask if self._count % LEAVE_EVERY else replace(ask, leave=misuse.leave(self._random))

    def _ask(self, kind: str, path: str, asked: object, check: Callable[[Any], str | None], **more: Any) -> Ask:
        code = more.pop("code", None) or new_code(self._random)

        def judged(_: Exchange, response: Response) -> str | None:
            return check(response.json)

        return Ask(kind, code, post(self._address, path, asked, code), judged, **more)

    def _stream(self) -> Ask:
        return coded_stream(self._address, self._texts.next(), new_code(self._random), knowledge=False)

    def _whole(self) -> Ask:
        code, choices = new_code(self._random), self._random.choice((1, 1, 2))
        asked = body(self._texts.next(), max_tokens=64, n=choices, response_format=only(code), knowledge=False)

        def check(answer: Any) -> str | None:
            if len(answer["choices"]) != choices:
                return f"{len(answer['choices'])} choices instead of {choices}"
            found = (wrong_text(each["message"]["content"], each["finish_reason"], code) for each in answer["choices"])
            return next((bad for bad in found if bad), None)

        return self._ask("constrained whole", CHAT, asked, check, code=code, generations=choices)

    def _with_documents(self) -> Ask:
        asked = body("Which tool did Thom Rhubarb invent?", max_tokens=24, knowledge={"top_k": 2})

        def check(answer: Any) -> str | None:
            cited = [each["file"] for each in answer["citations"]]
            return None if "thom-rhubarb.txt" in cited or "screw-printer.txt" in cited else f"citations {cited}"

        return self._ask("with documents", CHAT, asked, check)

    def _completion(self) -> Ask:
        prompt = self._texts.next()
        asked = {"model": MODEL, "prompt": prompt, "max_tokens": 12, "echo": True, "temperature": 1, "ignore_eos": True}

        def check(answer: Any) -> str | None:
            (choice,) = answer["choices"]
            if not choice["text"].startswith(prompt):
                return f"does not begin with its prompt: {choice['text'][:60]!r}"
            made = answer["usage"]["completion_tokens"], choice["finish_reason"]
            return None if made == (12, "length") else f"tokens and finish_reason {made}"

        return self._ask("completion", "/v1/completions", asked, check)

    def _regex(self) -> Ask:
        code = new_code(self._random)
        form = {"type": "regex", "regex": f"{code}-[0-9]{{3}}"}
        asked = body("Give me a number.", max_tokens=48, response_format=form, knowledge=False)

        def check(answer: Any) -> str | None:
            text = answer["choices"][0]["message"]["content"]
            good = text[:-3] == f"{code}-" and text[-3:].isdecimal()
            return None if good else f"answered {text!r} instead of {code}-..."

        return self._ask("regex", CHAT, asked, check, code=code)

    def _tools(self) -> Ask:
        asked = body("Go three steps to the left.", max_tokens=64, knowledge=False, tools=[_TOOL])
        asked["tool_choice"] = "required"

        def check(answer: Any) -> str | None:
            (choice,) = answer["choices"]
            called = choice["message"]["tool_calls"][0]["function"]
            given = json.loads(called["arguments"])
            good = called["name"] == "move" and isinstance(given["left"], bool) and 1 <= given["steps"] <= 99
            return None if good else f"called {called}"

        return self._ask("tools", CHAT, {**asked, "parallel_tool_calls": False}, check)

    def _responses(self) -> Ask:
        code = new_code(self._random)
        form = {"type": "json_schema", "name": "code", "schema": only(code)["json_schema"]["schema"]}
        asked = {"input": self._texts.next(), "max_output_tokens": 64, "text": {"format": form}}

        def check(answer: Any) -> str | None:
            text = answer["output"][0]["content"][0]["text"]
            return None if text == expected(code) else f"answered {text!r} instead of {expected(code)!r}"

        return self._ask("responses", "/v1/responses", asked, check, code=code)

    def _embeddings(self) -> Ask:
        texts = [self._texts.next()[:300] for _ in range(self._random.randint(1, 4))]
        asked = {"input": texts, "encoding_format": "base64"}

        def check(answer: Any) -> str | None:
            sizes = {len(base64.b64decode(each["embedding"])) for each in answer["data"]}
            good = [each["index"] for each in answer["data"]] == list(range(len(texts))) and len(sizes) == 1
            return None if good else f"{len(answer['data'])} vectors of {sizes} bytes for {len(texts)} texts"

        return self._ask("embeddings", "/v1/embeddings", asked, check, generations=0)

    def _search(self) -> Ask:
        mode = self._random.choice(("hybrid", "dense", "lexical"))

        def check(answer: Any) -> str | None:
            found = [each["file"] for each in answer["data"]]
            return None if "candle-lane-museum.txt" in found else f"found {found}"

        asked = {"query": "Candle Lane museum", "mode": mode}
        return self._ask(f"{mode} search", "/v1/knowledge/search", asked, check, generations=0)

    def _tokenize(self) -> Ask:
        text = self._texts.next()

        def check(answer: Any) -> str | None:
            return None if all(isinstance(token, int) for token in answer["tokens"]) else "no token ids"

        return self._ask("tokenize", "/tokenize", {"content": text}, check, generations=0)


@dataclass(slots=True)
class Tally:
    """What the clients met, and the samples."""

    duration: float
    outcomes: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    hung: list[str] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    seen: Seen = field(default_factory=lambda: Seen(Counter()))

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "duration": self.duration,
            "outcomes": dict(self.outcomes),
            "kinds": dict(self.kinds),
            "wrong": self.wrong,
            "hung": self.hung,
            "samples": [asdict(it) for it in self.samples],
        }


async def _client(mix: Mix, tally: Tally, address: Address, until: float, patience: float, random: Random) -> None:
    while time.perf_counter() < until:
        ask = mix.next()
        found = await exchange(address, ask.request, patience, ask.leave)
        outcome = judge(ask, found)
        tally.outcomes[outcome.kind] += 1
        tally.kinds[ask.kind] += 1
        if outcome.kind == "left":
            tally.seen.left += 1
            tally.seen.open_generations += ask.generations
        elif ask.named and found.response is not None:
            tally.seen.statuses[str(found.response.status)] += 1
        if outcome.kind == "answered" and ask.generations:
            tally.seen.generations += ask.generations
            tally.seen.tokens += _tokens(ask, found)
        elif outcome.kind in ("refused", "late"):
            tally.seen.open_generations += ask.generations * (outcome.kind == "late")
            wait = outcome.retry_after * (1 + random.random())
            await asyncio.sleep(min(wait, max(0.0, until - time.perf_counter())))
        elif outcome.kind == "hung":
            tally.hung.append(outcome.reason)
        elif outcome.kind == "wrong":
            tally.wrong.append(outcome.reason)


def _tokens(ask: Ask, found: Exchange) -> int:
    if ask.kind == "constrained stream":
        return stream_of(found).completion_tokens
    assert found.response is not None
    usage = found.response.json["usage"]
    return int(usage["output_tokens" if ask.kind == "responses" else "completion_tokens"])


async def _run(
    server: ServerProcess, metrics_port: int, clients: int, tally: Tally, every: float, seed: str, patience: float
) -> None:
    address = ("127.0.0.1", server.port)
    mix = Mix(address, seed)
    begin = time.perf_counter()
    until = begin + tally.duration
    with progress(int(tally.duration), f"{clients} clients", "s") as bar:
        async with asyncio.TaskGroup() as group:
            for number in range(clients):
                group.create_task(_client(mix, tally, address, until, patience, Random(f"{seed}/{number}")))
            while time.perf_counter() < until:
                running, waiting = await asyncio.to_thread(gauges, metrics_port)
                now = time.perf_counter() - begin
                tally.samples.append(await asyncio.to_thread(sample, server.members(), now, running, waiting))
                advance(bar, now)
                resident = f"{tally.samples[-1].rss / 1e6:.0f} MB"
                bar.set_postfix_str(f"{resident}, {dict(tally.outcomes)}")
                await asyncio.sleep(min(every, max(0.0, until - time.perf_counter())))


def run(
    server: ServerProcess, metrics_port: int, clients: int, seconds: float, every: float, seed: str, patience: float
) -> Tally:
    """Run `clients` clients for `seconds` and sample every `every` seconds. `patience` as for `Overload`."""
    tally = Tally(seconds)
    asyncio.run(_run(server, metrics_port, clients, tally, every, seed, patience))
    return tally
