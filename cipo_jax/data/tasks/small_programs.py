"""The embedded code task: tiny functions, generated without limit and judged by running them.

    question   Write f(x): add 3, times 2, take from 9.
    solution   def f(x):
                x=x+3
                x=x*2
                x=9-x
                return x

A function applies one operation after another to an integer; each operation has an operand of 1..9
(2..9 for `times` and `modulo`). Difficulty is the number of operations. The tests call `f` on a few
integers; they are part of the problem, so the "code" verifier needs nothing else.

This file decides what a problem, its solution and a typical wrong solution look like; which are
drawn is decided in `generated.py`. It runs no program: it computes what the functions give itself.
"""

import re

import numpy as np

from cipo_jax.data.tasks.generated import Task
from cipo_jax.types import Problem

Step = tuple[str, int]  # operation and operand

# word: (the expression, smallest operand)
_OPERATIONS = {
    "add": ("x+{n}", 1),
    "subtract": ("x-{n}", 1),
    "times": ("x*{n}", 2),
    "modulo": ("x%{n}", 2),
    "take from": ("{n}-x", 1),
}
_WORDS = tuple(_OPERATIONS)
_INPUTS = (-7, -1, 0, 1, 4, 10, 23)
_STEP = re.compile(rf"({'|'.join(_WORDS)}) ([1-9])")
_TIME_LIMIT = 2.0  # seconds a call; the functions take microseconds

# What the embedded tokenizer needs to write this task compactly.
CHARACTERS = "%:,"
PHRASES = (
    "Write f(x): ",
    *(f"{word} " for word in _WORDS),
    ", ",
    "def f(x):",
    "\n x=",
    "\n return x",
)


def make_problem(rng: np.random.Generator, min_operations: int, max_operations: int) -> Problem:
    """Draws a function: length uniform, then operations and operands uniform.

    The steps in words are the id; `tests` are call tests; `meta["operations"]` is the length.
    """
    length = int(rng.integers(min_operations, max_operations + 1))
    steps = [_draw_step(rng) for _ in range(length)]
    words = ", ".join(f"{word} {n}" for word, n in steps)
    return Problem(
        id=words,
        question=f"Write f(x): {words}.",
        tests={
            "type": "call",
            "entry_point": "f",
            "time_limit": _TIME_LIMIT,
            "cases": [{"input": [x], "output": _value(steps, x)} for x in _INPUTS],
        },
        meta={"operations": length},
    )


def solution(problem: Problem) -> str:
    """The program: one line per operation."""
    return _write(_parse(problem))


def corrupt(problem: Problem, rng: np.random.Generator) -> str:
    """A wrong program of the kind a half-trained policy writes; its values differ from the right
    ones on at least one of the tests.

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


def _apply(step: Step, x: int) -> int:
    word, n = step
    if word == "add":
        return x + n
    if word == "subtract":
        return x - n
    if word == "times":
        return x * n
    return x % n if word == "modulo" else n - x


def _value(steps: list[Step], x: int) -> int:
    for step in steps:
        x = _apply(step, x)
    return x


def _write(steps: list[Step]) -> str:
    lines = [f"\n x={_OPERATIONS[word][0].format(n=n)}" for word, n in steps]
    return f"def f(x):{''.join(lines)}\n return x"


def _parse(problem: Problem) -> list[Step]:
    """The steps of a problem that `make_problem` made."""
    steps = []
    for part in problem.id.split(", "):
        match = _STEP.fullmatch(part)
        if match is None:
            raise ValueError(f"{problem.id!r} is not a small program")
        steps.append((match[1], int(match[2])))
    return steps


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
        smallest = _OPERATIONS[word][1]
        wrong[i] = word, int(rng.choice([m for m in range(smallest, 10) if m != n]))
    return wrong


TASK = Task(
    "small programs",
    make_problem,
    solution,
    corrupt,
    first_stream=10,
    tokenizer="char_code",
    characters=CHARACTERS,
    phrases=PHRASES,
)
