"""When the output of a program, or the value it returned, is the expected one.

Outputs are texts (stdin tests), values are JSON data (call tests). This file decides how they
compare; it runs in the verifier process and sees data only.

Whole numbers are exact: a tolerance is for numbers with a decimal point. Where a whole number is
expected, 7.0 is right for 7, and nothing else is near enough, however large the numbers are. If it
is written 7.0, numbers near it are right, but no other whole number is, unless a tolerance of more
than DEFAULT_TOLERANCE allows for it: rounding turns no whole number into another.

The tolerance is absolute or relative to the expected number, as in the checkers of contests
(testlib's `rcmp6`): 15 digits of a large number are no more to be had than of a small one. But two
numbers of exactly two decimals are amounts in a format that the task asks for, and `token` compares
them exactly: a cent counts in 12345.67 as it does in 0.67.
"""

import decimal
import importlib
import math
import re
from collections.abc import Callable
from typing import Any

from cipo_jax.types import CipoError

Judge = Callable[[str, str, str], bool]  # (input, expected output, output)
ValueJudge = Callable[[Any, Any], bool]  # (expected value, returned value)

_NUMBER = re.compile(r"[+-]?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,4})?")
_WHOLE = re.compile(r"[+-]?[0-9]+")
_CENTS = re.compile(r"[+-]?[0-9]*\.[0-9]{2}")
_DECIMAL = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,4})?")
_EXACT = decimal.Context(prec=decimal.MAX_PREC, Emax=decimal.MAX_EMAX, Emin=decimal.MIN_EMIN)
DEFAULT_TOLERANCE = 1e-6
_ALL_WHOLE = 2.0**53  # from there on each float is a whole number


def same_tokens(_: str, expected: str, output: str) -> bool:
    """The same words, however they are spaced. A number may be written another way (0.50 for 0.5,
    7.0 for 7); one with a decimal point may differ as in `close_numbers`, unless both have two
    decimals. Numbers that begin with a needless 0 are words."""
    theirs, ours = expected.split(), output.split()
    return len(theirs) == len(ours) and all(
        e == o or _same_number(e, o, DEFAULT_TOLERANCE, strict=True)
        for e, o in zip(theirs, ours, strict=True)
    )


def same_lines(_: str, expected: str, output: str) -> bool:
    """LiveCodeBench's rule: as many lines, outer white space aside; each line the same text, or
    numbers with the same values."""
    theirs, ours = (text.strip().split("\n") for text in (expected, output))
    return len(theirs) == len(ours) and all(
        e.strip() == o.strip() or _same_decimals(e.split(), o.split())
        for e, o in zip(theirs, ours, strict=True)
    )


def same_text(_: str, expected: str, output: str) -> bool:
    """The same characters, except line feeds at the very end."""
    return expected.rstrip("\n") == output.rstrip("\n")


def same_lines_in_any_order(_: str, expected: str, output: str) -> bool:
    """The same lines, each as words, in any order."""
    theirs, ours = (
        [line for line in text.splitlines() if line.strip()] for text in (expected, output)
    )
    return len(theirs) == len(ours) and _sorted_words(theirs) == _sorted_words(ours)


def close_numbers(tolerance: float) -> Judge:
    """Words that are numbers may differ by `tolerance`, absolutely or relative to the expected one;
    other words must be the same. Two whole numbers must be equal; where only the expected one is
    whole (2, printed for a real number), the tolerance is absolute."""

    def judge(_: str, expected: str, output: str) -> bool:
        theirs, ours = expected.split(), output.split()
        return len(theirs) == len(ours) and all(
            e == o or _same_number(e, o, tolerance, strict=False)
            for e, o in zip(theirs, ours, strict=True)
        )

    return judge


def find_judge(name: str, tolerance: float) -> Judge:
    """The comparison called `name`: "token", "lines", "exact", "float" (with `tolerance`),
    "unordered_lines", or "package.module:function" for your own `Judge`.

    Raises:
      CipoError: there is none.
    """
    judges = {
        "token": same_tokens,
        "lines": same_lines,
        "exact": same_text,
        "float": close_numbers(tolerance),
        "unordered_lines": same_lines_in_any_order,
    }
    if name in judges:
        return judges[name]
    module, _, function = name.partition(":")
    try:
        return getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise CipoError(
            f"tests.compare: got {name!r}, wanted one of {', '.join(judges)}, or "
            f"package.module:function of a judge that can be imported ({error})"
        ) from error


def find_value_judge(name: str, tolerance: float) -> ValueJudge:
    """The comparison of returned values called `name`: "value" (with `tolerance`) or "equal".

    Raises:
      CipoError: there is none.
    """
    judges: dict[str, ValueJudge] = {
        "value": lambda expected, value: same_value(expected, value, tolerance),
        "equal": equal_value,
    }
    if name not in judges:
        wanted = f"wanted one of {', '.join(judges)} for tests of a function"
        raise CipoError(f"tests.compare: got {name!r}, {wanted}")
    return judges[name]


def equal_value(expected: Any, value: Any) -> bool:
    """LiveCodeBench's rule: what Python's == says, a tuple taken for a list, but not within."""
    return bool((list(value) if type(value) is tuple else value) == expected)


def same_value(expected: Any, value: Any, tolerance: float) -> bool:
    """Is `value`, which a program returned, the JSON value `expected`?

    Tuples count as lists and keys of dicts as their text, as JSON would write them. True is not 1.
    Where a float is expected, a number may differ from it by `tolerance`, absolutely or relative to
    it; where an integer is expected, it must be equal.
    """
    if isinstance(expected, list):
        return (
            type(value) in (list, tuple)
            and len(value) == len(expected)
            and all(same_value(e, v, tolerance) for e, v in zip(expected, value, strict=True))
        )
    if isinstance(expected, dict):
        if type(value) is not dict or len(value) != len(expected):
            return False
        by_text = {_key_text(key): item for key, item in value.items()}
        return by_text.keys() == expected.keys() and all(
            same_value(item, by_text[key], tolerance) for key, item in expected.items()
        )
    if isinstance(expected, bool | str | None):
        return type(value) is type(expected) and value == expected
    if type(value) not in (int, float):
        return False
    if isinstance(expected, int):
        return value == expected  # exact, also between an int and a float
    try:
        return value == expected or _close(expected, float(value), tolerance)
    except OverflowError:
        return False


def _key_text(key: Any) -> str:
    if isinstance(key, bool) or key is None:
        return {True: "true", False: "false", None: "null"}[key]
    return key if isinstance(key, str) else repr(key)


def _same_number(expected: str, output: str, tolerance: float, strict: bool) -> bool:
    """Are both words numbers, and near enough? `strict`: for a whole number only itself is, and of
    numbers in cents."""
    if not (_NUMBER.fullmatch(expected) and _NUMBER.fullmatch(output)):
        return False
    are_cents = _CENTS.fullmatch(expected) and _CENTS.fullmatch(output)
    if not (_WHOLE.fullmatch(expected) or (strict and are_cents)):
        return _close(float(expected), float(output), tolerance)
    theirs, ours = decimal.Decimal(expected), decimal.Decimal(output)
    if strict or theirs == ours or _WHOLE.fullmatch(output):
        return theirs == ours
    # Compared with the bounds: a difference would be rounded.
    low, high = (_EXACT.add(theirs, decimal.Decimal(t)) for t in (-tolerance, tolerance))
    return low <= ours <= high


def _same_decimals(expected: list[str], output: list[str]) -> bool:
    words = [*expected, *output]
    return all(_DECIMAL.fullmatch(word) for word in words) and [
        decimal.Decimal(word) for word in expected
    ] == [decimal.Decimal(word) for word in output]


def _close(expected: float, value: float, tolerance: float) -> bool:
    if not (math.isfinite(expected) and math.isfinite(value)):
        return expected == value or (math.isnan(expected) and math.isnan(value))
    are_whole = expected.is_integer() and value.is_integer() and abs(expected) < _ALL_WHOLE
    if are_whole and tolerance <= DEFAULT_TOLERANCE:
        return expected == value
    return abs(expected - value) <= tolerance * max(1.0, abs(expected))


def _sorted_words(lines: list[str]) -> list[list[str]]:
    return sorted(line.split() for line in lines)
