import collections
import pickle
import re
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cipo_jax.data import arithmetic
from cipo_jax.data.arithmetic import ArithmeticDemonstrations, ArithmeticProblems
from cipo_jax.types import CipoError, Problem

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
    problems = ArithmeticProblems(0, "train").batch(0, 3000)
    kinds = collections.Counter(kind_of_corruption(p, arithmetic.corrupt(p, rng)) for p in problems)
    assert kinds["slip"] / 3000 == pytest.approx(0.6, abs=0.04)
    for kind in ("two slips", "wrong operand", "misread value", "dropped step"):
        assert kinds[kind] / 3000 == pytest.approx(0.1, abs=0.03), kind


def test_splits_are_disjoint_stable_and_of_the_documented_size():
    # A literal: these must never change, or old checkpoints would be tested on training problems.
    assert [arithmetic.split_of(f"({a}+1)") for a in range(1, 10)] == [
        "train",
        "train",
        "train",
        "test",
        "dev",
        "train",
        "train",
        "train",
        "train",
    ]
    rng = np.random.default_rng(1)
    drawn = {arithmetic.make_problem(rng, 2, 5).id for _ in range(8000)}
    counts = collections.Counter(arithmetic.split_of(expression) for expression in drawn)
    shares = {split: count / len(drawn) for split, count in counts.items()}
    assert shares == pytest.approx({"train": 13 / 16, "dev": 1 / 16, "test": 1 / 8}, abs=0.02)
    for split in ("train", "dev", "test"):
        problems = ArithmeticProblems(0, split).first(50) + ArithmeticProblems(3, split).batch(
            7, 50
        )
        assert {arithmetic.split_of(p.id) for p in problems} == {split}


def test_batch_is_a_pure_function_of_seed_split_and_step():
    def ids(seed, split, step):
        return [p.id for p in ArithmeticProblems(seed, split).batch(step, 20)]

    assert ids(0, "train", 5) == ids(0, "train", 5)
    others = [ids(1, "train", 5), ids(0, "train", 6), ids(0, "test", 5)]
    assert all(other != ids(0, "train", 5) for other in others)
    assert len(set(ids(0, "train", 5))) == 20


def test_evaluation_problems_are_distinct_nested_and_the_same_for_every_seed():
    long = [p.id for p in ArithmeticProblems(0, "test").first(300)]
    assert len(set(long)) == 300
    assert [p.id for p in ArithmeticProblems(9, "test").first(100)] == long[:100]


def test_no_drawn_training_problem_is_a_test_problem():
    test = {p.id for p in ArithmeticProblems(0, "test", 2, 2).first(300)}
    source = ArithmeticProblems(0, "train", 2, 2)
    demonstrations = ArithmeticDemonstrations(0, 0.5, 0.3, 2, 2)
    for step in range(20):
        assert not test & {p.id for p in source.batch(step, 64)}
        assert not test & {d.problem.id for d in demonstrations.batch(step, 64)}


def test_demonstrations_have_the_asked_shares_and_right_solutions():
    demos = ArithmeticDemonstrations(0, correction_share=2 / 3, right_share=0.3).batch(0, 3000)
    corrections = [d for d in demos if d.previous_attempt is not None]
    right = [d for d in corrections if boxed(d.previous_attempt) == d.problem.answer]
    assert len(corrections) / 3000 == pytest.approx(2 / 3, abs=0.03)
    assert len(right) / len(corrections) == pytest.approx(0.3, abs=0.03)
    for demo in demos:
        assert demo.solution == arithmetic.solution(demo.problem)
    assert all(d.previous_attempt == d.solution for d in right)


def test_demonstrations_are_a_pure_function_of_seed_and_step():
    source = ArithmeticDemonstrations(4, 0.5, 0.5)
    assert source.batch(2, 30) == ArithmeticDemonstrations(4, 0.5, 0.5).batch(2, 30)
    assert source.batch(2, 30) != source.batch(3, 30)


def test_share_limits_mean_never_and_always():
    never = ArithmeticDemonstrations(0, correction_share=0, right_share=0.5).batch(0, 50)
    always = ArithmeticDemonstrations(0, correction_share=1, right_share=1).batch(0, 50)
    assert all(d.previous_attempt is None for d in never)
    assert all(d.previous_attempt == d.solution for d in always)


def test_problems_survive_pickling_to_worker_processes():
    problem = ArithmeticProblems(0, "train").batch(0, 1)[0]
    assert pickle.loads(pickle.dumps(problem)) == problem


def test_generation_is_fast():
    start = time.perf_counter()
    ArithmeticProblems(0, "train").batch(0, 1000)
    ArithmeticDemonstrations(0, 1.0, 0.0).batch(0, 1000)
    assert time.perf_counter() - start < 1.0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ArithmeticProblems(0, "validation"), "split.*'validation'.*train, dev, test"),
        (lambda: ArithmeticProblems(0, "train", 5, 2), "min_operations.*5, 2"),
        (lambda: ArithmeticProblems(0, "train", 0, 2), "min_operations.*0, 2"),
        (lambda: ArithmeticDemonstrations(0, 1.5, 0.3), "correction_share.*1.5"),
        (lambda: ArithmeticDemonstrations(0, 0.5, -0.1), "right_share.*-0.1"),
        (lambda: ArithmeticProblems(0, "test").first(0), "got 0, wanted a number > 0"),
        (lambda: ArithmeticProblems(0, "dev", 1, 1).first(500), "asked for 500.*'dev'.*fewer"),
    ],
)
def test_bad_settings_are_refused(make, message):
    with pytest.raises(CipoError, match=message):
        make()


def test_foreign_problem_is_refused():
    with pytest.raises(ValueError, match="not an arithmetic chain"):
        arithmetic.solution(Problem(id="gsm8k-1", question="How many?", answer="3"))
