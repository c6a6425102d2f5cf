"""Real load from several threads: chat completions of many shapes, streamed and whole."""

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from server_process import Answer, ServerProcess


class Served(NamedTuple):
    """An answer and how long its client waited for it, in seconds."""

    answer: Answer
    seconds: float


def shapes(count: int) -> list[dict[str, Any]]:
    """`count` requests: short and long prompts, one token and many, whole and streamed, several choices."""
    return [
        {
            "messages": f"{'word ' * (1 + 4 * (number % 3))}{number % 7}",
            "max_tokens": (1, 1, 2, 3)[number % 4],
            "stream": number % 2 == 0,
            "ignore_eos": True,
            "cache_prompt": number % 10 != 0,
            "n": 2 if number % 25 == 24 else 1,
        }
        for number in range(count)
    ]


def run(server: ServerProcess, requests: list[dict[str, Any]], clients: int) -> list[Served]:
    """Send the requests from `clients` threads, in order; return the answers."""

    def one(fields: dict[str, Any]) -> Served:
        begin = time.perf_counter()
        answer = server.chat(**fields)
        return Served(answer, time.perf_counter() - begin)

    with ThreadPoolExecutor(clients) as pool:
        return list(pool.map(one, requests))
