"""Far more clients than the server has sequences: what they get, and how soon those it cannot serve are told.

A few clients first, in the same run, to compare with. Every client sends its next request as soon as it has its
answer; one that is refused waits as long as Retry-After says (and up to as long again, so that they do not all come
back at once) and tries again. Three of four requests are constrained to a code of their own; the fourth is one of a few
questions whose answers were taken from the same server alone, and is wrong if it is the answer to another of them.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from random import Random
from typing import Any

from bench import workloads
from bench.report import advance, progress
from bench.soak.accounts import Seen
from bench.soak.asks import CHAT, Address, Ask, Texts, body, coded_stream, judge, new_code, stream_of
from bench.soak.exchange import Exchange, Response, exchange, post

KNOWN = 8
KNOWN_TOKENS = 16
KNOWN_EVERY = 4

#: How often it is measured how late this process notices what has happened, in seconds.
LATENESS_EVERY = 0.02


@dataclass(slots=True)
class Tally:
    """What a number of clients met. Times in seconds; `ids` are those of the answers, `refused` are X-Request-Ids.

    `refusals`: from when a request was sent to the last byte of its refusal. `connects`: of those requests, from before
    the connection until then, in which the server has no part. `lateness`: samples of how long after an event this
    process noticed it, as all clients share one thread; on a busy machine that is in the other times too.
    `same` of the `known` answers were what the server says alone. `late` requests were accepted and then refused.
    """

    clients: int
    seconds: float
    ttft: list[float] = field(default_factory=list)
    refused: set[str] = field(default_factory=set)
    refusals: list[float] = field(default_factory=list)
    connects: list[float] = field(default_factory=list)
    lateness: list[float] = field(default_factory=list)
    retry_after: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    hung: list[str] = field(default_factory=list)
    known: int = 0
    same: int = 0
    late: int = 0
    ids: set[str] = field(default_factory=set)
    seen: Seen = field(default_factory=lambda: Seen(Counter()))

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "clients": self.clients,
            "seconds": self.seconds,
            "ttft": self.ttft,
            "refusals": self.refusals,
            "connects": self.connects,
            "lateness": self.lateness,
            "retry_after": self.retry_after,
            "wrong": self.wrong,
            "hung": self.hung,
            "known": self.known,
            "same": self.same,
            "late": self.late,
            "answered": len(self.ids),
        }


class Overload:
    """Clients of one server."""

    def __init__(self, address: Address, seed: str, patience: float) -> None:
        """`patience`: seconds until a request that is not over counts as hung."""
        self._address = address
        self._patience = patience
        self._random = Random(f"{seed}/codes")
        self._texts = Texts(seed)
        self._questions = [talk.turns[0] for talk in workloads.build("chat", KNOWN, f"{seed}/known")]
        self._alone: Mapping[str, str] = {}
        self._sent = 0

    def ask_alone(self) -> dict[str, str]:
        """The answer of the idle server to each of the known questions, its prompt computed anew."""

        async def ask() -> dict[str, str]:
            answers = {}
            for question in self._questions:
                found = await exchange(self._address, self._known(question, cache_prompt=False).request, self._patience)
                answers[question] = stream_of(found).text
            return answers

        return asyncio.run(ask())

    def run(self, clients: int, seconds: float, alone: Mapping[str, str]) -> Tally:
        """Run `clients` clients for `seconds`; answers under way at the end are waited for."""
        self._alone = alone
        return asyncio.run(self._run(Tally(clients, seconds)))

    async def _run(self, tally: Tally) -> Tally:
        until = time.perf_counter() + tally.seconds
        with progress(int(tally.seconds), f"{tally.clients} clients", "s") as bar:
            async with asyncio.TaskGroup() as group:
                for number in range(tally.clients):
                    group.create_task(self._client(tally, until, Random(f"{number}/waits")))
                group.create_task(_watch_lateness(tally, until))
                begin = time.perf_counter()
                while time.perf_counter() < until:
                    await asyncio.sleep(0.5)
                    advance(bar, time.perf_counter() - begin)
                    counts = f"{len(tally.ids)} answered, {len(tally.refusals)} refused"
                    bar.set_postfix_str(f"{counts}, {len(tally.wrong)} wrong, {len(tally.hung)} hung")
        return tally

    async def _client(self, tally: Tally, until: float, random: Random) -> None:
        while time.perf_counter() < until:
            ask = self._next()
            found = await exchange(self._address, ask.request, self._patience)
            outcome = judge(ask, found)
            if found.response is not None:
                tally.seen.statuses[str(found.response.status)] += 1
            if outcome.kind == "answered":
                self._count(tally, ask, found)
            elif outcome.kind in ("refused", "late"):
                if outcome.kind == "late":
                    tally.late += 1
                    tally.seen.open_generations += 1
                else:
                    tally.refused.add(ask.code)
                    tally.refusals.append(found.waited)
                    tally.connects.append(found.seconds - found.waited)
                    tally.retry_after.append(outcome.retry_after)
                wait = outcome.retry_after * (1 + random.random())
                await asyncio.sleep(min(wait, max(0.0, until - time.perf_counter())))
            else:
                (tally.hung if outcome.kind == "hung" else tally.wrong).append(outcome.reason)

    def _count(self, tally: Tally, ask: Ask, found: Exchange) -> None:
        answer = stream_of(found)
        if answer.ids & tally.ids:
            tally.wrong.append(f"an id came twice: {sorted(answer.ids)}")
        tally.ids |= answer.ids
        tally.seen.generations += 1
        tally.seen.tokens += answer.completion_tokens
        if answer.ttft is not None:
            tally.ttft.append(answer.ttft)
        if ask.text in self._alone:
            tally.known += 1
            tally.same += answer.text == self._alone[ask.text]

    def _next(self) -> Ask:
        self._sent += 1
        if self._sent % KNOWN_EVERY == 0:
            return self._known(self._questions[self._sent // KNOWN_EVERY % KNOWN])
        return coded_stream(self._address, self._texts.next(), new_code(self._random))

    def _known(self, question: str, **fields: Any) -> Ask:
        code = new_code(self._random)
        usage = {"include_usage": True}
        asked = body(question, max_tokens=KNOWN_TOKENS, stream=True, stream_options=usage, **fields)

        def check(found: Exchange, _: Response) -> str | None:
            answer = stream_of(found)
            if answer.error is not None or len(answer.ids) != 1:
                return answer.error or f"chunks of several answers: {sorted(answer.ids)}"
            if answer.finish_reason not in ("stop", "length"):
                return f"finish_reason {answer.finish_reason!r}"
            if answer.completion_tokens > KNOWN_TOKENS or (
                answer.finish_reason == "length" and answer.completion_tokens != KNOWN_TOKENS
            ):
                return f"{answer.completion_tokens} tokens, finish_reason {answer.finish_reason!r}"
            if answer.text != self._alone.get(question) and answer.text in self._alone.values():
                return f"the answer to another question: {answer.text!r}"
            return None

        return Ask("known question", code, post(self._address, CHAT, asked, code), check, text=question)


async def _watch_lateness(tally: Tally, until: float) -> None:
    """Sample how much later than asked for a timer of this process's event loop goes off."""
    while (begin := time.perf_counter()) < until:
        await asyncio.sleep(LATENESS_EVERY)
        tally.lateness.append(time.perf_counter() - begin - LATENESS_EVERY)
