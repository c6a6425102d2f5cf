"""The words benchmark prompts are made of.

Plain English in the small: common words only, so that most are one token in any vocabulary. Every word in `OPENERS`
begins with a different token in the demo model's vocabulary once capitalised (words that would share one with another
are left out), which lets two prompts differ from their first token on.
"""


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


NOUNS: tuple[str, ...] = _words(
    "bridge river garden letter machine teacher doctor captain market village window engine kitchen library "
    "mountain island forest harbor station museum picture journal theater factory school farmer sailor painter "
    "writer baker winter summer morning evening lesson question answer story secret promise journey army castle "
    "temple tower valley desert ocean storm thunder fire shadow mirror candle clock bottle basket blanket hammer "
    "ladder wheel wagon horse tiger eagle rabbit turtle dragon spider flower apple orange lemon potato butter "
    "sugar coffee dinner"
)
ADJECTIVES: tuple[str, ...] = _words(
    "old new small large quiet loud bright dark warm cold early late strong weak simple strange famous hidden "
    "broken golden silver wooden heavy light narrow wide gentle clever honest careful rapid steady modern ancient "
    "empty full green blue yellow white"
)
VERBS: tuple[str, ...] = _words(
    "carried found repaired painted followed answered described visited measured protected replaced remembered "
    "noticed collected delivered examined improved opened closed watched"
)
PLACES: tuple[str, ...] = (
    "near the bridge",
    "behind the market",
    "in the library",
    "across the river",
    "on the island",
    "at the station",
    "below the tower",
    "inside the factory",
    "along the coast",
    "under the old roof",
)
TIMES: tuple[str, ...] = (
    "in spring",
    "before dinner",
    "after the storm",
    "during the war",
    "last winter",
    "every morning",
    "for three years",
    "without any help",
    "at the end of the day",
    "twice a week",
)
_SAME_FIRST_TOKEN = frozenset(
    _words("baker basket bright museum mirror tiger strange lemon loud warm wide hidden dinner famous")
)
OPENERS: tuple[str, ...] = tuple(word.capitalize() for word in NOUNS + ADJECTIVES if word not in _SAME_FIRST_TOKEN)
