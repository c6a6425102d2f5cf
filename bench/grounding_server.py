"""The questions of `bench.grounding` to a server of ours over HTTP, with nothing set that is not said: what ships.

Knows the server's routes and how it is started; which answers are right is not its business.
"""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from bench.processes import ServerFailedError
from bench.servers import Common, ours
from server.config import variables

#: Requests at once.
SLOTS: Final = 8
#: Seconds that indexing some small documents may take.
_INDEXING: Final = 300.0


@dataclass(frozen=True, slots=True)
class Reply:
    """What a chat gave: its text, the tokens of its prompt, and the files cited, best first."""

    text: str
    prompt_tokens: int
    cited: tuple[str, ...]


class GroundedServer:
    """A server that has indexed the documents of a folder; a context manager that stops it.

    :param environment: further configuration variables.
    :raises ServerFailedError: it does not start, or does not get ready.
    """

    def __init__(self, model: str, threads: int, folder: Path, environment: dict[str, str]) -> None:
        documents = {
            "DATA_PATH": str(folder / "data"),
            "KNOWLEDGE_URL": str(folder / "server.sqlite"),
            "KNOWLEDGE_MODE": variables()["KNOWLEDGE_MODE"].default,
        }
        self._process = ours(Common(model, threads, SLOTS, 4096), documents | environment).start()
        try:
            self._process.wait_ready()
            self._wait_indexed(sum(path.is_file() for path in (folder / "data").rglob("*")))
        except BaseException:
            self._process.stop()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.stop()

    def ask(self, questions: Sequence[str], grounded: bool, max_tokens: int, bar: Any) -> list[Reply]:
        """Greedy answers to all questions, with the documents or without."""

        def one(question: str) -> Reply:
            body = {
                "messages": [{"role": "user", "content": question}],
                "temperature": 0,
                "max_tokens": max_tokens,
                "knowledge": grounded,
            }
            answer = self._request("POST", "/v1/chat/completions", body)
            bar.update()
            cited = tuple(citation["file"] for citation in answer.get("citations") or ())
            return Reply(answer["choices"][0]["message"]["content"], answer["usage"]["prompt_tokens"], cited)

        with ThreadPoolExecutor(SLOTS) as pool:
            return list(pool.map(one, questions))

    def _wait_indexed(self, files: int) -> None:
        deadline = time.monotonic() + _INDEXING
        while time.monotonic() < deadline:
            known = self._request("GET", "/v1/knowledge")
            if known["files"] == files and known["indexing"]["state"] == "idle":
                return
            time.sleep(0.2)
        raise ServerFailedError(f"the documents were not indexed in {_INDEXING:g} s:\n{self._process.log_tail()}")

    def _request(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self._process.port, timeout=600)
        try:
            data = None if body is None else json.dumps(body)
            connection.request(method, path, data, {"Content-Type": "application/json"})
            response = connection.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise ServerFailedError(f"{path}: {error}:\n{self._process.log_tail()}") from error
        finally:
            connection.close()
        if response.status != 200:
            raise ServerFailedError(f"{path} answered {response.status}: {content.decode(errors='replace')[:500]}")
        found: dict[str, Any] = json.loads(content)
        return found
