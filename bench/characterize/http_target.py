"""The target as an OpenAI-compatible server: what is asked of it goes over HTTP, from one client process.

Knows `bench.client`'s load generator and how many words make a prompt of so many tokens; which server it is does not
matter. Phases are taken from the response's `timings.phases` where the server sends them.
"""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Sequence
from typing import Any

from bench.characterize.document import Asked, Load
from bench.characterize.energy import EnergyMeter
from bench.characterize.target import Pace, Prompt, TargetFailedError
from bench.client import Endpoint, LoadGenerator
from bench.http import body
from bench.recording import Answer
from bench.workloads import Conversation, passage

#: Words of the two prompts that show how many tokens a word is.
_FEW, _MANY = 20, 160

#: Tokens of a word where the server counts none for us.
_USUAL_TOKENS = 1.3


class HttpTarget:
    """A server to ask. Asks it twice on creation: to warm it up, and to learn its tokens per word and its speed.

    Raises ValueError for a bad URL, TargetFailedError when the server does not answer as it should.
    """

    def __init__(
        self,
        url: str,
        *,
        name: str | None,
        api_key: str | None,
        ignore_eos: bool,
        timeout: float,
        salt: str,
        gpu_energy: bool = False,
    ) -> None:
        self.url = url.rstrip("/").removesuffix("/v1")
        self._headers = (("Authorization", f"Bearer {api_key}"),) if api_key else ()
        Endpoint(self.url, {})  # a bad URL is told before anything is asked
        self.name = name or self._first_model()
        self._ignore_eos = ignore_eos
        self._timeout = timeout
        self._meter = EnergyMeter(gpus=gpu_energy) if self.local else None
        self._tokens_per_word, self._overhead = _USUAL_TOKENS, 0.0
        few, many = (self._probe(words, f"{salt}/probe") for words in (_FEW, _MANY))
        self.has_usage = bool(many.prompt_tokens)
        if self.has_usage:
            self._tokens_per_word = max(0.1, (many.prompt_tokens - few.prompt_tokens) / (_MANY - _FEW))
            self._overhead = few.prompt_tokens - _FEW * self._tokens_per_word
        self.has_phases = bool(many.phases)
        tokens = (many.prompt_tokens - many.cached_tokens) or _MANY * _USUAL_TOKENS
        gaps = sum(many.gaps) / len(many.gaps) if many.gaps else many.total - (many.ttft or 0)
        self.pace = Pace(prefill=tokens / max(many.ttft or many.total, 1e-3), decode=1 / max(gaps, 1e-4))

    @property
    def local(self) -> bool:
        """Whether the server runs on this machine, so that what we know of the machine is true of it."""
        return Endpoint(self.url, {}).address[0] in ("127.0.0.1", "localhost", "::1")

    def ask(self, prompts: Sequence[Prompt], clients: int, answer: int) -> Load:
        """Ask for each prompt, `clients` at a time, `answer` tokens each."""
        texts = [Conversation((passage(self._words(prompt.tokens), prompt.seed),)) for prompt in prompts]
        if self._meter:
            self._meter.start()
        run = LoadGenerator(self._endpoint(answer), texts, clients).run()
        joules = self._meter.joules() if self._meter else None
        return Load(wall=run.wall, joules=joules, asked=[_asked(answered) for answered in run.answers])

    def describe(self) -> dict[str, Any]:
        """The plan in GET /v1/engine, which our server has; empty where there is none."""
        plan = self._told("/v1/engine").get("plan")
        return plan if isinstance(plan, dict) else {}

    def identify(self) -> dict[str, str]:
        """What /v1/models and /v1/engine say of the model, without what differs from answer to answer (`created`)."""
        listed = self._told("/v1/models").get("data")
        entries = [one for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []
        entry = next((one for one in entries if one.get("id") == self.name), {})
        engine = self._told("/v1/engine")
        told = {name: entry[name] for name in ("id", "owned_by", "root", "meta") if name in entry}
        told |= {name: engine[name] for name in ("file", "description") if name in engine}
        return {f"served model's {name.replace('_', ' ')}": str(value) for name, value in told.items()}

    def close(self) -> None:
        """Nothing to give back."""

    def _words(self, tokens: int) -> int:
        return max(1, round((tokens - self._overhead) / self._tokens_per_word))

    def _endpoint(self, answer: int) -> Endpoint:
        return Endpoint(self.url, body(self.name, answer, self._ignore_eos), self._headers, self._timeout)

    def _probe(self, words: int, seed: str) -> Asked:
        run = LoadGenerator(self._endpoint(16), [Conversation((passage(words, f"{seed}/{words}"),))], 1).run()
        asked = _asked(run.answers[0])
        if asked.error:
            hint = "" if not self._ignore_eos else "; if it refuses ignore_eos, add --no-ignore-eos"
            raise TargetFailedError(f"{self.url} does not answer: {asked.error}{hint}")
        return asked

    def _first_model(self) -> str:
        listed = self._get("/v1/models")
        try:
            return str(listed["data"][0]["id"])
        except (KeyError, IndexError, TypeError):
            raise TargetFailedError(f"{self.url}/v1/models lists no model; name one with --name") from None

    def _told(self, path: str) -> dict[str, Any]:
        """The JSON object at `path`; empty where there is none."""
        try:
            found = self._get(path)
        except TargetFailedError:
            return {}
        return found if isinstance(found, dict) else {}

    def _get(self, path: str) -> Any:
        request = urllib.request.Request(self.url + path, headers=dict(self._headers))
        try:
            with urllib.request.urlopen(request, timeout=10) as response:
                return json.load(response)
        except (OSError, ValueError) as error:
            raise TargetFailedError(f"GET {self.url}{path} failed: {error}") from error


def _asked(answer: Answer) -> Asked:
    return Asked(
        ttft=answer.ttft,
        total=answer.ended - answer.started,
        prompt_tokens=answer.prompt_tokens,
        cached_tokens=answer.cached_tokens,
        completion_tokens=answer.completion_tokens,
        gaps=[round(gap, 6) for gap in answer.gaps],
        phases=answer.phases,
        error=answer.error,
    )
