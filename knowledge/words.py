"""The words of a search query, for stores that search by word.

Stop words of English are left out where other words are left: with them a natural question matches nearly every chunk,
which costs time and adds nothing to the order. Knows words; the stores know how to search for them.
"""

from __future__ import annotations

import re

#: More words than this make a query slow and no better.
MAX_WORDS = 64

_STOP_WORDS = frozenset(
    """
    a about after all am an and any are as at be because been before being but by can could did do does doing for
    from had has have having he her hers him his how i if in into is it its me more most my no nor not of on or
    our ours out over own same she should so some such than that the their theirs them then there these they this
    those through to too under until up very was we were what when where which while who whom why will with would
    you your yours
    """.split()  # noqa: SIM905 - a list of 100 strings reads worse
)


def words(query: str) -> list[str]:
    """Returns the different words of a query in lower case, without stop words unless there are no others."""
    found = list(dict.fromkeys(re.findall(r"\w+", query.lower())))
    return ([word for word in found if word not in _STOP_WORDS] or found)[:MAX_WORDS]
