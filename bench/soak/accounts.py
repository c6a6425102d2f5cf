"""What the server has counted: its engine's totals and its metrics, and whether they agree with what clients saw."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from bench.drain import get

#: How long the server may take to come to rest after the last client, in seconds.
REST = 60.0


class NeverAtRestError(Exception):
    """The engine still ran or waited for something long after the last client had gone."""


@dataclass(frozen=True, slots=True)
class Accounts:
    """One look at an idle server. `totals` are the engine's; `statuses` counts the requests answered by status."""

    totals: Mapping[str, int]
    statuses: Counter[str]
    generated_tokens: float


def wait_indexed(port: int) -> None:
    """Wait until all documents can be searched. Raises `NeverAtRestError`."""
    deadline = time.monotonic() + REST
    while not ((found := json.loads(get(port, "/v1/knowledge")))["files"] and found["indexing"]["state"] == "idle"):
        if time.monotonic() > deadline:
            raise NeverAtRestError(f"the documents are not indexed after {REST:g} s: {found['indexing']}")
        time.sleep(0.2)


def gauges(metrics_port: int) -> tuple[int, int]:
    """Requests running and waiting now, from the metrics, which have a thread of their own."""
    found = {"lucid_requests_running": 0.0, "lucid_requests_waiting": 0.0}
    for line in get(metrics_port, "/metrics").decode().splitlines():
        if (name := line.partition("{")[0]) in found:
            found[name] += float(line.split()[-1])
    return int(found["lucid_requests_running"]), int(found["lucid_requests_waiting"])


def at_rest(port: int, metrics_port: int) -> Accounts:
    """Wait until nothing runs or waits, then read everything. Raises `NeverAtRestError`."""
    deadline = time.monotonic() + REST
    while (busy := gauges(metrics_port)) != (0, 0):
        if time.monotonic() > deadline:
            raise NeverAtRestError(f"{busy[0]} sequences run and {busy[1]} requests wait {REST:g} s after the end")
        time.sleep(0.2)
    time.sleep(1.0)  # the last answers are counted after their last byte is out
    totals: dict[str, Any] = json.loads(get(port, "/v1/engine"))["totals"]
    statuses: Counter[str] = Counter()
    tokens = 0.0
    for family in text_string_to_metric_families(get(metrics_port, "/metrics").decode()):
        for found in family.samples:
            if found.name == "lucid_requests_total" and found.labels["route"] != "/v1/engine":
                statuses[found.labels["status"]] += int(found.value)
            elif found.name == "lucid_generated_tokens_total":
                tokens += found.value
    return Accounts(totals, statuses, tokens)


def logged_seconds(log: str, ids: Collection[str]) -> list[float]:
    """How long the server had the requests with these X-Request-Ids, by its log (LOG_FORMAT=json).

    From the end of a request's header to the last byte of its answer.
    """
    lines = (json.loads(line) for line in log.splitlines() if '"request_id":' in line)
    return [float(facts["total_seconds"]) for facts in lines if facts["request_id"] in ids]


@dataclass(slots=True)
class Seen:
    """What clients saw: complete responses by status, generations in them, tokens that `usage` told of.

    `left` requests were abandoned: how they ended is the server's knowledge alone. So is which generations of a request
    have failed that was given up in the queue; `open_generations` are those of both.
    """

    statuses: Counter[str]
    generations: int = 0
    tokens: int = 0
    left: int = 0
    open_generations: int = 0


def disagreements(before: Accounts, after: Accounts, seen: Seen) -> list[str]:
    """Every count of the server that what clients saw rules out, in words."""
    wrong = []

    def bounded(what: str, counted: float, least: float, most: float) -> None:
        if not least <= counted <= most:
            bounds = f"{least:.0f}" if least == most else f"{least:.0f} to {most:.0f}"
            wrong.append(f"{what}: the server counted {counted:.0f}, clients saw {bounds}")

    answered = after.statuses - before.statuses
    for status in sorted(answered.keys() | seen.statuses.keys()):
        if status == "499":
            bounded("status 499", answered[status], 0, seen.left)
        else:
            bounded(f"status {status}", answered[status], seen.statuses[status], seen.statuses[status] + seen.left)
    total = sum(seen.statuses.values())
    bounded("requests", sum(answered.values()), total, total + seen.left)
    delta = {name: after.totals[name] - before.totals[name] for name in ("finished", "cancelled", "failed")}
    bounded("generations finished", delta["finished"], seen.generations, seen.generations + seen.open_generations)
    bounded("generations cancelled or failed", delta["cancelled"] + delta["failed"], 0, seen.open_generations)
    made = after.totals["generated_tokens"] - before.totals["generated_tokens"]
    told = after.generated_tokens - before.generated_tokens
    bounded("generated tokens told by usage", told, seen.tokens, made)
    return wrong
