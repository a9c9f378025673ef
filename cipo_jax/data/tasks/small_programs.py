"""The embedded code task: tiny functions, generated without limit and judged by running them.

    question   Write f(x): add 3, times 2, take from 9.
    solution   def f(x):
                x=x+3
                x=x*2
                x=9-x
                return x

A function applies one operation after another to an integer; each operation has an operand of 1..9
(2..9 for `times` and `modulo`). Difficulty is the number of operations. The problem holds its tests
for the "code" verifier: calls of `f` on a few integers.

This file decides what a problem, its solution and a typical wrong solution look like; which are
drawn is decided in `generated.py`. It runs no program: it computes the values itself.
"""

import re
from collections.abc import Callable

import numpy as np

from cipo_jax.data.tasks.generated import Task
from cipo_jax.types import Problem

Step = tuple[str, int]  # operation and operand

# word: (the expression, smallest operand, what it does)
_OPERATIONS: dict[str, tuple[str, int, Callable[[int, int], int]]] = {
    "add": ("x+{n}", 1, lambda x, n: x + n),
    "subtract": ("x-{n}", 1, lambda x, n: x - n),
    "times": ("x*{n}", 2, lambda x, n: x * n),
    "modulo": ("x%{n}", 2, lambda x, n: x % n),
    "take from": ("{n}-x", 1, lambda x, n: n - x),
}
_WORDS = tuple(_OPERATIONS)
_INPUTS = (-7, -1, 0, 1, 4, 10, 23)
_STEP = re.compile(rf"({'|'.join(_WORDS)}) ([1-9])")
_TIME_LIMIT = 2.0  # seconds a call; the functions take microseconds

# The tokenizer's pieces for this task.
CHARACTERS = "%:,"
PHRASES = ("Write f(x): ", *(f"{w} " for w in _WORDS), ", ", "def f(x):", "\n x=", "\n return x")


def make_problem(rng: np.random.Generator, min_operations: int, max_operations: int) -> Problem:
    """Draws a function: length uniform, then operations and operands uniform.

    The steps in words are the id; `tests` are call tests; `meta["operations"]` is the length.
    """
    length = int(rng.integers(min_operations, max_operations + 1))
    steps = [_draw_step(rng) for _ in range(length)]
    words = ", ".join(f"{word} {n}" for word, n in steps)
    cases = [{"input": [x], "output": _value(steps, x)} for x in _INPUTS]
    tests = {"type": "call", "entry_point": "f", "time_limit": _TIME_LIMIT, "cases": cases}
    return Problem(words, f"Write f(x): {words}.", tests=tests, meta={"operations": length})


def solution(problem: Problem) -> str:
    """The program: one line per operation."""
    return _write(_parse(problem))


def corrupt(problem: Problem, rng: np.random.Generator) -> str:
    """A wrong program of the kind a half-trained policy writes; it fails at least one of the tests.

    One operation has another operand (40%) or is another one (40%), one is left out (10%), or two
    are swapped (10%).
    """
    steps = _parse(problem)
    # Another operand of the last operation changes its values, so the loop ends.
    while True:
        wrong = _corruption(steps, rng)
        if any(_value(wrong, x) != _value(steps, x) for x in _INPUTS):
            return _write(wrong)


def _draw_step(rng: np.random.Generator) -> Step:
    word = _WORDS[rng.integers(len(_WORDS))]
    return word, int(rng.integers(_OPERATIONS[word][1], 10))


def _value(steps: list[Step], x: int) -> int:
    for word, n in steps:
        x = _OPERATIONS[word][2](x, n)
    return x


def _write(steps: list[Step]) -> str:
    lines = [f"\n x={_OPERATIONS[word][0].format(n=n)}" for word, n in steps]
    return f"def f(x):{''.join(lines)}\n return x"


def _parse(problem: Problem) -> list[Step]:
    """The steps of a problem that `make_problem` made."""
    matches = [_STEP.fullmatch(part) for part in problem.id.split(", ")]
    if None in matches:
        raise ValueError(f"{problem.id!r} is not a small program")
    return [(match[1], int(match[2])) for match in matches if match]


def _corruption(steps: list[Step], rng: np.random.Generator) -> list[Step]:
    """Other steps; the function may still be the same on the tests."""
    kind = rng.choice(["operand", "operation", "dropped", "swapped"], p=[0.4, 0.4, 0.1, 0.1])
    wrong = list(steps)
    i = int(rng.integers(len(steps)))
    word, n = steps[i]
    if kind == "operation":
        other = str(rng.choice([w for w in _WORDS if w != word]))
        wrong[i] = other, max(n, _OPERATIONS[other][1])
    elif kind == "dropped" and len(steps) > 1:
        del wrong[i]
    elif kind == "swapped" and len(steps) > 1:
        j = (i + 1) % len(steps)
        wrong[i], wrong[j] = steps[j], steps[i]
    else:
        wrong[i] = word, int(rng.choice([m for m in range(_OPERATIONS[word][1], 10) if m != n]))
    return wrong


TASK = Task("small programs", make_problem, solution, corrupt, 10, "char_code", CHARACTERS, PHRASES)
