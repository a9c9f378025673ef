"""What counts as the same question, and what as an overlap."""

import pytest

from cipo_jax.data.decontaminate import Match, find_duplicates, find_overlap, normalise

QUESTION = "Natalia sold clips to 48 of her friends in April, and then half as many in May."


@pytest.mark.parametrize(
    "same",
    [
        QUESTION.upper(),
        QUESTION.replace(" ", "\n  "),
        QUESTION.replace("48", "$48$"),
        QUESTION.replace("48", "４８"),  # full-width digits
    ],
)
def test_layout_is_no_difference(same: str) -> None:
    assert find_overlap([same], [("f:1", QUESTION)], n=0) == [Match(0, "f:1")]


@pytest.mark.parametrize("other", [QUESTION.replace("48", "49"), "", QUESTION + "!"])
def test_another_number_is_another_question(other: str) -> None:
    assert find_overlap([other], [("f:1", QUESTION)], n=0) == []


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("Sort 1 2 3.", "Sort 12 3.", False),
        ("Add $1$$2$.", "Add 12.", False),
        ("How long is Ab c?", "How long is abc?", False),
        ("Sort 1 2 3.", "Sort 1\n2  $3$ .", True),
        ("What is 1+1 ?", "what is $1 + 1$?", True),
        ("共有 3 个", "共有3个", True),
    ],
)
def test_numbers_and_words_stay_apart(one: str, other: str, same: bool) -> None:
    assert find_duplicates([one, other]) == ([(1, 0)] if same else [])


def test_signs_are_not_lost() -> None:
    assert normalise("2 + 2") != normalise("2 - 2")


def test_numbers_stay_apart() -> None:
    assert find_duplicates(["Sort 1 2 3.", "Sort 12 3.", "Sort $1$\n$2$  3 ."]) == [(2, 0)]


def test_a_run_of_words_is_found_inside_other_wording() -> None:
    inside = "In a story, " + QUESTION.replace(",", " -") + " How many clips in all?"
    [match] = find_overlap([inside], [("f:1", "something else"), ("f:2", QUESTION)], n=13)
    assert match == Match(
        0, "f:2", "natalia sold clips to 48 of her friends in april and then half"
    )
    # The question has 17 words: a run of 18 is nowhere.
    assert find_overlap([inside], [("f:2", QUESTION)], n=17) != []
    assert find_overlap([inside], [("f:2", QUESTION)], n=18) == []


def test_short_questions_overlap_only_when_equal() -> None:
    evaluation = [("f:1", "Compute 2+3."), ("f:2", "Compute 7*8.")]
    assert find_overlap(["compute 2+3.", "Compute 2+4."], evaluation, n=13) == [Match(0, "f:1")]


def test_repeated_questions_point_to_the_first() -> None:
    assert find_duplicates(["a?", "b?", "A ?", "c?", "a?"]) == [(2, 0), (4, 0)]
