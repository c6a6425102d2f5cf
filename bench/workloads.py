"""The four workloads: what the clients ask, made from a seed and therefore the same for every server.

A workload is a list of conversations, a conversation a list of user messages; the client adds the answers in between.
`chat`: about 12 words, one turn. `unique`: 300 words (about 350 tokens with the template), one turn, no two prompts
share their first word. `rag`: the same 450 words of context in front of a different question of about 12 words.
`multi-turn`: 45 words, then 15 words a turn. This module knows nothing of HTTP, tokens or servers.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from bench.vocabulary import ADJECTIVES, NOUNS, OPENERS, PLACES, TIMES, VERBS

NAMES: tuple[str, ...] = ("chat", "unique", "rag", "multi-turn")
UNIQUE_WORDS = 300
CONTEXT_WORDS = 450
FIRST_TURN_WORDS = 45
NEXT_TURN_WORDS = 15
TURNS = 4


@dataclass(frozen=True, slots=True)
class Conversation:
    """User messages in their order; each is sent once the answer to the one before is complete."""

    turns: tuple[str, ...]


def _sentence(random: Random) -> str:
    subject, thing = random.sample(NOUNS, 2)
    first, second = random.sample(ADJECTIVES, 2)
    return (
        f"The {first} {subject} {random.choice(VERBS)} the {second} {thing} "
        f"{random.choice(PLACES)} {random.choice(TIMES)}."
    )


def _text(random: Random, words: int) -> str:
    """Whole sentences up to exactly `words` words (the last sentence is cut and closed with a full stop)."""
    collected: list[str] = []
    while len(collected) < words:
        collected.extend(_sentence(random).split())
    return " ".join(collected[:words]).rstrip(".") + "."


def _question(random: Random) -> str:
    subject, thing = random.sample(NOUNS, 2)
    first, second = random.sample(ADJECTIVES, 2)
    forms = (
        f"Why did the {first} {subject} need the {second} {thing} {random.choice(TIMES)}?",
        f"What does a {first} {subject} have in common with a {second} {thing}?",
        f"How would you explain the {first} {subject} to a {second} {thing}?",
        f"Describe the {first} {subject} and the {second} {thing} {random.choice(PLACES)}.",
    )
    return random.choice(forms)


def _opening(order: list[str], index: int) -> str:
    """A beginning no other prompt has: its first word differs, after `len(order)` prompts its second."""
    first = order[index % len(order)]
    round_ = index // len(order)
    return f"{first} {order[(index + 1 + round_) % len(order)].lower()}."


def build(name: str, requests: int, seed: str = "0") -> list[Conversation]:
    """Conversations with `requests` user messages together (for `multi-turn`: rounded up to whole conversations).

    The same arguments give the same texts in every process. Raises ValueError for an unknown name or `requests` < 1.
    """
    if name not in NAMES:
        raise ValueError(f"unknown workload {name!r}; known: {', '.join(NAMES)}")
    if requests < 1:
        raise ValueError(f"requests must be at least 1, got {requests}")
    order = list(OPENERS)
    Random(f"{seed}/order").shuffle(order)
    if name == "multi-turn":
        return [_multi_turn(order, index, seed) for index in range(-(-requests // TURNS))]
    context = _text(Random(f"{seed}/context"), CONTEXT_WORDS)
    conversations = []
    for index in range(requests):
        random = Random(f"{seed}/{name}/{index}")
        if name == "chat":
            message = _question(random)
        elif name == "rag":
            message = f"{context}\n\nUse the text above. {_question(random)}"
        else:
            opening = _opening(order, index)
            message = f"{opening} {_text(random, UNIQUE_WORDS - len(opening.split()))}"
        conversations.append(Conversation((message,)))
    return conversations


def passage(words: int, seed: str) -> str:
    """A text of exactly `words` words; texts of other seeds differ from their first sentence on."""
    return _text(Random(f"{seed}/passage"), words)


def _multi_turn(order: list[str], index: int, seed: str) -> Conversation:
    random = Random(f"{seed}/multi-turn/{index}")
    opening = _opening(order, index)
    first = f"{opening} {_text(random, FIRST_TURN_WORDS - len(opening.split()))}"
    return Conversation((first, *(_text(random, NEXT_TURN_WORDS) for _ in range(TURNS - 1))))
