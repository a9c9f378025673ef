import collections
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cipo_jax.data.tasks import arithmetic
from cipo_jax.data.tasks.arithmetic import TASK
from cipo_jax.data.tasks.generated import GeneratedDemonstrations, GeneratedProblems
from cipo_jax.types import Problem

reproducible = settings(derandomize=True, deadline=None)

seeds = st.integers(0, 2**32 - 1)


def evaluate(expression: str) -> int:
    """The value of an expression by Python itself, after checking that it is only arithmetic."""
    assert re.fullmatch(r"[-+*()\d]+", expression)
    return eval(expression)


def boxed(text: str) -> str:
    (found,) = re.findall(r"\\boxed\{(-?\d+)\}", text)
    return found


def read_trace(text: str) -> tuple[list[tuple[int, str, int, int]], int]:
    """(left, operator, leaf, result) of each line, and the boxed value."""
    *lines, last = text.split("\n")
    parsed = []
    for line in lines:
        left, operator, leaf, result = re.fullmatch(r"(\d+)([-+*])(\d)=(\d+)", line).groups()
        parsed.append((int(left), operator, int(leaf), int(result)))
    return parsed, int(boxed(last))


def test_example_of_the_docstring():
    problem = Problem(id="(((7+2)*3)-5)", question="Compute (((7+2)*3)-5).", answer="22")
    assert arithmetic.solution(problem) == "7+2=9\n9*3=27\n27-5=22\n\\boxed{22}"


@reproducible
@given(seeds, st.integers(1, 8), st.integers(0, 4))
def test_problem_is_a_legal_chain_and_its_solution_is_exact(seed, shortest, extra):
    problem = arithmetic.make_problem(np.random.default_rng(seed), shortest, shortest + extra)
    assert problem.question == f"Compute {problem.id}."
    assert problem.answer == str(evaluate(problem.id))
    operations = problem.meta["operations"]
    assert shortest <= operations <= shortest + extra

    trace, answer = read_trace(arithmetic.solution(problem))
    assert len(trace) == operations == len(re.findall(r"[-+*]", problem.id))
    assert str(answer) == problem.answer == str(trace[-1][3])
    for before, after in zip(trace, trace[1:], strict=False):
        assert after[0] == before[3]
    for left, operator, leaf, result in trace:
        assert evaluate(f"{left}{operator}{leaf}") == result
        assert 0 <= result <= 99
        assert 1 + (operator == "*") <= leaf <= 9


@reproducible
@given(seeds, st.integers(1, 6))
def test_corruption_boxes_a_wrong_value_and_stays_in_range(seed, operations):
    rng = np.random.default_rng(seed)
    problem = arithmetic.make_problem(rng, operations, operations)
    text = arithmetic.corrupt(problem, rng)
    trace, answer = read_trace(text)  # refuses negative numbers and two boxes
    assert str(answer) != problem.answer
    assert all(max(left, result) <= 99 for left, _, _, result in trace) and answer <= 99


def kind_of_corruption(problem: Problem, text: str) -> str:
    trace, answer = read_trace(text)
    right, _ = read_trace(arithmetic.solution(problem))
    if len(trace) < len(right):
        return "dropped step"
    given_values = [right[0][0]] + [result for *_, result in trace]
    reads = [left for left, *_ in trace] + [answer]
    slips = sum(evaluate(f"{a}{op}{b}") != result for a, op, b, result in trace)
    misreads = sum(a != b for a, b in zip(given_values, reads, strict=True))
    operands = sum(a[1:3] != b[1:3] for a, b in zip(trace, right, strict=True))
    assert slips + misreads + operands in (1, 2)
    if misreads:
        assert (slips, misreads, operands) == (0, 1, 0)
        assert trace[0][0] == right[0][0]  # only what a line above gave can be misread
        return "misread value"
    if operands:
        assert (slips, operands) == (0, 1)
        return "wrong operand"
    return "slip" if slips == 1 else "two slips"


def test_corruptions_come_in_the_documented_kinds_and_shares():
    rng = np.random.default_rng(0)
    problems = GeneratedProblems(TASK, 0, "train").batch(0, 3000)
    kinds = collections.Counter(kind_of_corruption(p, arithmetic.corrupt(p, rng)) for p in problems)
    assert kinds["slip"] / 3000 == pytest.approx(0.6, abs=0.04)
    for kind in ("two slips", "wrong operand", "misread value", "dropped step"):
        assert kinds[kind] / 3000 == pytest.approx(0.1, abs=0.03), kind


def test_demonstrations_have_the_asked_shares_and_right_solutions():
    source = GeneratedDemonstrations(TASK, 0, correction_share=2 / 3, right_share=0.3)
    demos = source.batch(0, 3000)
    corrections = [d for d in demos if d.previous_attempt is not None]
    right = [d for d in corrections if boxed(d.previous_attempt) == d.problem.answer]
    assert len(corrections) / 3000 == pytest.approx(2 / 3, abs=0.03)
    assert len(right) / len(corrections) == pytest.approx(0.3, abs=0.03)
    for demo in demos:
        assert demo.solution == arithmetic.solution(demo.problem)
    assert all(d.previous_attempt == d.solution for d in right)


def test_foreign_problem_is_refused():
    with pytest.raises(ValueError, match="not an arithmetic chain"):
        arithmetic.solution(Problem(id="gsm8k-1", question="How many?", answer="3"))
