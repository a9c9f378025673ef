"""Reference answers in the forms in which data sets give them."""

import math

import pytest

from cipo_jax.data.references import reference_answer, solution_answer
from cipo_jax.types import CipoError


@pytest.mark.parametrize(
    ("value", "answer"),
    [
        ("12", "12"),
        (12.0, "12"),
        (-0.0, "0"),
        (6.02e23, "602" + 21 * "0"),
        (10**400, "1" + 400 * "0"),
        (["5", "6"], "5, 6"),
        ([5, 6.5], "5, 6.5"),
        (["$x=1$", "$x=2$."], "x=1, x=2"),
        ("6*4=24\n#### 24", "24"),
        ("#### Step 1\nAdd.\n#### Conclusion\nThe answer is \\boxed{5}.", "5"),
        ("#### Step 1\nAdd.\n#### The answer is \\boxed{5}", "5"),
        ("6*4=24\n#### 24\n\n", "24"),
        ("It is $\\boxed 9$.", "9"),
        ("It is \\fbox{9}.", "9"),
        ("Either $\\boxed{2}$ or $\\boxed{3}$.", "2, 3"),
        ("x^3+1.", "x^3+1"),
        ("$(0, 1) \\cup\\{2\\}$.", "(0, 1) \\cup\\{2\\}"),
        ("\\$5", "\\$5"),
        ("$5", "$5"),
        ("1, 2, ...", "1, 2, ..."),
    ],
)
def test_forms(value, answer):
    assert reference_answer("f:1", value) == answer


@pytest.mark.parametrize(
    "value", [math.nan, math.inf, -math.inf, "NaN", True, None, "", " ", [], [math.nan], {}, [""]]
)
def test_what_is_no_answer_is_refused_with_its_place(value):
    with pytest.raises(CipoError, match="^f:1: answer: got"):
        reference_answer("f:1", value)


def test_a_solution_says_its_answer_by_a_mark():
    assert solution_answer("so $\\boxed{4}$ and $\\boxed{5}$") == "4, 5"
    assert solution_answer("so it is 4") is None
    assert solution_answer("#### Result\nIt is 4.") is None
    assert solution_answer(None) is None
