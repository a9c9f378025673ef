"""Equations in the text of an attempt: what is written as `a + b = c`, and whether it is true.

Texts are read by a pattern and computed by exact fractions. Nothing of them is ever evaluated as a
program, and numbers have few digits, so that no text takes long.
"""

import re
from fractions import Fraction

_NUMBER = r"\d{1,9}(?:\.\d{1,6})?"
_SIGN = "[-+*/×÷]"
_EQUATION = re.compile(
    rf"(?<![\w.])({_NUMBER}(?:\s*{_SIGN}\s*{_NUMBER})+)\s*=\s*(-?{_NUMBER})(?![\w%]|\.\d)"
)
_TERM = re.compile(rf"({_SIGN}?)\s*({_NUMBER})")
# What is before or after a part of a longer formula.
_BEFORE, _AFTER = re.compile(rf"(?:[(=]|{_SIGN})\s*$"), re.compile(rf"\s*(?:[=(]|{_SIGN})")


def equations(text: str) -> list[bool]:
    """Whether each equation between a result and two numbers or more is true, in order.

    `*` and `/` bind tighter than `+` and `-`. Currency signs and commas within numbers are passed
    over. Parts of what is longer, with brackets, letters or a second `=`, are not read.
    """
    plain = re.sub(r"(?<=\d),(?=\d{3}(?!\d))|[$€£]", "", text)
    return [
        _value(_TERM.findall(match[1])) == Fraction(match[2])
        for line in plain.split("\n")
        for match in _EQUATION.finditer(line)
        if not (_BEFORE.search(line[: match.start()]) or _AFTER.match(line[match.end() :]))
    ]


def _value(terms: list[tuple[str, str]]) -> Fraction | None:
    """The value of (sign, number) pairs, the first sign ""; None if it divides by 0."""
    total, product = Fraction(0), Fraction(terms[0][1])
    for sign, text in terms[1:]:
        number = Fraction(text)
        if sign in "*×":
            product *= number
        elif sign in "/÷":
            if not number:
                return None
            product /= number
        else:
            total, product = total + product, number if sign == "+" else -number
    return total + product
