"""The embedded task: chains of integer arithmetic, generated without limit and checked exactly.

    question   Compute (((7+2)*3)-5).
    solution   7+2=9
               9*3=27
               27-5=22
               \\boxed{22}

A chain applies one operation after another to a running value. Leaves are 1..9, every running
value stays within 0..99, and `*` takes a factor of 2..9. Its difficulty is its number of
operations.

This file decides what a problem, its solution and a typical wrong solution look like, and which
expressions belong to which split. It does not decide how prompts are worded or tokenised.
"""

import dataclasses
import hashlib
import re
from collections.abc import Sequence

import numpy as np

from cipo_jax.types import CipoError, Demonstration, Problem

MAX_VALUE = 99

Step = tuple[str, int]  # operator and leaf

# Sixteen buckets of a hash of the expression. A split is a property of the expression alone, so
# that no seed or size can move a test problem into training.
_SPLIT_BUCKETS = {"train": range(3, 16), "dev": range(2, 3), "test": range(2)}
# Separate random streams, so that equal seeds and steps do not correlate different uses.
_STREAMS = {"train": 0, "dev": 1, "test": 2, "demonstrations": 3}

_WRITTEN_VALUES = re.compile(r"(?:^|=|\{)(-?\d+)", re.MULTILINE)
_CHAIN = re.compile(r"\(+[1-9](?:[-+*][1-9]\))+")


def _apply(value: int, operator: str, leaf: int) -> int:
    if operator == "+":
        return value + leaf
    return value - leaf if operator == "-" else value * leaf


def _legal_leaves(value: int) -> dict[str, list[int]]:
    """The leaves each operator may take at a running value, operators without any left out."""
    smallest = {"+": 1, "-": 1, "*": 2}
    legal = {
        operator: [n for n in range(first, 10) if 0 <= _apply(value, operator, n) <= MAX_VALUE]
        for operator, first in smallest.items()
    }
    return {operator: leaves for operator, leaves in legal.items() if leaves}


_LEGAL = [list(_legal_leaves(value).items()) for value in range(MAX_VALUE + 1)]


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
    return Problem(
        id=expression,
        question=f"Compute {expression}.",
        answer=str(value),
        meta={"operations": length},
    )


def split_of(expression: str) -> str:
    """The split an expression belongs to: "train" (13/16), "dev" (1/16) or "test" (1/8)."""
    bucket = hashlib.sha256(expression.encode()).digest()[0] % 16
    return next(split for split, buckets in _SPLIT_BUCKETS.items() if bucket in buckets)


def solution(problem: Problem) -> str:
    """The worked solution: one line per operation, then the boxed value."""
    first, steps = _parse(problem)
    return _write(first, steps)


def corrupt(problem: Problem, rng: np.random.Generator) -> str:
    """A wrong solution of the kind a half-trained policy writes.

    The error is one of the following, and everything after it follows from it consistently:

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


@dataclasses.dataclass(frozen=True)
class ArithmeticProblems:
    """A stream of problems of one split.

    Raises:
      CipoError: unknown split, or impossible numbers of operations.
    """

    seed: int
    split: str
    min_operations: int = 2
    max_operations: int = 5

    def __post_init__(self) -> None:
        if self.split not in _SPLIT_BUCKETS:
            raise CipoError(f"split: got {self.split!r}, wanted one of {', '.join(_SPLIT_BUCKETS)}")
        _check_operations(self.min_operations, self.max_operations)

    def batch(self, step: int, size: int) -> list[Problem]:
        """`size` different problems: a pure function of (seed, split, step)."""
        rng = np.random.default_rng([self.seed, step, _STREAMS[self.split]])
        return _distinct(rng, size, self.split, self.min_operations, self.max_operations)

    def first(self, n: int) -> list[Problem]:
        """`n` different problems, the same for every seed, so that runs are comparable.

        Raises:
          CipoError: `n` is 0 (the generator has no end), or the split has fewer problems.
        """
        if n <= 0:
            raise CipoError(
                f"number of arithmetic problems: got {n}, wanted a number > 0 "
                "(the generator is unlimited, there is no 'all')"
            )
        rng = np.random.default_rng([_STREAMS[self.split]])
        return _distinct(rng, n, self.split, self.min_operations, self.max_operations)


@dataclasses.dataclass(frozen=True)
class ArithmeticDemonstrations:
    """A stream of worked solutions and corrections over the training split.

    Attributes:
      seed: together with the step it determines a batch.
      correction_share: probability that a demonstration is a correction.
      right_share: probability that a correction's previous attempt is right; else it comes from
        `corrupt`. The solution to imitate is the same in either case.
      min_operations, max_operations: length of the chains.

    Raises:
      CipoError: a share outside [0, 1], or impossible numbers of operations.
    """

    seed: int
    correction_share: float
    right_share: float
    min_operations: int = 2
    max_operations: int = 5

    def __post_init__(self) -> None:
        for name in ("correction_share", "right_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise CipoError(f"{name}: got {getattr(self, name)}, wanted a share in [0, 1]")
        _check_operations(self.min_operations, self.max_operations)

    def batch(self, step: int, size: int) -> list[Demonstration]:
        """`size` demonstrations of different problems: a pure function of (seed, step)."""
        rng = np.random.default_rng([self.seed, step, _STREAMS["demonstrations"]])
        problems = _distinct(rng, size, "train", self.min_operations, self.max_operations)
        return [self._demonstration(problem, rng) for problem in problems]

    def _demonstration(self, problem: Problem, rng: np.random.Generator) -> Demonstration:
        worked = solution(problem)
        if rng.random() >= self.correction_share:
            return Demonstration(problem, worked)
        previous = worked if rng.random() < self.right_share else corrupt(problem, rng)
        return Demonstration(problem, worked, previous_attempt=previous)


def _check_operations(minimum: int, maximum: int) -> None:
    if not 1 <= minimum <= maximum:
        raise CipoError(
            f"min_operations, max_operations: got {minimum}, {maximum}, "
            "wanted 1 <= min_operations <= max_operations"
        )


def _distinct(
    rng: np.random.Generator, n: int, split: str, min_operations: int, max_operations: int
) -> list[Problem]:
    """The first `n` different problems of a split that `rng` draws."""
    found: dict[str, Problem] = {}
    draws_left = 1000 + 200 * n
    while len(found) < n:
        if draws_left == 0:
            raise CipoError(
                f"asked for {n} different arithmetic problems of split {split!r} with "
                f"{min_operations}..{max_operations} operations, found only {len(found)}; "
                "ask for fewer, or allow more operations"
            )
        draws_left -= 1
        problem = make_problem(rng, min_operations, max_operations)
        if split_of(problem.id) == split:
            found.setdefault(problem.id, problem)
    return list(found.values())


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
    """The text of a solution.

    `results[i]` is added to the result of line i, and `reads[i]` to the value that line i starts
    from (`reads[len(steps)]`: to the boxed value).
    """
    results, reads = results or {}, reads or {}
    value = first
    lines = []
    for i, (operator, leaf) in enumerate(steps):
        left = value + reads.get(i, 0)
        value = _apply(left, operator, leaf) + results.get(i, 0)
        lines.append(f"{left}{operator}{leaf}={value}")
    lines.append(f"\\boxed{{{value + reads.get(len(steps), 0)}}}")
    return "\n".join(lines)


def _corruption(first: int, steps: list[Step], rng: np.random.Generator) -> str:
    """A solution with a random error; it may still box the right value or leave 0..99."""
    kind = rng.choice(
        ["slip", "two slips", "operand", "misread", "dropped"], p=[0.6, 0.1, 0.1, 0.1, 0.1]
    )
    line = int(rng.integers(len(steps)))
    operator, leaf = steps[line]
    if kind == "operand":
        other = int(rng.choice([n for n in range(1 + (operator == "*"), 10) if n != leaf]))
        return _write(first, [*steps[:line], (operator, other), *steps[line + 1 :]])
    if kind == "dropped" and len(steps) > 1:
        return _write(first, [*steps[:line], *steps[line + 1 :]])
    values = _values(first, steps)
    if kind == "misread":
        return _write(first, steps, reads={line + 1: _slip(values[line], rng)})
    slips = {line: _slip(values[line], rng)}
    if kind == "two slips" and len(steps) > 1:
        second = int(rng.choice([i for i in range(len(steps)) if i != line]))
        slips[second] = _slip(values[second], rng)
    return _write(first, steps, results=slips)


def _values(first: int, steps: Sequence[Step]) -> list[int]:
    values = [first]
    for operator, leaf in steps:
        values.append(_apply(values[-1], operator, leaf))
    return values[1:]


def _slip(value: int, rng: np.random.Generator) -> int:
    """A nonzero error in writing down `value`: off by 1, 2 or 10, or one digit replaced."""
    offset = int(rng.choice([0, 1, 1, 2, 10]))
    if offset:
        return offset if rng.random() < 0.5 else -offset
    digits = list(str(value))
    position = int(rng.integers(len(digits)))
    digits[position] = str(rng.choice([d for d in "0123456789" if d != digits[position]]))
    return int("".join(digits)) - value
