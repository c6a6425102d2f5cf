"""The one sentence of some passages that a question is most likely about.

Small models read a passage better when that sentence stands right before the question (`bench.grounding`). It is
found by words, which costs nothing: a text tends to name its subject once, in its heading or first sentence, and the
sentence looked for has the other words of the question. Knows texts and words; needs no model.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from knowledge.words import words

#: Behind the end of a sentence, or an empty line.
_END = re.compile(r"(?<=[.!?。！？])\s+|\n\s*\n")
_SUFFIX = re.compile(r"(ing|ed|es|e|s)$")


def best_sentence(query: str, passages: Sequence[str]) -> str:
    """Returns the sentence of `passages` that has most of the query's words; "" if there are no passages.

    Words of a passage's first sentence or heading do not count in it, unless the query has no others: then it asks for
    that subject itself. Of equals the first one is returned; a heading only where nothing follows it.

    :param passages: best first.
    """
    wanted = _stems(query)
    best, most = "", -1.0
    for passage in passages:
        sentences = [sentence.strip() for sentence in _END.split(passage) if sentence.strip()]
        if not sentences:
            continue
        rest = wanted - _stems(sentences[0]) or wanted
        for sentence in sentences[_is_heading(sentences[0]) and len(sentences) > 1 :]:
            share = len(rest & _stems(sentence)) / max(1, len(rest))
            if share > most:
                best, most = sentence, share
    return best


def _is_heading(sentence: str) -> bool:
    return sentence[-1] not in ".!?。！？"


def _stems(text: str) -> set[str]:
    return {_SUFFIX.sub("", word) if len(word) > 3 else word for word in words(text)}
