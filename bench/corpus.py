"""A public corpus with known-item questions: Linux manual pages, Python's library reference and its FAQ.

The texts come from the Debian packages `manpages`, `manpages-dev` and `python3.11-doc`, downloaded with apt-get and
unpacked into the user's cache. Each document gets one question that somebody else wrote: a manual page its NAME line,
a module its synopsis, an FAQ answer its heading. The question is cut out of the document, and the title of a module
too, so that no search finds it word for word. Knows documents and questions; embeds and searches nothing.
"""

from __future__ import annotations

import gzip
import os
import random
import re
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

PACKAGES: Final = ("manpages", "manpages-dev", "python3.11-doc")

#: Documents with fewer words say too little to be found; those with more are left out unless they are asked for.
MIN_WORDS: Final = 40
MAX_WORDS: Final = 4_000


class CorpusError(Exception):
    """The packages cannot be had; the message says why."""


@dataclass(frozen=True, slots=True)
class KnownItem:
    """A document with the question that only it answers.

    :ivar file: a path that is unique in the corpus; its first folder is the kind: man, library or faq.
    """

    file: str
    text: str
    question: str

    @property
    def kind(self) -> str:
        """The part of the corpus it belongs to."""
        return self.file.partition("/")[0]


def load(per_kind: int, seed: int = 0, *, skip: int = 0, max_words: int = MAX_WORDS) -> list[KnownItem]:
    """Returns up to `per_kind` documents of each kind, drawn with `seed`, sorted by file. Raises `CorpusError`.

    :param skip: leave out the documents that `load(skip, seed)` gives: those that something was chosen on.
    :param max_words: longer documents are left out.
    """
    root = _unpacked()
    sources = root / "python3.11-doc/usr/share/doc/python3.11/html/_sources"
    items: list[KnownItem] = []
    for kind in (_man_pages(root), _library(sources / "library"), _faq(sources / "faq")):
        items += draw(list(kind), per_kind, seed, skip, max_words)
    return sorted(items, key=lambda item: item.file)


def draw(kind: Sequence[KnownItem], per_kind: int, seed: int, skip: int, max_words: int) -> list[KnownItem]:
    """Returns up to `per_kind` documents of a kind; the parameters are those of `load`."""
    skipped = {item.file for item in draw(kind, skip, seed, 0, MAX_WORDS)} if skip else set()
    found = [item for item in kind if item.file not in skipped and MIN_WORDS <= len(item.text.split()) <= max_words]
    return random.Random(seed).sample(found, min(per_kind, len(found)))


def folder() -> Path:
    """Returns the folder in the user's cache for the packages and what is made from them."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lucid-llm" / "corpus"
    root.mkdir(parents=True, exist_ok=True)
    return root


def _unpacked() -> Path:
    """Returns the folder of the unpacked packages, downloading those that are missing."""
    root = folder()
    for package in PACKAGES:
        if (root / package).is_dir():
            continue
        try:
            subprocess.run(
                ["apt-get", "download", "-qq", package], cwd=root, check=True, capture_output=True, text=True
            )
            archive = next(root.glob(f"{package}_*.deb"))
            subprocess.run(["dpkg-deb", "-x", archive, root / f"{package}.partial"], check=True, capture_output=True)
        except FileNotFoundError as error:
            raise CorpusError(
                f"{error.filename} is needed to fetch the corpus; it is part of Debian and Ubuntu"
            ) from error
        except subprocess.CalledProcessError as error:
            raise CorpusError(f"cannot fetch the Debian package {package}: {error.stderr}") from error
        (root / f"{package}.partial").rename(root / package)
        archive.unlink()
    return root


def _man_pages(root: Path) -> Iterator[KnownItem]:
    for path in sorted(root.glob("manpages*/usr/share/man/man*/*.gz")):
        if path.is_symlink():
            continue
        source = gzip.decompress(path.read_bytes()).decode("utf-8", "replace")
        match = re.search(r"^\.SH NAME\n(.*?)^(?=\.SH )", source, re.MULTILINE | re.DOTALL)
        if match is None:
            continue
        _, dash, summary = _plain_man(match[1]).replace("\n", " ").partition(" - ")
        if dash and len(summary.split()) >= 2:
            name = path.name.removesuffix(".gz")
            yield KnownItem(f"man/{name}.txt", _without(_plain_man(source[match.end() :]), summary), summary.strip())


def _plain_man(source: str) -> str:
    """The text of a manual page: requests that set type are dropped, their words kept."""
    lines = []
    for line in source.splitlines():
        if re.match(
            r"['.]\s*\\\"|\.\s*(TH|PP|P|LP|nf|fi|RS|RE|TP|TQ|EX|EE|IP|in|ti|ta|ne|sp|TS|TE|br|ad|hy|de|so)\b", line
        ):
            lines.append("" if re.match(r"\.(PP|P|LP|TP|IP)\b", line) else None)
            continue
        line = re.sub(r"^\.\s*(SH|SS)\s+(.*)", r"\n\2\n", line)
        line = re.sub(r"^\.\s*[A-Z]{1,2}\s+", "", line).replace('"', "")
        line = re.sub(r"\\f[BIRP]|\\f\(..|\\[&/,|^%]", "", line)
        line = re.sub(r"\\\(aq|\\\(cq", "'", line)
        line = (
            re.sub(r"\\\(..|\\\[..\]|\\\*\(..", "", line).replace(r"\-", "-").replace(r"\e", "\\").replace(r"\ ", " ")
        )
        lines.append(line)
    return re.sub(r"\n{3,}", "\n\n", "\n".join(line for line in lines if line is not None)).strip()


def _library(folder: Path) -> Iterator[KnownItem]:
    for path in sorted(folder.glob("*.rst.txt")):
        source = path.read_text(encoding="utf-8")
        synopsis = re.search(r"^ +:synopsis: +(.+(?:\n {6,}\S.*)*)$", source, re.MULTILINE)
        title = re.search(r"^[^\n]+\n={4,}$", source, re.MULTILINE)
        if synopsis is None or title is None:
            continue
        question = " ".join(_plain_rst(synopsis[1]).split())
        text = source.replace(synopsis[0], "").replace(title[0], "", 1)
        yield KnownItem(
            f"library/{path.name.removesuffix('.rst.txt')}.txt", _without(_plain_rst(text), question), question
        )


def _faq(folder: Path) -> Iterator[KnownItem]:
    for path in sorted(folder.glob("*.rst.txt")):
        parts = re.split(r"^([^\n]+)\n-{4,}$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
        for number, (heading, answer) in enumerate(zip(parts[1::2], parts[2::2], strict=True)):
            question = _plain_rst(heading).strip()
            if question.endswith("?"):
                name = path.name.removesuffix(".rst.txt")
                yield KnownItem(f"faq/{name}-{number:02}.txt", _without(_plain_rst(answer), question), question)


def _plain_rst(source: str) -> str:
    """The text of reStructuredText: roles lose their names, directives that only mark lose their lines."""
    text = re.sub(
        r"^\.\. (?:_|sectionauthor|moduleauthor|module|index|only|contents|highlight).*$",
        "",
        source,
        flags=re.MULTILINE,
    )
    text = re.sub(r"^ +(?:single|pair|triple|object|:noindex:|:platform:).*$", "", text, flags=re.MULTILINE)
    text = re.sub(r":[\w:+-]+:`~?([^`<]*?)\s*(?:<[^`>]*>)?`", r"\1", text)
    text = re.sub(r"^[=*~^\"-]{4,}$", "", text, flags=re.MULTILINE).replace("``", "")
    return re.sub(r"\n{3,}", "\n\n", text).strip()


def _without(text: str, question: str) -> str:
    """The text without any place where the question stands in it, whatever the case and line breaks."""
    words = [re.escape(word) for word in question.rstrip(".?").split()]
    return re.sub(r"\s+".join(words), " ", text, flags=re.IGNORECASE)


def questions_of(items: Sequence[KnownItem]) -> list[tuple[str, str]]:
    """Returns (question, file) of the items whose question no other item has."""
    count: dict[str, int] = {}
    for item in items:
        count[item.question.lower()] = count.get(item.question.lower(), 0) + 1
    return [(item.question, item.file) for item in items if count[item.question.lower()] == 1]
