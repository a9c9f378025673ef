"""Equations are found in free text, and only whole ones."""

import pytest

from cipo_jax.data.tasks.equations import equations


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("3+4=7", [True]),
        ("42-15=37", [False]),
        ("3-5=-2", [True]),
        ("In the boxes: 3 * 8 = 24\nWith the new ones: 24 + 5 = 28", [True, False]),
        ("so 3 + 4 = 7 and 7 - 2 = 6.", [True, False]),
        ("2 + 3 * 4 = 14", [True]),
        ("9 - 4 - 3 = 2", [True]),
        ("12 / 4 * 3 = 9", [True]),
        ("7 / 2 = 3.5", [True]),
        ("7 / 2 = 3", [False]),
        ("7 / 0 = 0", [False]),
        ("0.1 + 0.2 = 0.3", [True]),
        ("$1,200 + $34 = $1,234", [True]),
        ("6 × 7 = 42, 42 ÷ 6 = 7", [True, True]),
        # Parts of what is longer, and what is no equation of numbers.
        ("2 * (3 + 4) = 14", []),
        ("(2 + 3) * 4 = 20", []),
        ("x + 3 + 4 = 9", []),
        ("x3 + 4 = 9", []),
        ("10 = 3 + 4 = 7", []),
        ("3 + 4 = 7 + 1", []),
        ("3 + 4 = 7 = 8", []),
        ("3 + 4 = 7%", []),
        ("3 + 4 = 7.5.1", []),
        ("3 eggs + 4 eggs = 8 eggs", []),
        ("7 = 7", []),
        ("1234567890 + 1 = 1", []),
        ("__import__('os').system('true') + 1 = 2", []),
        ("", []),
    ],
)
def test_equations(text: str, found: list[bool]) -> None:
    assert equations(text) == found


def test_long_texts_are_read_at_once() -> None:
    assert equations("1+" * 50_000 + "1=50001") == [True]
    assert equations("1 " * 50_000 + "+" * 50_000) == []
