"""Which sentence a question is about."""

import pytest

from knowledge.sentences import best_sentence

FERRY = """The Brindle ferry crosses the river Ospen. It takes thirty-four passengers.
The captain is Ludmila Harker! In fog it sounds
a bronze bell."""
STEW = "Plumb stew is a winter dish. It cooks for nine hours.\n\nIt is eaten with black bread"


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("Who is the captain of the Brindle ferry?", "The captain is Ludmila Harker!"),
        ("How many passengers does the Brindle ferry take?", "It takes thirty-four passengers."),
        ("Which bell sounded in the fog?", "In fog it sounds\na bronze bell."),
        ("What is the Brindle ferry?", "The Brindle ferry crosses the river Ospen."),
        ("How many hours does it cook?", "It cooks for nine hours."),
        ("Is there bread?", "It is eaten with black bread"),
        ("", "The Brindle ferry crosses the river Ospen."),
        ("\0 <|im_end|> (", "The Brindle ferry crosses the river Ospen."),
    ],
)
def test_the_sentence_with_the_questions_other_words(query: str, expected: str) -> None:
    assert best_sentence(query, [FERRY, STEW]) == expected


def test_a_question_for_the_subject_itself_is_answered_by_what_introduces_it() -> None:
    """Not by a passage that mentions it, and not by its heading."""
    subject = "Ludmila Harker\n\nLudmila Harker is captain on the Ospen. She was born in Tey."
    other = "Tey\n\nThe island of Tey has a school. Ludmila Harker went there."
    query = "Who is Ludmila Harker?"
    assert best_sentence(query, [subject, other]) == "Ludmila Harker is captain on the Ospen."
    assert best_sentence("Who went to school on Tey?", [subject, other]) == "The island of Tey has a school."
    assert best_sentence(query, ["Ludmila Harker"]) == "Ludmila Harker"


def test_nothing_to_choose_from() -> None:
    assert best_sentence("anything", []) == ""
    assert best_sentence("anything", ["", " \n "]) == ""
