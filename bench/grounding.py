"""Grounding: how often the chat model's answer contains the fact that stands in the retrieved passages.

The facts are invented (`grounding_facts.json`: small documents, four questions each), so that no model can know them.
Documents are indexed and searched as the server does; prompts are made by the server's own code; answers are greedy.
An answer counts if it contains one of the accepted spellings as whole words. Compared: wordings and places of the
passages, how many of them, and in which order; and retrieval off.

`--half a` takes every other document. The default was chosen on half a; half b had no part in that.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import server.grounding
from bench.report import end_cleanly, fail, machine, machine_line, progress, table, write_json
from engine import Engine, EngineSettings, Request, SamplingParams, Timings
from knowledge.knowledge import Knowledge
from knowledge.settings import KnowledgeSettings
from knowledge.store import Hit
from llama_native import LlamaError, Model, available_cpus
from server.config import variables
from server.prompt import Grounds, PromptBuilder
from server.schema.chat import Message
from server.template import CHATML, ChatTemplate

FACTS = Path(__file__).with_name("grounding_facts.json")
BAR_WITH = 0.70
BAR_WITHOUT = 0.05

Wording = Callable[[Grounds, str], list[Message]]


def user(template: str) -> Wording:
    """Everything in one user message."""

    def word(grounds: Grounds, question: str) -> list[Message]:
        values = {"{c}": grounds.context, "{s}": grounds.sentence, "{q}": question}
        return [Message("user", re.sub(r"\{[csq]\}", lambda match: values[match[0]], template))]

    return word


def system(template: str, question_template: str = "{q}") -> Wording:
    """The passages in the system message."""
    return lambda grounds, question: [
        Message("system", template.replace("{c}", grounds.context)),
        Message("user", question_template.replace("{q}", question)),
    ]


def turn(template: str, reply: str) -> Wording:
    """The passages in an earlier user turn, to which the assistant has replied."""
    return lambda grounds, question: [
        Message("user", template.replace("{c}", grounds.context)),
        Message("assistant", reply),
        Message("user", question),
    ]


_HELP = "Answer the question with the help of the following text."
_SYSTEM = "Answer the user's question with the help of the following text."
_EXAMPLE = (
    "The Grey Hen is an inn on the Ullen road. It has nine rooms. The landlord is Perrin Dow, who brews a beer called "
    "Black Feather. The inn is closed on Mondays."
)

WORDINGS: dict[str, Wording] = {
    "user: text, question": user("{c}\n\n{q}"),
    "user: Context: text, Question:": user("Context:\n{c}\n\nQuestion: {q}"),
    "user: Context: text, Question:, Answer:": user("Context:\n{c}\n\nQuestion: {q}\nAnswer:"),
    "user: instruction, text, question": user(f"{_HELP}\n\n{{c}}\n\nQuestion: {{q}}"),
    "user: text, instruction, question": user("{c}\n\nAnswer this question from the text above, in one sentence: {q}"),
    "user: question, text, question": user("{q}\n\n{c}\n\n{q}"),
    "user: text, quote it": user("{c}\n\nQuote the sentence of the text that answers this question: {q}"),
    "user: instruction, text twice, question": user(f"{_HELP}\n\n{{c}}\n\n{{c}}\n\nQuestion: {{q}}"),
    "user: instruction, text, sentence, question": user(f"{_HELP}\n\n{{c}}\n\n{{s}}\n\nQuestion: {{q}}"),
    "user: instruction, sentence alone, question": user(f"{_HELP}\n\n{{s}}\n\nQuestion: {{q}}"),
    "user: text twice, question": user("{c}\n\n{c}\n\n{q}"),
    "user: instruction, text, again, text, question": user(
        f"{_HELP}\n\n{{c}}\n\nRead the text again:\n\n{{c}}\n\nQuestion: {{q}}"
    ),
    "user: instruction, text three times, question": user(f"{_HELP}\n\n{{c}}\n\n{{c}}\n\n{{c}}\n\nQuestion: {{q}}"),
    "system: text": system("{c}"),
    "system: instruction, text": system(f"{_SYSTEM}\n\n{{c}}"),
    "system: instruction, text twice": system(f"{_SYSTEM}\n\n{{c}}\n\n{{c}}"),
    "earlier user turn: text": turn("Read this text:\n\n{c}", "I have read the text. What would you like to know?"),
    "earlier turns: an example": lambda grounds, question: [
        Message("user", f"{_HELP}\n\n{_EXAMPLE}\n\nQuestion: Who is the landlord of the Grey Hen?"),
        Message("assistant", "The landlord of the Grey Hen is Perrin Dow."),
        Message("user", f"{_HELP}\n\n{grounds.context}\n\nQuestion: {question}"),
    ],
}


def default_wording() -> Wording:
    """The server's own: KNOWLEDGE_PROMPT as it is when nobody sets it."""
    variable = variables()["KNOWLEDGE_PROMPT"]
    text: str = variable.kind.parse(variable.default)
    return user(text.replace("{context}", "{c}").replace("{sentence}", "{s}").replace("{query}", "{q}"))


@dataclass(frozen=True, slots=True)
class Case:
    """One row: a wording, how many passages, their order ("file", "best first", "best last")."""

    name: str
    wording: Wording | None
    top_k: int
    order: str = "file"


@dataclass(frozen=True, slots=True)
class Question:
    """A question, what answers are right, and the document that has the answer."""

    text: str
    answers: tuple[str, ...]
    file: str

    def answered_by(self, text: str) -> bool:
        """Whether `text` contains an accepted answer as whole words."""
        return any(re.search(rf"(?<!\w){re.escape(answer)}(?!\w)", text, re.IGNORECASE) for answer in self.answers)


def grounds_of(query: str, hits: Sequence[Hit], order: str) -> Grounds:
    """What the server makes of the passages, in its order or another one."""
    grounds = server.grounding.grounds(query, hits)
    if order == "file":
        return grounds
    ordered = hits[::-1] if order == "best last" else hits
    return grounds._replace(context="\n\n".join(hit.chunk.text.strip() for hit in ordered))


class Asker:
    """The chat model behind the server's prompt builder."""

    def __init__(self, path: str, threads: int, max_tokens: int) -> None:
        self._model = Model(path)
        vocab = self._model.vocab
        names = [
            "" if token is None else vocab.token_bytes(token, special=True).decode() for token in (vocab.bos, vocab.eos)
        ]
        self._engine = Engine(
            self._model,
            EngineSettings(
                parallel=8, context=4096, threads=threads, calibrate=False, max_queue=1000, queue_timeout=1e6
            ),
        )
        template = ChatTemplate(self._model.chat_template() or CHATML, *names)
        self._prompts = PromptBuilder(vocab, template, None, self._engine.context_size)
        self._max_tokens = max_tokens
        self._engine.start()

    def ask(self, chats: Sequence[list[Message]], bar: Any) -> tuple[list[str], int]:
        """Greedy answers to all chats, and how many prompt tokens they have together."""
        generations = [
            self._engine.submit(
                Request(self._prompts.chat(chat, None, Timings()), self._max_tokens, SamplingParams(temperature=0))
            )
            for chat in chats
        ]
        texts = []
        for generation in generations:
            texts.append("".join(piece.text for piece in generation))
            bar.update()
        return texts, sum(generation.prompt_tokens for generation in generations)

    def close(self) -> None:
        """Free the model."""
        self._engine.close()
        self._model.close()


def questions(half: str) -> tuple[list[dict[str, Any]], list[Question]]:
    """All documents, and the questions of one half of them or of all."""
    documents = json.loads(FACTS.read_text())
    chosen = {"a": documents[::2], "b": documents[1::2], "all": documents}[half]
    asked = [
        Question(entry["question"], tuple(entry["answers"]), document["file"])
        for document in chosen
        for entry in document["questions"]
    ]
    return documents, asked


def cases(only: str, top_k: int) -> list[Case]:
    """What to compare: all wordings with the default number of passages, then numbers and orders for the default."""
    default = default_wording()
    found = [Case("retrieval off", None, 0), Case("the default", default, top_k)]
    found += [Case(name, wording, top_k) for name, wording in WORDINGS.items()]
    found += [Case(f"the default, up to {k} passages", default, k) for k in (1, 2, 4, 8) if k != top_k]
    found += [Case(f"the default, {order}", default, top_k, order) for order in ("best first", "best last")]
    return [case for case in found if re.search(only, case.name)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Ask every question in every case; exit code 1 when the default or retrieval off misses its bar."""
    end_cleanly()
    top_k, threshold = (variables()[name].default for name in ("KNOWLEDGE_TOP_K", "KNOWLEDGE_THRESHOLD"))
    parser = argparse.ArgumentParser(prog="python -m bench.grounding", description=__doc__)
    parser.add_argument("--model", default="model/model.gguf", help="chat model (%(default)s)")
    parser.add_argument("--embedding-model", default="model/embed.gguf", help="(%(default)s)")
    parser.add_argument("--half", choices=("a", "b", "all"), default="all", help="which documents' questions (all)")
    parser.add_argument("--only", default="", metavar="REGEX", help="cases whose name it matches (all)")
    parser.add_argument("--top-k", type=int, default=int(top_k), help="passages (%(default)s)")
    parser.add_argument("--threshold", type=float, default=float(threshold), help="least cosine (%(default)s)")
    parser.add_argument("--max-tokens", type=int, default=128, help="longest answer (%(default)s)")
    parser.add_argument("--threads", type=int, default=available_cpus(), help="compute threads (all cores)")
    parser.add_argument("--json", metavar="FILE", help="write the results there, with every answer")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    options = parser.parse_args(arguments)
    documents, asked = questions(options.half)
    todo = cases(options.only, options.top_k)
    results = []
    try:
        with tempfile.TemporaryDirectory(prefix="lucid-grounding-") as folder:
            hits, first = retrieve(Path(folder), documents, asked, options, max(case.top_k for case in todo))
        asker = Asker(options.model, options.threads, options.max_tokens)
        with progress(len(todo) * len(asked), "asking", "question") as bar:
            for case in todo:
                begin = time.perf_counter()
                chats = [
                    [Message("user", question.text)]
                    if case.wording is None
                    else case.wording(grounds_of(question.text, found[: case.top_k], case.order), question.text)
                    for question, found in zip(asked, hits, strict=True)
                ]
                answers, prompt_tokens = asker.ask(chats, bar)
                right = [question.answered_by(answer) for question, answer in zip(asked, answers, strict=True)]
                results.append(
                    {
                        "name": case.name,
                        "share": sum(right) / len(right),
                        "prompt_tokens": prompt_tokens / len(asked),
                        "seconds": time.perf_counter() - begin,
                        "answers": [
                            {"question": question.text, "answer": answer, "right": ok}
                            for question, answer, ok in zip(asked, answers, right, strict=True)
                        ],
                    }
                )
        asker.close()
    except LlamaError as error:
        fail(str(error))
    print(machine_line(machine()))
    print(
        f"{options.model}, {len(asked)} questions, greedy, up to {options.max_tokens} tokens; "
        f"the right document is the first passage's for {first:.0%}"
    )
    rows = [[result["name"], f"{result['share']:.1%}", result["prompt_tokens"]] for result in results]
    print(table(("case", "answers with the fact", "prompt tokens"), rows, options.markdown))
    if options.json:
        write_json(options.json, "bench.grounding", vars(options), results)
    shares = {str(result["name"]): float(str(result["share"])) for result in results}
    met = shares.get("the default", 1.0) >= BAR_WITH and shares.get("retrieval off", 0.0) < BAR_WITHOUT
    print(f"bars: >= {BAR_WITH:.0%} with retrieval, < {BAR_WITHOUT:.0%} without: {'pass' if met else 'FAIL'}")
    return int(not met)


def retrieve(
    folder: Path, documents: list[dict[str, Any]], asked: Sequence[Question], options: argparse.Namespace, top_k: int
) -> tuple[list[list[Hit]], float]:
    """The passages for each question, best first, and the share of questions whose first passage is the right one."""
    for document in documents:
        path = folder / "data" / document["file"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(document["text"])
    settings = KnowledgeSettings(
        data_path=folder / "data",
        embedding_model=Path(options.embedding_model),
        url=str(folder / "store.sqlite"),
        threshold=options.threshold,
        top_k=max(1, top_k),
        threads=options.threads,
    )
    with Knowledge(settings) as knowledge:
        knowledge.index()
        hits = [list(knowledge.search(question.text, merge=False).hits) for question in asked]
    first = [bool(found) and found[0].file == question.file for question, found in zip(asked, hits, strict=True)]
    return hits, sum(first) / len(first)


if __name__ == "__main__":
    sys.exit(main())
