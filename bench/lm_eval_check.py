"""lm-evaluation-harness against our server, and the same scores computed directly with llama_native.

lm-eval's own local-completions client asks POST /v1/completions for the log-likelihood of each choice of a small local
multiple-choice task (bench/lm_eval_task/). What it gets is compared, request by request, with one llama_decode of the
same tokens in this process. Scores must be equal, log-likelihoods up to rounding. Needs `pip install -e .[lm-eval]`;
downloads nothing.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.report import end_cleanly, fail, machine, machine_line, progress, table, write_json
from bench.servers import Common, ours
from llama_native import Batch, Context, ContextParams, FlashAttention, Model, available_cpus

TASK = Path(__file__).resolve().parent / "lm_eval_task"

#: Largest difference of a log-likelihood (a sum over its tokens, natural) that rounding explains.
TOLERANCE = 0.01


@dataclass(frozen=True, slots=True)
class Scored:
    """One log-likelihood request: tokens of context and continuation, and lm-eval's result from the server."""

    context: tuple[int, ...]
    continuation: tuple[int, ...]
    logprob: float
    greedy: bool


def evaluate(model: Model, url: str, batch_size: int) -> tuple[dict[str, float], list[Scored]]:
    """Run the task through lm-eval against the server at `url`: its metrics, and every request it made."""
    os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TOKENIZERS_PARALLELISM="false")
    import yaml
    from lm_eval import simple_evaluate
    from lm_eval.models.openai_completions import LocalCompletionsAPI

    made: list[Scored] = []

    class Client(LocalCompletionsAPI):  # type: ignore[misc]
        """lm-eval's client, with the tokenizer of the GGUF file in place of one from the Hugging Face hub."""

        def __init__(self) -> None:
            super().__init__(
                base_url=f"{url}/v1/completions",
                model="rusty_llm",
                tokenizer_backend=None,
                batch_size=batch_size,
                num_concurrent=1,
            )
            self.tokenizer = model.vocab
            self.tokenized_requests = True

        def tok_encode(self, string: Any, *_: Any, **__: Any) -> Any:
            if isinstance(string, str):
                return model.vocab.tokenize(string, parse_special=True).tolist()
            return [self.tok_encode(item) for item in string]

        def _loglikelihood_tokens(self, requests: Any, **options: Any) -> Any:
            results = super()._loglikelihood_tokens(requests, **options)
            for (_, context, continuation), (logprob, greedy) in zip(requests, results, strict=True):
                made.append(Scored(tuple(context), tuple(continuation), logprob, greedy))
            return results

    task = yaml.safe_load((TASK / "facts.yaml").read_text())
    task["dataset_kwargs"] = {"data_files": {"test": str(TASK / "facts.jsonl")}}
    found = simple_evaluate(model=Client(), tasks=[task], num_fewshot=0, bootstrap_iters=0, cache_requests=False)
    metrics = found["results"][task["task"]]
    return {name: float(metrics[f"{name},none"]) for name in ("acc", "acc_norm")}, made


def direct(model: Model, scored: Sequence[Scored], threads: int, flash_attention: bool) -> list[tuple[float, bool]]:
    """(log-likelihood, greedy) of each request by one decode of llama_native."""
    longest = max(len(item.context) + len(item.continuation) for item in scored)
    flash = FlashAttention.ON if flash_attention else FlashAttention.OFF
    params = ContextParams(n_ctx=longest, n_batch=longest, n_threads=threads, flash_attention=flash)
    results = []
    with Context(model, params) as context, progress(len(scored), "direct computation", "request") as bar:
        batch = Batch(longest)
        for item in scored:
            tokens = item.context + item.continuation
            context.memory.clear(data=False)
            batch.clear()
            for position, token in enumerate(tokens[:-1]):
                batch.add(token, position, 0, output=position >= len(item.context) - 1)
            context.decode(batch)
            total, greedy = 0.0, True
            for place, token in enumerate(item.continuation):
                row = context.logits(len(item.context) - 1 + place).astype(np.float64)
                total += float(row[token] - np.logaddexp.reduce(row))
                greedy = greedy and int(row.argmax()) == token
            results.append((total, greedy))
            bar.update()
    return results


def accuracy(scored: Sequence[Scored], results: Sequence[tuple[float, bool]]) -> dict[str, float]:
    """Acc and acc_norm (likelihood by the characters of a choice) as lm-eval defines them, in order of documents."""
    documents = [json.loads(line) for line in (TASK / "facts.jsonl").read_text().splitlines()]
    right = right_normed = place = 0
    for document in documents:
        choices = document["choices"]
        values = np.array([logprob for logprob, _ in results[place : place + len(choices)]])
        place += len(choices)
        right += int(values.argmax()) == document["answer"]
        right_normed += int((values / [len(choice) for choice in choices]).argmax()) == document["answer"]
    if place != len(scored):
        raise RuntimeError(f"lm-eval made {len(scored)} requests, the task has {place} choices")
    return {"acc": right / len(documents), "acc_norm": right_normed / len(documents)}


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.lm_eval_check", description=__doc__)
    parser.add_argument("--model", default="model/model.gguf", help="GGUF file (%(default)s)")
    parser.add_argument("--threads", type=int, default=available_cpus(), help="compute threads (all cores)")
    parser.add_argument("--batch-size", type=int, default=4, help="prompts in one request (%(default)s)")
    parser.add_argument("--flash-attention", choices=("on", "off"), default="off", help="for both sides (%(default)s)")
    parser.add_argument("--json", metavar="FILE", help="write the results there")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Score both ways; exit code 1 if scores differ, or a log-likelihood by more than rounding explains."""
    end_cleanly()
    options = parse_arguments(arguments)
    if importlib.util.find_spec("lm_eval") is None:
        fail("lm-eval is not installed; run: pip install -e '.[lm-eval]'")
    common = Common(options.model, options.threads, 4, 512)
    variables = {"MODEL_CALIBRATE": "off", "MODEL_FLASH_ATTENTION": options.flash_attention}
    with Model(options.model) as model:
        with ours(common, variables).start() as server:
            server.wait_ready()
            theirs, scored = evaluate(model, server.url, options.batch_size)
        results = direct(model, scored, options.threads, options.flash_attention == "on")
    expected = accuracy(scored, results)
    differences = [abs(item.logprob - logprob) for item, (logprob, _) in zip(scored, results, strict=True)]
    greedy = sum(item.greedy == greedy for item, (_, greedy) in zip(scored, results, strict=True))
    print(machine_line(machine()))
    print(f"{options.model}, {len(scored)} log-likelihoods, {options.batch_size} in a request")
    rows: list[list[object]] = [
        [name, theirs[name], expected[name], "pass" if theirs[name] == expected[name] else "FAIL"] for name in theirs
    ]
    rows.append(["sum of log-likelihoods", sum(s.logprob for s in scored), sum(r for r, _ in results), ""])
    rows.append(["largest difference", max(differences), 0.0, "pass" if max(differences) <= TOLERANCE else "FAIL"])
    rows.append(["the same is_greedy", greedy, len(scored), "pass" if greedy == len(scored) else "FAIL"])
    print(table(("", "lm-eval, our server", "llama_native", ""), rows, options.markdown))
    if options.json:
        write_json(options.json, "bench.lm_eval_check", vars(options), {"lm_eval": theirs, "direct": expected})
    return int(any(row[-1] == "FAIL" for row in rows))


if __name__ == "__main__":
    sys.exit(main())
