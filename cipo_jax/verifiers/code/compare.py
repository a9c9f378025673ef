"""When the output of a program, or the value it returned, is the expected one.

Outputs are texts (stdin tests), values are JSON data (call tests). This file decides how they
compare; it runs in the verifier process and sees data only.
"""

import importlib
import math
import re
from collections.abc import Callable
from typing import Any

from cipo_jax.types import CipoError

Judge = Callable[[str, str, str], bool]  # (input, expected output, output)

_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,4})?")
DEFAULT_TOLERANCE = 1e-6


def same_tokens(_: str, expected: str, output: str) -> bool:
    """The same words, however they are spaced."""
    return expected.split() == output.split()


def same_text(_: str, expected: str, output: str) -> bool:
    """The same characters, except line feeds at the very end."""
    return expected.rstrip("\n") == output.rstrip("\n")


def same_lines_in_any_order(_: str, expected: str, output: str) -> bool:
    """The same lines, each as words, in any order."""
    return _sorted_lines(expected) == _sorted_lines(output)


def close_numbers(tolerance: float) -> Judge:
    """Words that are numbers may differ by `tolerance`, absolutely or relative to the expected one;
    other words must be the same."""

    def judge(_: str, expected: str, output: str) -> bool:
        theirs, ours = expected.split(), output.split()
        return len(theirs) == len(ours) and all(
            e == o or _close_words(e, o, tolerance) for e, o in zip(theirs, ours, strict=True)
        )

    return judge


def find_judge(name: str, tolerance: float) -> Judge:
    """The comparison called `name`: "token", "exact", "float" (with `tolerance`),
    "unordered_lines", or "package.module:function" for your own `Judge`.

    Raises:
      CipoError: there is none.
    """
    judges = {
        "token": same_tokens,
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


def same_value(expected: Any, value: Any, tolerance: float) -> bool:
    """Is `value`, which a program returned, the JSON value `expected`?

    Tuples count as lists and keys of dicts as their text, as JSON would write them. True is not 1.
    Floats may differ by `tolerance` as in `close_numbers`.
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
    if isinstance(expected, int) and type(value) is int:
        return value == expected
    try:
        return value == expected or _close(float(expected), float(value), tolerance)
    except OverflowError:
        return False


def _key_text(key: Any) -> str:
    if isinstance(key, bool) or key is None:
        return {True: "true", False: "false", None: "null"}[key]
    return key if isinstance(key, str) else repr(key)


def _close_words(expected: str, output: str, tolerance: float) -> bool:
    if not (_NUMBER.fullmatch(expected) and _NUMBER.fullmatch(output)):
        return False
    return _close(float(expected), float(output), tolerance)


def _close(expected: float, value: float, tolerance: float) -> bool:
    if not (math.isfinite(expected) and math.isfinite(value)):
        return expected == value or (math.isnan(expected) and math.isnan(value))
    return abs(expected - value) <= tolerance * max(1.0, abs(expected))


def _sorted_lines(text: str) -> list[list[str]]:
    return sorted(line.split() for line in text.splitlines() if line.strip())
