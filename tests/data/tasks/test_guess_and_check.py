"""The embedded guessing task: solutions are right, and wrong ones say what their guess led to."""

import re

import numpy as np
import pytest

from cipo_jax.data.tasks.generated import GeneratedDemonstrations, GeneratedProblems, split_of
from cipo_jax.data.tasks.guess_and_check import (
    LARGEST,
    LARGEST_VALUE,
    SMALLEST,
    TASK,
    corrupt,
    make_problem,
    practise,
    solution,
)
from cipo_jax.data.tokenizer import load_tokenizer
from cipo_jax.types import Problem


def value(operations: list[str], x: int) -> int:
    """f(x), by Python's own arithmetic."""
    v = x
    for operation in operations:
        v = eval(f"({v}){operation.replace('x', str(x))}")
    return v


def parts(problem: Problem) -> tuple[list[str], int]:
    text, target = problem.id.split("=")
    return re.findall(r"[+*-](?:\d|x)", text), int(target)


def read(text: str) -> tuple[int, list[tuple[str, int]], str, int]:
    """The guess, the lines as (left side, right side), the comparison, and the box."""
    first, *lines, comparison, box = text.split("\n")
    sides = [line.split("=") for line in lines]
    boxed = re.fullmatch(r"\\boxed\{(\d+)\}", box)
    assert first.startswith("x=") and boxed
    return int(first[2:]), [(left, int(right)) for left, right in sides], comparison, int(boxed[1])


def is_true(left: str, right: int) -> bool:
    return eval(left) == right


def test_example_of_the_docstring():
    problem = Problem("*3-4+x*2=96", "Find x: *3-4+x*2=96.", answer="13")
    lines = ["x=13", "13*3=39", "39-4=35", "35+13=48", "48*2=96", "96=96", "\\boxed{13}"]
    assert solution(problem) == "\n".join(lines)


def test_problems_have_one_answer_and_their_solutions_are_true():
    rng = np.random.default_rng(0)
    lengths, answers = set(), set()
    for _ in range(200):
        problem = make_problem(rng, 1, 4)
        operations, target = parts(problem)
        assert problem.question == f"Find x: {problem.id}."
        assert problem.meta == {"operations": len(operations)}
        assert len(operations) == 1 or "+x" in operations[1:]
        values = [value(operations, x) for x in range(SMALLEST, LARGEST + 1)]
        assert all(a < b for a, b in zip(values, values[1:], strict=False))
        assert values[0] >= 0 and values[-1] <= LARGEST_VALUE
        x = SMALLEST + values.index(target)
        guess, lines, comparison, boxed = read(solution(problem))
        assert problem.answer == str(x) and guess == boxed == x
        assert all(is_true(*line) for line in lines) and len(lines) == len(operations)
        assert comparison == f"{target}={target}" and lines[-1][1] == target
        lengths.add(len(operations))
        answers.add(x)
    assert lengths == {1, 2, 3, 4} and len(answers) > 30


def test_corruptions_are_wrong_and_mostly_honest():
    rng = np.random.default_rng(1)
    honest = bent = low = 0
    for _ in range(400):
        problem = make_problem(rng, 2, 4)
        target = parts(problem)[1]
        guess, lines, comparison, boxed = read(corrupt(problem, rng))
        assert boxed == guess != int(problem.answer or 0) and SMALLEST <= guess <= LARGEST
        assert abs(guess - int(problem.answer or 0)) <= 8
        reached = lines[-1][1]
        sign = "<" if reached < target else ">" if reached > target else "="
        assert comparison == f"{reached}{sign}{target}"
        wrong = [not is_true(*line) for line in lines]
        assert sum(wrong) <= 1
        honest += not any(wrong)
        bent += sign == "=" and wrong[-1]
        if not any(wrong):  # the direction is the right one
            assert (sign == "<") == (guess < int(problem.answer or 0))
            low += sign == "<"
    assert 240 < honest < 320 and 30 < bent < 100 and 80 < low < 220


def test_practice_is_evaluation_alone_and_honest_wrong_guesses_of_no_test_problem():
    rng = np.random.default_rng(2)
    evaluations = 0
    for problem in GeneratedProblems(TASK, 0, "train", 2, 4).batch(0, 200):
        operations, target = parts(problem)
        d = practise(problem, rng)
        assert d.previous_attempt is None
        if d.problem == problem:
            guess, lines, _, boxed = read(d.solution)
            assert guess == boxed != int(problem.answer or 0)
            assert all(is_true(*line) for line in lines)
        else:
            evaluations += 1
            *lines, box = d.solution.split("\n")
            given = re.fullmatch(r"Try x=(\d+): (.+)\.", d.problem.question)
            assert given and given[2] == "".join(operations)
            guess = int(given[1])
            assert all(is_true(left, int(right)) for left, right in (x.split("=") for x in lines))
            assert box == f"\\boxed{{{d.problem.answer}}}"
            assert d.problem.answer == str(value(operations, guess))
        implied = f"{''.join(operations)}={value(operations, guess)}"
        assert split_of(implied) == "train"
    assert 70 < evaluations < 130


def test_what_is_no_problem_of_the_task_is_refused():
    for name in ("*3-4=1000", "*3/4=20", "=12"):
        with pytest.raises(ValueError, match="is not a guessing problem"):
            solution(Problem(name, ""))


def test_texts_are_short():
    tokenizer = load_tokenizer(TASK.tokenizer)
    for d in GeneratedDemonstrations(TASK, 0, 0.5, 0.3, 2, 4, practice_share=0.3).batch(0, 100):
        assert len(tokenizer.encode(d.problem.question)) <= 16
        assert len(tokenizer.encode(d.solution)) <= 58
        for text in (d.problem.question, d.solution, d.previous_attempt or ""):
            assert tokenizer.decode(tokenizer.encode(text)) == text
