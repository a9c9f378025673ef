"""The embedded guessing task: find x with f(x) = c, where f is easy to evaluate and hard to invert.

    question   Find x: *3-4+x*2=96.
    solution   x=13
               13*3=39
               39-4=35
               35+13=48
               48*2=96
               96=96
               \\boxed{13}

f applies one operation after another to x, which has two digits: +n and -n (1..9), *n (2..4), and
+x, which adds x itself. With two operations or more there is one +x after the first, so that taking
the operations back one by one does not find x. No operation makes f anything but increasing, so x
is unique, and a value that is too low or too high tells in which direction to go. Difficulty is the
number of operations.

A solution guesses x, evaluates f and compares. A wrong one thus shows what a correction needs:
where the guess led. An honest solution boxes its guess, whatever the comparison says. A small
network soon bends its evaluation towards the number in the question instead; so evaluating alone
and honest wrong guesses are demonstrated too (`practise`).

This file decides what a problem, its solution and a typical wrong solution look like; which are
drawn is decided in `generated.py`.
"""

import itertools
import re
from collections.abc import Sequence

import numpy as np

from cipo_jax.data.tasks.arithmetic import slip
from cipo_jax.data.tasks.generated import Task, lines_of, split_of
from cipo_jax.types import Demonstration, Problem

SMALLEST, LARGEST = 10, 49  # of x
LARGEST_VALUE = 999  # of f and on the way to it, at any x
_NEAR = 8  # most that a wrong guess is away

_OPERATION = r"(?:[+-][1-9]|\*[2-4]|\+x)"
_PROBLEM = re.compile(rf"((?:{_OPERATION})+)=(\d+)")

# The tokenizer's pieces for this task.
CHARACTERS = "<>:"
PHRASES = ("Find x: ", "Try x=", "x=")


def make_problem(rng: np.random.Generator, min_operations: int, max_operations: int) -> Problem:
    """Draws a number of operations, the operations and x, all uniform, until all values fit.

    The id is the operations with the value, the answer x, and `meta["operations"]` their number.
    """
    length = int(rng.integers(min_operations, max_operations + 1))
    while True:
        operations = [_draw_operation(rng) for _ in range(length)]
        if length > 1:
            operations[int(rng.integers(1, length))] = "+x"
        lowest, highest = (_values(operations, x) for x in (SMALLEST, LARGEST))
        if min(lowest) >= 0 and max(highest) <= LARGEST_VALUE:
            break
    x = int(rng.integers(SMALLEST, LARGEST + 1))
    problem_id = f"{''.join(operations)}={_values(operations, x)[-1]}"
    meta = {"operations": length}
    return Problem(problem_id, f"Find x: {problem_id}.", answer=str(x), meta=meta)


def solution(problem: Problem) -> str:
    """The worked solution: the right guess, a line for each operation, the comparison, the box."""
    operations, target, x = _parse(problem)
    return _write(operations, target, x, _values(operations, x))


def corrupt(problem: Problem, rng: np.random.Generator) -> str:
    """A wrong solution: it boxes a guess that is wrong by up to 8, and of this guess it has

    (70%) an honest evaluation and comparison;
    (15%) a slip in one line, from which everything after it follows;
    (15%) a last line bent towards the question's number, and the comparison with it.
    """
    operations, target, x = _parse(problem)
    guess = _guess(x, rng)
    values = _values(operations, guess)
    kind = rng.choice(["honest", "slip", "bent"], p=[0.7, 0.15, 0.15])
    if kind == "slip":
        i = int(rng.integers(len(operations)))
        wrong = values[i] + slip(values[i], rng)
        values[i:] = [wrong, *_values(operations[i + 1 :], guess, wrong)]
    elif kind == "bent":
        values[-1] = target
    return _write(operations, target, guess, values)


def practise(problem: Problem, rng: np.random.Generator) -> Demonstration:
    """A demonstration of what the solution is made of: evaluating f at a given x (half), or an
    honest wrong guess.

    Only at numbers that would make a training problem with the same operations, so that nothing is
    said about a test problem.
    """
    operations, target, x = _parse(problem)
    text = "".join(operations)
    tried = {guess: _values(operations, guess) for guess in range(SMALLEST, LARGEST + 1)}
    usable = [g for g, v in tried.items() if g == x or split_of(f"{text}={v[-1]}") == "train"]
    near = [guess for guess in usable if 0 < abs(guess - x) <= _NEAR]
    if near and rng.random() < 0.5:
        guess = near[int(rng.integers(len(near)))]
        return Demonstration(problem, _write(operations, target, guess, tried[guess]))
    guess = usable[int(rng.integers(len(usable)))]
    lines, value = _evaluation(operations, guess, tried[guess]), tried[guess][-1]
    given = Problem(f"x={guess}: {text}", f"Try x={guess}: {text}.", answer=str(value))
    return Demonstration(given, "\n".join([*lines, f"\\boxed{{{value}}}"]))


def true_lines(problem: Problem, text: str) -> list[bool]:
    """Whether each line does the next operation of f to the value above, at the guess of the first
    line, and the last one compares with the number in the question. The guess itself says nothing;
    without one, no line is true. After a line that is not true, others are judged by what it says.
    """
    operations, target, _ = _parse(problem)
    first, *lines = lines_of(text) or [""]
    guess = re.fullmatch(r"x=(\d{1,3})", first)
    if guess is None:
        return [False] * len(lines_of(text))
    x = value = int(guess[1])
    found = []
    for i, line in enumerate(lines):
        if i < len(operations):
            after = _values(operations[i : i + 1], x, value)
            found.append([line] == _evaluation(operations[i : i + 1], value, after, x))
            stated = re.search(r"=(-?\d{1,6})$", line)
            value = int(stated[1]) if stated else after[0]
        else:
            found.append(i == len(operations) and line == _comparison(value, target))
    return found


def _draw_operation(rng: np.random.Generator) -> str:
    sign = "+-*"[rng.integers(3)]
    return f"{sign}{rng.integers(2, 5) if sign == '*' else rng.integers(1, 10)}"


def _guess(x: int, rng: np.random.Generator) -> int:
    """A wrong one near by."""
    near = range(max(SMALLEST, x - _NEAR), min(LARGEST, x + _NEAR) + 1)
    return int(rng.choice([guess for guess in near if guess != x]))


def _values(operations: Sequence[str], x: int, start: int | None = None) -> list[int]:
    """The value after each operation, from x or from `start`."""

    def apply(value: int, operation: str) -> int:
        n = x if operation[1:] == "x" else int(operation[1:])
        return {"+": value + n, "-": value - n, "*": value * n}[operation[0]]

    first = x if start is None else start
    return list(itertools.accumulate(operations, apply, initial=first))[1:]


def _parse(problem: Problem) -> tuple[list[str], int, int]:
    """Operations, value and x of a problem that `make_problem` made."""
    match = _PROBLEM.fullmatch(problem.id)
    operations = re.findall(_OPERATION, match[1]) if match else []
    for x in range(SMALLEST, LARGEST + 1):
        if match and _values(operations, x)[-1] == int(match[2]):
            return operations, int(match[2]), x
    raise ValueError(f"{problem.id!r} is not a guessing problem")


def _evaluation(
    operations: Sequence[str], start: int, values: Sequence[int], x: int | None = None
) -> list[str]:
    """A line for each operation, from `start`, which is x if no other one is given."""
    guess, before = start if x is None else x, [start, *values[:-1]]
    return [
        f"{value}{operation.replace('x', str(guess))}={after}"
        for value, operation, after in zip(before, operations, values, strict=True)
    ]


def _comparison(value: int, target: int) -> str:
    return f"{value}{'=' if value == target else '<' if value < target else '>'}{target}"


def _write(operations: Sequence[str], target: int, x: int, values: Sequence[int]) -> str:
    lines = [f"x={x}", *_evaluation(operations, x, values), _comparison(values[-1], target)]
    return "\n".join([*lines, f"\\boxed{{{x}}}"])


TASK = Task(
    "guessing problems",
    make_problem,
    solution,
    corrupt,
    40,
    "char_guess",
    CHARACTERS,
    PHRASES,
    practise=practise,
    true_lines=true_lines,
)
