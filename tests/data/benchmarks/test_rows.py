"""What becomes of a benchmark's row."""

from typing import Any

import pytest

from cipo_jax.data.benchmarks.rows import (
    NoTestsError,
    debugbench_item,
    leetcode_case,
    math_item,
    mbpp_item,
    minerva_item,
    without_numpy,
)
from cipo_jax.data.rows import Row
from cipo_jax.types import CipoError


def test_tolerances_of_the_benchmarks() -> None:
    row = Row("f:1", {"question": "?", "final_answer": ["$2.5$"], "error": "1e-1"})
    assert math_item(row).problem.meta["tolerance"] == {"absolute": "101/1000"}
    several = Row("f:1", {"question": "?", "final_answer": ["$2.5$", "3"], "error": "1e-1,1e-2"})
    assert math_item(several).problem.meta["tolerance"] == {"absolute": "101/10000"}
    plain = Row("f:1", {"question": "?", "answer": "4", "error": None})
    assert "tolerance" not in math_item(plain).problem.meta
    assert minerva_item(plain).problem.meta["tolerance"] == {"relative": "1e-4"}
    for wrong in ("small", "1/0"):
        with pytest.raises(CipoError, match=f"f:1: error: got '{wrong}', wanted numbers"):
            math_item(Row("f:1", {"question": "?", "answer": "4", "error": wrong}))


def test_asserts_that_are_no_texts_are_named() -> None:
    tests = {"type": "assert", "asserts": [1]}
    with pytest.raises(CipoError, match=r"f:1: asserts: got \[1\], wanted a list of texts"):
        mbpp_item(Row("f:1", {"id": 1, "text": "?", "tests": tests}))


def test_answers_in_every_form() -> None:
    def answer(**columns: Any) -> str | None:
        return math_item(Row("f:1", {"question": "?", **columns})).problem.answer

    assert answer(answer="033") == "033"
    assert answer(answer=27.0) == "27" and answer(answer=0.5) == "0.5"
    assert answer(final_answer=["$3$", "$-3$"]) == "3, -3"
    assert answer(answer=r"\$5") == r"\$5"
    for wrong in (None, "", " ", True, {}):
        with pytest.raises(CipoError, match="f:1: answer"):
            answer(answer=wrong)


@pytest.mark.parametrize(
    ("example", "case"),
    [
        ("Input: n = 12, k = 3\nOutput: 3\nExplanation: so", {"input": [12, 3], "output": 3}),
        ('Input: s = "a, b", t = ["x"]\nOutput: true', {"input": ["a, b", ["x"]], "output": True}),
        ("Input: root = [1,null,2]\nOutput: []", {"input": [[1, None, 2]], "output": []}),
        ("Input: n = -1\nOutput: -0.5", {"input": [-1], "output": -0.5}),
        ("Input: a drawing\nOutput: 3", None),
        ("Input: n = f(1)\nOutput: 3", None),
        ("Input: n = 1\nOutput: __import__('os')", None),
        ("no example", None),
    ],
)
def test_examples_become_cases(example: str, case: dict | None) -> None:
    assert leetcode_case(example) == case


def test_the_stand_in_for_numpy_compares_floats() -> None:
    code = without_numpy("import numpy as np\nclose = np.allclose\n")
    space: dict[str, Any] = {}
    exec(code, space)
    close = space["close"]
    assert close(1.0, 1.0 + 1e-9) and not close(1.0, 1.1) and close(1.0, 1.05, 0.1)
    assert close([1.0, 2.0], [1.0, 2.0]) and not close([1.0], [1.0, 2.0])
    assert close(float("inf"), float("inf")) and not close(float("nan"), 1.0)


DEPTH = "class Solution:\n    def depth(self, root{}){}:\n        return 1"


@pytest.mark.parametrize(
    ("program", "why"),
    [
        (DEPTH.format(": Optional[TreeNode]", " -> int"), "objects of LeetCode's TreeNode"),
        ("# class ListNode:\n#     pass\n" + DEPTH.format("", ""), "LeetCode's ListNode"),
        (DEPTH.format(": List[int] = (), k=f(1)", " -> None"), "returns nothing"),
        ("class Node: pass\n" + DEPTH.format(": List[int]", " -> int"), ""),
        ("# as TreeNode\n" + DEPTH.format(": List[int]", " -> Optional[None]"), ""),
        (DEPTH.format("", "") + "\n    def help(self) -> None: pass", ""),
    ],
)
def test_leetcode_programs_whose_examples_nobody_can_pass_have_no_tests(
    program: str, why: str
) -> None:
    columns = {"slug": "depth", "question": "How deep?", "buggy_code": "x", "solution": program}
    row = Row("f:1", columns | {"examples": ["Input: root = [3,9,null]\nOutput: 1"]})
    if not why:
        assert debugbench_item(row).problem.tests is not None
        return
    with pytest.raises(NoTestsError, match=f"f:1: 'depth/1' has no example .*{why}"):
        debugbench_item(row)
