"""The embedded task: chains of integer arithmetic, generated without limit and checked exactly.

    question   Compute (((7+2)*3)-5).
    solution   7+2=9
               9*3=27
               27-5=22
               \\boxed{22}

A chain applies one operation after another to a running value. Leaves are 1..9, every running
value stays within 0..99, and `*` takes a factor of 2..9. Its difficulty is its number of
operations.

This file decides what a problem, its solution and a typical wrong solution look like; which are
drawn is decided in `generated.py`.
"""

import itertools
import re
from collections.abc import Sequence

import numpy as np

from cipo_jax.data.tasks.equations import equations
from cipo_jax.data.tasks.generated import Task, lines_of
from cipo_jax.types import Problem

MAX_VALUE = 99
Step = tuple[str, int]  # operator and leaf
_WRITTEN_VALUES = re.compile(r"(?:^|=|\{)(-?\d+)", re.MULTILINE)
_CHAIN = re.compile(r"\(+[1-9](?:[-+*][1-9]\))+")


def _apply(value: int, operator: str, leaf: int) -> int:
    if operator == "+":
        return value + leaf
    return value - leaf if operator == "-" else value * leaf


def _legal_leaves(value: int) -> list[tuple[str, list[int]]]:
    """The leaves each operator may take at a running value, operators without any left out."""
    legal = (
        (operator, [n for n in range(first, 10) if 0 <= _apply(value, operator, n) <= MAX_VALUE])
        for operator, first in (("+", 1), ("-", 1), ("*", 2))
    )
    return [(operator, leaves) for operator, leaves in legal if leaves]


_LEGAL = [_legal_leaves(value) for value in range(MAX_VALUE + 1)]


def make_problem(rng: np.random.Generator, min_operations: int, max_operations: int) -> Problem:
    """Draws a chain: length uniform, then operators and leaves uniform among the legal ones.

    The expression is the id, the text of its value the answer, and `meta["operations"]` its length.
    """
    length = int(rng.integers(min_operations, max_operations + 1))
    value = int(rng.integers(1, 10))
    expression = str(value)
    for _ in range(length):
        operator, leaves = _LEGAL[value][rng.integers(len(_LEGAL[value]))]
        leaf = leaves[rng.integers(len(leaves))]
        value = _apply(value, operator, leaf)
        expression = f"({expression}{operator}{leaf})"
    question = f"Compute {expression}."
    return Problem(expression, question, answer=str(value), meta={"operations": length})


def solution(problem: Problem) -> str:
    """The worked solution: one line per operation, then the boxed value."""
    return _write(*_parse(problem))


def corrupt(problem: Problem, rng: np.random.Generator) -> str:
    """A wrong solution of the kind a half-trained policy writes, with one of these errors, from
    which everything after it follows:

      slip (60%): one line has a wrong result: off by 1, 2 or 10, or one digit replaced;
      two slips (10%): as before, in two different lines;
      wrong operand (10%): one line uses another leaf than the problem has;
      misread value (10%): a line, or the box, starts from another value than the line above gave;
      dropped step (10%): one operation is left out.

    The boxed value always differs from the right one, and every value stays within 0..99.
    """
    first, steps = _parse(problem)
    # A slip in the last line is always possible, so a legal corruption exists and the loop ends.
    while True:
        text = _corruption(first, steps, rng)
        values = [int(number) for number in _WRITTEN_VALUES.findall(text)]
        if str(values[-1]) != problem.answer and all(0 <= v <= MAX_VALUE for v in values):
            return text


def true_lines(problem: Problem, text: str) -> list[bool]:
    """Whether each line is a true equation. One that is none counts as not true."""
    del problem
    return [equations(line) == [True] for line in lines_of(text)]


def _parse(problem: Problem) -> tuple[int, list[Step]]:
    """The first leaf and the steps of a problem that `make_problem` made."""
    if not _CHAIN.fullmatch(problem.id):
        raise ValueError(f"{problem.id!r} is not an arithmetic chain")
    bare = problem.id.replace("(", "").replace(")", "")
    return int(bare[0]), [(bare[i], int(bare[i + 1])) for i in range(1, len(bare), 2)]


def _write(
    first: int,
    steps: Sequence[Step],
    results: dict[int, int] | None = None,
    reads: dict[int, int] | None = None,
) -> str:
    """The text of a solution. `results[i]` is added to the result of line i, and `reads[i]` to the
    value that line i starts from (`reads[len(steps)]`: to the boxed value)."""
    results, reads = results or {}, reads or {}
    value, lines = first, []
    for i, (operator, leaf) in enumerate(steps):
        left = value + reads.get(i, 0)
        value = _apply(left, operator, leaf) + results.get(i, 0)
        lines.append(f"{left}{operator}{leaf}={value}")
    lines.append(f"\\boxed{{{value + reads.get(len(steps), 0)}}}")
    return "\n".join(lines)


def _corruption(first: int, steps: list[Step], rng: np.random.Generator) -> str:
    """A solution with a random error; it may still box the right value or leave 0..99."""
    kinds = ["slip", "two slips", "operand", "misread", "dropped"]
    kind = rng.choice(kinds, p=[0.6, 0.1, 0.1, 0.1, 0.1])
    line = int(rng.integers(len(steps)))
    operator, leaf = steps[line]
    if kind == "operand":
        other = int(rng.choice([n for n in range(1 + (operator == "*"), 10) if n != leaf]))
        return _write(first, [*steps[:line], (operator, other), *steps[line + 1 :]])
    if kind == "dropped" and len(steps) > 1:
        return _write(first, [*steps[:line], *steps[line + 1 :]])
    values = list(itertools.accumulate(steps, lambda v, s: _apply(v, *s), initial=first))[1:]
    if kind == "misread":
        return _write(first, steps, reads={line + 1: slip(values[line], rng)})
    slips = {line: slip(values[line], rng)}
    if kind == "two slips" and len(steps) > 1:
        second = int(rng.choice([i for i in range(len(steps)) if i != line]))
        slips[second] = slip(values[second], rng)
    return _write(first, steps, results=slips)


def slip(value: int, rng: np.random.Generator) -> int:
    """A nonzero error in writing down `value`: off by 1, 2 or 10, or one digit replaced."""
    offset = int(rng.choice([0, 1, 1, 2, 10]))
    if offset:
        return offset if rng.random() < 0.5 else -offset
    digits = list(str(value))
    position = int(rng.integers(len(digits)))
    digits[position] = str(rng.choice([d for d in "0123456789" if d != digits[position]]))
    return int("".join(digits)) - value


TASK = Task(
    "arithmetic problems", make_problem, solution, corrupt, first_stream=0, true_lines=true_lines
)
