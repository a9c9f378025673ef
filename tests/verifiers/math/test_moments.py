"""Times of day and dates that are the same, and that are not."""

import pytest

from cipo_jax.types import Outcome
from cipo_jax.verifiers.math.answer import verify_math
from cipo_jax.verifiers.math.moments import moments_equal


@pytest.mark.parametrize(
    ("gold", "right", "wrong"),
    [
        (r"3:45\text{ p.m.}", ["3:45 PM", "15:45", "3:45 in the afternoon"], ["3:45 am", "3:45"]),
        ("15:45", ["3:45 p.m.", "15:45"], ["3:45", "3:45 a.m.", "15:54"]),
        ("3:45", ["3:45", "3:45 p.m."], ["15:45", "3:54", "4"]),
        ("12:10 a.m.", ["00:10", "0:10"], ["12:10", "12:10 p.m."]),
        (
            r"9\text{ a.m.}",
            ["9:00 AM", "09:00", "9 o'clock in the morning"],
            ["9", "21:00", "9 pm"],
        ),
        ("noon", ["12:00 p.m.", "12 noon"], ["midnight", "0:00"]),
        ("1:15:20", ["1:15:20"], ["1:15:21", "1:15"]),
        ("March 5", ["5 March", "Mar. 5th", "the 5th of March", "March 5, 2021"], ["March 6", "5"]),
        ("March 5, 2021", ["5 March 2021", "March 5"], ["March 5, 2020", "May 5, 2021"]),
    ],
)
def test_the_same_moment(gold: str, right: list[str], wrong: list[str]):
    for answers, outcome in ((right, Outcome.CORRECT), (wrong, Outcome.WRONG)):
        for answer in answers:
            assert verify_math(rf"\boxed{{{answer}}}", gold).outcome is outcome, answer


@pytest.mark.parametrize("gold", ["4", "3:2", "25:10", "13:00 pm", "May", "12", "x"])
def test_what_is_no_moment(gold: str):
    assert moments_equal(gold, gold) is None
