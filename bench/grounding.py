"""Grounding: how often the chat model's answer contains the fact that stands in the retrieved passages.

The facts are invented (`grounding_facts.json`: small documents, four questions each), so that no model can know them.
Answers are greedy; one counts if it contains one of the accepted spellings as whole words. The default, and retrieval
off, are what a server answers over HTTP. Compared with it, in this process with the server's prompt builder: wordings
and places of the passages, how many of them, and in which order.

`--half a` takes every other document. The default was chosen on half a; half b had no part in that. With
`--right-document`, as then, no search is involved: the only passage is the document that has the answer.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import server.grounding
from bench.grounding_server import GroundedServer
from bench.processes import ServerFailedError
from bench.report import end_cleanly, fail, machine, machine_line, progress, say, table, write_json
from engine import Engine, EngineSettings, Request, SamplingParams, Timings
from knowledge.knowledge import Knowledge
from knowledge.settings import KnowledgeSettings
from knowledge.store import Chunk, Hit
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
    wording: Wording
    top_k: int
    order: str = "file"


#: What the server is asked for; `True`: with documents.
SERVED: dict[str, bool] = {"retrieval off": False, "the default": True}


@dataclass(frozen=True, slots=True)
class Result:
    """A row: the answers in the order of the questions, which are right, and the prompts' mean length."""

    name: str
    answers: list[str]
    right: list[bool]
    prompt_tokens: float

    @property
    def share(self) -> float:
        """The share of right answers."""
        return sum(self.right) / len(self.right)


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
    """What to compare: all wordings with the default number of passages, then numbers and orders for the default's."""
    default = default_wording()
    found = [Case("the default's wording", default, top_k)]
    found += [Case(name, wording, top_k) for name, wording in WORDINGS.items()]
    found += [Case(f"the default's wording, up to {k} passages", default, k) for k in (1, 2, 4, 8) if k != top_k]
    found += [Case(f"the default's wording, {order}", default, top_k, order) for order in ("best first", "best last")]
    return [case for case in found if re.search(only, case.name)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Ask every question in every case; exit code 1 when what the server answers misses a bar."""
    end_cleanly()
    top_k, threshold = (variables()[name].default for name in ("KNOWLEDGE_TOP_K", "KNOWLEDGE_THRESHOLD"))
    parser = argparse.ArgumentParser(prog="python -m bench.grounding", description=__doc__)
    parser.add_argument("--model", default="model/model.gguf", help="chat model (%(default)s)")
    parser.add_argument("--embedding-model", default="model/embed.gguf", help="(%(default)s)")
    parser.add_argument("--half", choices=("a", "b", "all"), default="all", help="which documents' questions (all)")
    parser.add_argument("--only", default="", metavar="REGEX", help="cases whose name it matches (all)")
    parser.add_argument("--top-k", type=int, default=int(top_k), help="passages (%(default)s)")
    parser.add_argument("--threshold", type=float, default=float(threshold), help="least similarity (%(default)s)")
    parser.add_argument("--questions", type=int, metavar="N", help="the first N questions only (all)")
    parser.add_argument("--right-document", action="store_true", help="no search: the right document, and no server")
    parser.add_argument("--max-tokens", type=int, default=128, help="longest answer (%(default)s)")
    parser.add_argument("--threads", type=int, default=available_cpus(), help="compute threads (all cores)")
    parser.add_argument("--json", metavar="FILE", help="write the results there, with every answer")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    options = parser.parse_args(arguments)
    documents, asked = questions(options.half)
    if options.questions is not None and options.questions < 1:
        fail("--questions must be at least 1")
    asked = asked[: options.questions]
    try:
        with tempfile.TemporaryDirectory(prefix="lucid-grounding-") as name:
            folder = Path(name)
            write(folder, documents)
            served = [] if options.right_document else serve(folder, asked, options)
            results = served + compare(folder, documents, asked, options)
    except (LlamaError, ServerFailedError) as error:
        fail(str(error))
    print(machine_line(machine()))
    print(f"{options.model}, {len(asked)} questions, greedy, up to {options.max_tokens} tokens")
    rows = [[result.name, f"{result.share:.1%}", result.prompt_tokens] for result in results]
    print(table(("case", "answers with the fact", "prompt tokens"), rows, options.markdown))
    if options.json:
        found = [{"share": result.share, "questions": [q.text for q in asked], **asdict(result)} for result in results]
        write_json(options.json, "bench.grounding", vars(options), found)
    shares = {result.name: result.share for result in served}
    met = shares.get("the default", 1.0) >= BAR_WITH and shares.get("retrieval off", 0.0) < BAR_WITHOUT
    if served:
        print(f"bars: >= {BAR_WITH:.0%} with retrieval, < {BAR_WITHOUT:.0%} without: {'pass' if met else 'FAIL'}")
    return int(not met)


def write(folder: Path, documents: Sequence[dict[str, Any]]) -> None:
    """The documents below `folder`/data."""
    for document in documents:
        path = folder / "data" / document["file"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(document["text"])


def serve(folder: Path, asked: Sequence[Question], options: argparse.Namespace) -> list[Result]:
    """What a server of ours answers, with retrieval and without."""
    todo = {name: grounded for name, grounded in SERVED.items() if re.search(options.only, name)}
    if not todo:
        return []
    environment = {
        "EMBEDDING_MODEL": options.embedding_model,
        "KNOWLEDGE_TOP_K": str(options.top_k),
        "KNOWLEDGE_THRESHOLD": str(options.threshold),
    }
    results = []
    with (
        GroundedServer(options.model, options.threads, folder, environment) as running,
        progress(len(todo) * len(asked), "asking a server", "question") as bar,
    ):
        for name, grounded in todo.items():
            replies = running.ask([question.text for question in asked], grounded, options.max_tokens, bar)
            right = [question.answered_by(reply.text) for question, reply in zip(asked, replies, strict=True)]
            tokens = sum(reply.prompt_tokens for reply in replies) / len(replies)
            results.append(Result(name, [reply.text for reply in replies], right, tokens))
            if grounded:
                first = [reply.cited[:1] == (question.file,) for question, reply in zip(asked, replies, strict=True)]
                say(f"the right document is cited first for {sum(first) / len(first):.0%}")
    return results


def compare(
    folder: Path, documents: Sequence[dict[str, Any]], asked: Sequence[Question], options: argparse.Namespace
) -> list[Result]:
    """What the model answers to prompts of other wordings, numbers and orders of passages."""
    todo = cases(options.only, options.top_k)
    if not todo:
        return []
    if options.right_document:
        texts = {document["file"]: document["text"] for document in documents}
        whole = {file: Chunk(0, 0, len(text), 0, text) for file, text in texts.items()}
        hits = [[Hit(question.file, whole[question.file], 1.0)] for question in asked]
    else:
        hits = retrieve(folder, asked, options, max(case.top_k for case in todo))
    results = []
    asker = Asker(options.model, options.threads, options.max_tokens)
    with progress(len(todo) * len(asked), "asking", "question") as bar:
        for case in todo:
            chats = [
                case.wording(grounds_of(question.text, found[: case.top_k], case.order), question.text)
                for question, found in zip(asked, hits, strict=True)
            ]
            answers, prompt_tokens = asker.ask(chats, bar)
            right = [question.answered_by(answer) for question, answer in zip(asked, answers, strict=True)]
            results.append(Result(case.name, answers, right, prompt_tokens / len(asked)))
    asker.close()
    return results


def retrieve(folder: Path, asked: Sequence[Question], options: argparse.Namespace, top_k: int) -> list[list[Hit]]:
    """The passages for each question, best first, each a chunk of its own so that their number can be varied."""
    settings = KnowledgeSettings(
        data_path=folder / "data",
        embedding_model=Path(options.embedding_model),
        url=str(folder / "store.sqlite"),
        threshold=options.threshold,
        top_k=top_k,
        threads=options.threads,
    )
    with Knowledge(settings) as knowledge:
        knowledge.index()
        return [list(knowledge.search(question.text, merge=False).hits) for question in asked]


if __name__ == "__main__":
    sys.exit(main())
