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

This file decides what a problem, its solution and a typical wrong solution look like, and which
functions belong to which split. It runs no program: it computes what the functions give itself.
"""

import dataclasses
import re

import numpy as np

from cipo_jax.data.arithmetic import split_of
from cipo_jax.types import CipoError, Demonstration, Problem

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
_SPLITS = ("train", "dev", "test")
_TIME_LIMIT = 2.0  # seconds a call; the functions take microseconds
# Random streams of their own, apart from those of other uses of the same seed and step.
_STREAMS = {"train": 10, "dev": 11, "test": 12, "demonstrations": 13}

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


@dataclasses.dataclass(frozen=True)
class SmallPrograms:
    """A stream of problems of one split.

    Raises:
      CipoError: unknown split, or impossible numbers of operations.
    """

    seed: int
    split: str
    min_operations: int = 1
    max_operations: int = 4

    def __post_init__(self) -> None:
        if self.split not in _SPLITS:
            raise CipoError(f"split: got {self.split!r}, wanted one of {', '.join(_SPLITS)}")
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
                f"number of small programs: got {n}, wanted a number > 0 "
                "(the generator is unlimited, there is no 'all')"
            )
        rng = np.random.default_rng([_STREAMS[self.split]])
        return _distinct(rng, n, self.split, self.min_operations, self.max_operations)


@dataclasses.dataclass(frozen=True)
class SmallProgramDemonstrations:
    """A stream of solutions and corrections over the training split.

    Attributes:
      seed: together with the step it determines a batch.
      correction_share: probability that a demonstration is a correction.
      right_share: probability that a correction's previous attempt is right; else it comes from
        `corrupt`. The solution to imitate is the same in either case.
      min_operations, max_operations: length of the functions.

    Raises:
      CipoError: a share outside [0, 1], or impossible numbers of operations.
    """

    seed: int
    correction_share: float
    right_share: float
    min_operations: int = 1
    max_operations: int = 4

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
    for _ in range(1000 + 200 * n):
        if len(found) == n:
            break
        problem = make_problem(rng, min_operations, max_operations)
        if split_of(problem.id) == split:
            found.setdefault(problem.id, problem)
    if len(found) < n:
        raise CipoError(
            f"asked for {n} different small programs of split {split!r} with "
            f"{min_operations}..{max_operations} operations, found only {len(found)}; "
            "ask for fewer, or allow more operations"
        )
    return list(found.values())
