"""What is no test specification is refused with its field, without a program."""

from typing import Any

import pytest
from sandboxes import judge

from cipo_jax.types import CipoError, Outcome, Problem
from cipo_jax.verifiers.code.specification import check_tests, with_checked_tests

ASSERTS = {"type": "assert", "asserts": ["assert f(1) == 2"]}
CALLS = {"type": "call", "entry_point": "f", "cases": [{"input": [1], "output": 2}]}
STDIN = {"type": "stdin", "cases": [{"input": "1", "output": "2"}]}
CHECK = {"type": "check_fn", "code": "def check(f): assert f(1) == 2", "call": "check(f)"}
FORMS = (ASSERTS, CALLS, STDIN, CHECK)
OPTIONAL = (
    *("preamble", "setup", "challenge_asserts", "compare", "tolerance", "time_limit"),
    *("total_time_limit", "memory_limit_bytes"),
)


def of(tests: Any, **meta: Any) -> Problem:
    return Problem("p", "def f(n):", tests=tests, meta=meta)


@pytest.mark.parametrize(
    ("tests", "message"),
    [
        ("x", "tests.type: got 'x'"),
        ({"type": ["a"], "asserts": ["x"]}, r"tests.type: got \['a'\]"),
        ({**ASSERTS, "asserts": [1]}, r"tests.asserts: got \[1\], wanted a list of texts"),
        ({**ASSERTS, "asserts": ["assert f(1) =="]}, "SyntaxError"),
        ({**ASSERTS, "challenge_asserts": ["assert f(1) =="]}, "SyntaxError"),
        ({**ASSERTS, "challenge_asserts": "x"}, "tests.challenge_asserts"),
        ({**ASSERTS, "preamble": "def"}, "SyntaxError"),
        ({**ASSERTS, "setup": 3}, "tests.setup: got 3, wanted a text"),
        ({**CHECK, "code": "def check(f): assert f(1) =="}, "SyntaxError"),
        ({**CALLS, "entry_point": None}, "tests.entry_point: got None"),
        ({**CALLS, "cases": [{"input": "1", "output": 2}]}, "a list of arguments"),
        ({**CALLS, "compare": "fuzzy"}, "tests.compare: got 'fuzzy'"),
        ({**CALLS, "tolerance": "small"}, "tests.tolerance: got 'small'"),
        ({**STDIN, "cases": [{"input": "1", "output": 2}]}, r"an output \(text\)"),
        ({**STDIN, "cases": [{"input": "1"}]}, r"an output \(text\)"),
        ({**STDIN, "compare": 3}, "tests.compare: got 3"),
        ({**STDIN, "time_limit": "6 s"}, "tests.time_limit: got '6 s', wanted seconds"),
        ({**STDIN, "total_time_limit": 0}, "tests.total_time_limit: got 0"),
        ({**STDIN, "memory_limit_bytes": True}, "tests.memory_limit_bytes"),
    ],
)
def test_tests_that_cannot_be_run_are_refused(tests: Any, message: str) -> None:
    with pytest.raises(CipoError, match=message):
        check_tests(of(tests))


@pytest.mark.parametrize("tests", FORMS, ids=lambda tests: tests["type"])
def test_null_fields_count_as_absent(tests: dict) -> None:
    nulls = dict.fromkeys(("asserts", "cases", "code", "call", *OPTIONAL))
    check_tests(of(nulls | tests))
    assert with_checked_tests(of(nulls | tests)).tests == tests
    program = "print(2)" if tests is STDIN else "def f(n): return n + 1"
    assert judge(nulls | tests, program, "def f(n):").outcome is Outcome.CORRECT


def test_the_problem_may_name_the_function() -> None:
    check_tests(of({**CALLS, "entry_point": None}, entry_point="f"))
