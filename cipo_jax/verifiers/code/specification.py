"""Which test specifications can be run; what they look like is in `tests.py`.

A field that is null counts as absent: rows of one table have the columns of all others.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

from cipo_jax.types import CipoError, Problem
from cipo_jax.verifiers.code import compare as code_compare
from cipo_jax.verifiers.code import program as code_program

_FIELDS: dict[str, dict[str, type]] = {  # what a type of tests needs
    "check_fn": {"code": str, "call": str},
    "assert": {"asserts": list},
    "stdin": {"cases": list},
    "call": {"cases": list},
}


def check_tests(problem: Problem) -> None:
    """Checks all of a problem's test specification that can be checked without a program.

    Raises:
      CipoError: it is malformed, or its tests are no Python.
    """
    problem = with_checked_tests(problem)
    tests = problem.tests or {}
    if tests["type"] in ("check_fn", "assert"):
        code_program.tests_job(problem)
    else:
        find_judge(tests)


def with_checked_tests(problem: Problem) -> Problem:
    """The problem, null fields of its test specification left out. Tests that are Python are not
    parsed.

    Raises:
      CipoError: there is no specification, or it is malformed.
    """
    tests = problem.tests
    kind = tests.get("type") if isinstance(tests, Mapping) else tests
    if not isinstance(tests, Mapping) or not isinstance(kind, str) or kind not in _FIELDS:
        raise _error(problem, "type", kind, f"one of {', '.join(_FIELDS)}")
    tests = {name: value for name, value in tests.items() if value is not None}
    for name, wanted in _FIELDS[kind].items():
        if not isinstance(tests.get(name), wanted) or not tests[name]:
            raise _error(problem, name, tests.get(name), f"a non-empty {wanted.__name__}")
    for name, (is_right, what) in _VALUES.items():
        if name in tests and not is_right(tests[name]):
            raise _error(problem, name, tests[name], what)
    for case in tests.get("cases", ()) if "cases" in _FIELDS[kind] else ():
        if not _is_case(case, kind):
            raise _error(problem, "cases", case, _CASES[kind])
    problem = dataclasses.replace(problem, tests=tests)
    if kind in ("call", "check_fn"):
        code_program.entry_point(problem)
    return problem


def find_judge(tests: Mapping[str, Any]) -> Any:
    """The `compare.Judge` of checked stdin tests, or the `compare.ValueJudge` of call tests.

    Raises:
      CipoError: there is none of that name.
    """
    tolerance = float(tests.get("tolerance", code_compare.DEFAULT_TOLERANCE))
    if tests["type"] == "stdin":
        return code_compare.find_judge(tests.get("compare", "token"), tolerance)
    return code_compare.find_value_judge(tests.get("compare", "value"), tolerance)


def _is_case(case: Any, kind: str) -> bool:
    if not isinstance(case, Mapping) or "output" not in case:
        return False
    if kind == "stdin":
        return isinstance(case.get("input"), str) and isinstance(case["output"], str)
    return isinstance(case.get("input"), list)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(part, str) for part in value)


def _is_number(value: Any) -> bool:
    is_one = isinstance(value, int | float) and not isinstance(value, bool)
    return is_one and math.isfinite(value) and value >= 0


def _is_limit(value: Any) -> bool:
    return _is_number(value) and value > 0


_CASES = {
    "stdin": "an input (text) and an output (text)",
    "call": "an input (a list of arguments) and an output",
}
_VALUES: dict[str, tuple[Callable[[Any], bool], str]] = {  # of fields that there may be
    "asserts": (_are_texts, "a list of texts"),
    "challenge_asserts": (_are_texts, "a list of texts"),
    "preamble": (_is_text, "a text"),
    "setup": (_is_text, "a text"),
    "compare": (_is_text, "a name"),
    "tolerance": (_is_number, "a number of 0 or more"),
    "time_limit": (_is_limit, "seconds, more than 0"),
    "total_time_limit": (_is_limit, "seconds, more than 0"),
    "memory_limit_bytes": (_is_limit, "bytes, more than 0"),
}


def _error(problem: Problem, field: str, got: Any, wanted: str) -> CipoError:
    return CipoError(f"problem {problem.id!r}: tests.{field}: got {got!r:.80}, wanted {wanted}")
