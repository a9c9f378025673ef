"""What follows visits of problems without a right attempt, counted by hand."""

from typing import Any

import pytest

from cipo_jax.config.keys import Config, flatten
from cipo_jax.run.unsolved import NextVisits, follow, may_recur

OUTCOMES = {"r": "correct", "w": "wrong", "e": "error"}


def archived(visits: dict[int, dict[str, str]]) -> list[dict[str, Any]]:
    """{step: {problem: "attempts/corrections"}}, a letter each; of the first attempt."""
    found = []
    for step, problems in visits.items():
        for problem, letters in problems.items():
            attempts, _, corrections = letters.partition("/")
            quoted = {"outcome": OUTCOMES[attempts[0]]}
            for letter, anchor in [(x, None) for x in attempts] + [
                (x, quoted) for x in corrections
            ]:
                record = {"step": step, "problem_id": problem, "anchor": anchor}
                found.append(record | {"outcome": OUTCOMES[letter]})
    return found


def test_a_problem_is_followed_until_its_first_right_attempt() -> None:
    found = follow(
        archived(
            {
                # a is corrected, and solved at its next visit; later visits do not count.
                1: {"a": "www/wr", "b": "www/ww", "c": "www", "d": "rww/rw"},
                2: {"a": "rrw/r", "b": "www", "c": "wwe/we", "d": "www/wr"},
                # b has not been corrected when visited in between; c's correction comes now.
                3: {"a": "www/wr", "b": "www/wr", "c": "www/r"},
                4: {"a": "www", "b": "www", "c": "rww"},
                # b stays corrected without further corrections. e is visited once.
                5: {"b": "rrr", "e": "www/r"},
            }
        )
    )
    assert list(found) == ["corrected", "not corrected", "not put back"]
    third, two_thirds = pytest.approx(1 / 3), pytest.approx(2 / 3)
    assert found["corrected"] == {
        "a": NextVisits(1, 1, two_thirds),
        "b": NextVisits(2, 1, 1.0),  # after steps 3 and 4
        "c": NextVisits(1, 1, third),
    }
    # c's correction at step 2 was wrong; another has no verdict.
    assert found["not corrected"] == {"b": NextVisits(2, 0, 0.0), "c": NextVisits(1, 0, 0.0)}
    assert found["not put back"] == {"c": NextVisits(1, 0, 0.0)}


def test_what_has_no_verdict_says_nothing() -> None:
    # Neither attempts, nor corrections of an attempt without one; b's visit at step 2 is none.
    visits = {1: {"a": "ew/r", "b": "ww"}, 2: {"a": "rw", "b": "ee"}, 3: {"b": "wr"}}
    found = follow(archived(visits))
    assert found == {"not put back": {"a": NextVisits(1, 1, 0.5), "b": NextVisits(1, 1, 0.5)}}


def test_nothing_is_said_of_problems_that_do_not_recur() -> None:
    assert follow(archived({1: {"a": "ww/r"}, 2: {"b": "ww/r"}})) == {}
    assert follow([]) == {}


@pytest.mark.parametrize(
    ("train", "number", "may"),
    [("arithmetic", 0, False), ("arithmetic", 144, True), ("a.jsonl", 0, True)],
)
def test_which_problems_may_recur(train: str, number: int, may: bool) -> None:
    config = flatten(Config()) | {"data.train": train, "data.train_problems": number}
    assert may_recur(config) is may
