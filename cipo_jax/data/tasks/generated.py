"""Unlimited problems and demonstrations of a task.

A task says how one problem, its solution and a wrong solution are made (`embedded.py` lists the
tasks). This file decides which problems belong to which split, and what a batch is: a pure function
of the seed and the step.
"""

import dataclasses
import hashlib
import itertools
from collections.abc import Callable, Iterator

import numpy as np

from cipo_jax.types import CipoError, Demonstration, Problem

# Sixteen buckets of a hash of the problem's id. The problem alone determines its split, so that no
# seed or size can move a test problem into training.
_SPLIT_BUCKETS = {"train": range(3, 16), "dev": range(2, 3), "test": range(2)}
# Separate random streams, so that equal seeds and steps do not correlate different uses.
_STREAMS = {"train": 0, "dev": 1, "test": 2, "demonstrations": 3, "given": 4}

TrueLines = Callable[[Problem, str], list[bool]]


@dataclasses.dataclass(frozen=True)
class Task:
    """How one kind of problem is made."""

    name: str  # of the problems, in the plural, for messages
    # (rng, fewest operations, most operations) -> a problem. The id alone must determine the
    # problem: its split and its solution are computed from it.
    make_problem: Callable[[np.random.Generator, int, int], Problem]
    solution: Callable[[Problem], str]  # worked
    corrupt: Callable[[Problem, np.random.Generator], str]  # a wrong solution
    first_stream: int  # a multiple of 10 that no other task has: it separates their random streams
    tokenizer: str = "char"  # name of the embedded tokenizer that can write the task's texts
    characters: str = ""  # what that tokenizer has besides the pieces of "char"
    phrases: tuple[str, ...] = ()
    # A demonstration of a part of what solutions of this problem are made of, or of an honest wrong
    # one; None: the task has none. Its problem need not be one of the task.
    practise: Callable[[Problem, np.random.Generator], Demonstration] | None = None
    # Of an attempt's text, whether each line that says something is true, given the question and
    # the lines above; the boxed one is left out. It computes what texts say, and never runs them.
    # None: lines of this task say nothing that can be checked.
    true_lines: TrueLines | None = None

    def stream(self, use: str) -> int:
        """The random stream of "train", "dev", "test", "demonstrations" or "given"."""
        return self.first_stream + _STREAMS[use]


def split_of(problem_id: str) -> str:
    """The split a generated problem belongs to: "train" (13/16), "dev" (1/16) or "test" (1/8)."""
    bucket = hashlib.sha256(problem_id.encode()).digest()[0] % 16
    return next(split for split, buckets in _SPLIT_BUCKETS.items() if bucket in buckets)


@dataclasses.dataclass(frozen=True)
class GeneratedProblems:
    """A stream of a task's problems of one split.

    Raises:
      CipoError: unknown split, or impossible numbers of operations.
    """

    task: Task
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
        return self._draw([self.seed, step, self.task.stream(self.split)], size)

    @property
    def different(self) -> int | None:
        return None

    def offer(self, step: int, drawn: int) -> Iterator[Problem]:
        """The problems of `batch(step, ...)`, one by one; it ends where no further one is found."""
        del drawn
        rng = np.random.default_rng([self.seed, step, self.task.stream(self.split)])
        bounds = self.min_operations, self.max_operations
        yield from _different(self.task, rng, self.split, bounds)

    def first(self, n: int) -> list[Problem]:
        """`n` different problems, the same for every seed, so that runs are comparable.

        Raises:
          CipoError: `n` is 0 (the generator is unlimited), or the split has fewer problems.
        """
        if n <= 0:
            raise CipoError(
                f"got {n} {self.task.name}, wanted a number > 0 "
                "(the generator is unlimited, there is no 'all')"
            )
        return self._draw([self.task.stream(self.split)], n)

    def _draw(self, seeds: list[int], n: int) -> list[Problem]:
        bounds = self.min_operations, self.max_operations
        return _distinct(self.task, np.random.default_rng(seeds), n, self.split, bounds)


@dataclasses.dataclass(frozen=True)
class GeneratedDemonstrations:
    """A stream of worked solutions and corrections of a task's training split.

    Raises:
      CipoError: a share outside [0, 1], or impossible numbers of operations.
    """

    task: Task
    seed: int
    correction_share: float  # probability that a demonstration is a correction
    # Probability that a correction's previous attempt is right; else it comes from `Task.corrupt`.
    # The solution to imitate is the same in either case.
    right_share: float
    min_operations: int = 2
    max_operations: int = 5
    practice_share: float = 0.0  # probability of `Task.practise`, if the task has it

    def __post_init__(self) -> None:
        for name in ("correction_share", "right_share", "practice_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise CipoError(f"{name}: got {getattr(self, name)}, wanted a share in [0, 1]")
        _check_operations(self.min_operations, self.max_operations)

    def batch(self, step: int, size: int) -> list[Demonstration]:
        """`size` demonstrations of different problems: a pure function of (seed, step)."""
        rng = np.random.default_rng([self.seed, step, self.task.stream("demonstrations")])
        bounds = self.min_operations, self.max_operations
        problems = _distinct(self.task, rng, size, "train", bounds)
        return [self._demonstration(problem, rng) for problem in problems]

    def _demonstration(self, problem: Problem, rng: np.random.Generator) -> Demonstration:
        if self.task.practise and rng.random() < self.practice_share:
            while True:
                practice = self.task.practise(problem, rng)
                if split_of(practice.problem.id) == "train":
                    return practice
        worked = self.task.solution(problem)
        if rng.random() >= self.correction_share:
            return Demonstration(problem, worked)
        is_right = rng.random() < self.right_share
        previous = worked if is_right else self.task.corrupt(problem, rng)
        return Demonstration(problem, worked, previous_attempt=previous)


def given_solutions(task: Task, problem: Problem, wrong: int) -> list[tuple[str, bool]]:
    """`wrong` wrong solutions of a problem and the right one last, each with whether it is right:
    a function of the problem alone."""
    seed = int.from_bytes(hashlib.sha256(problem.id.encode()).digest()[:8])
    rng = np.random.default_rng([seed, task.stream("given")])
    solutions = [(task.corrupt(problem, rng), False) for _ in range(wrong)]
    return [*solutions, (task.solution(problem), True)]


def lines_of(text: str) -> list[str]:
    """The lines of an attempt, without the boxed one and empty ones."""
    return [line for line in text.split("\n") if line and not line.startswith("\\boxed")]


def _check_operations(minimum: int, maximum: int) -> None:
    if not 1 <= minimum <= maximum:
        raise CipoError(
            f"min_operations, max_operations: got {minimum}, {maximum}, "
            "wanted 1 <= min_operations <= max_operations"
        )


def _distinct(
    task: Task, rng: np.random.Generator, n: int, split: str, bounds: tuple[int, int]
) -> list[Problem]:
    """The first `n` different problems that `rng` draws, of a split and with operations within
    `bounds`."""
    found = list(itertools.islice(_different(task, rng, split, bounds), n))
    if len(found) < n:
        raise CipoError(
            f"asked for {n} different {task.name} of split {split!r} with "
            f"{bounds[0]}..{bounds[1]} operations, found only {len(found)}; "
            "ask for fewer, or allow more operations"
        )
    return found


def _different(
    task: Task, rng: np.random.Generator, split: str, bounds: tuple[int, int]
) -> Iterator[Problem]:
    """The different problems of a split that `rng` draws; it ends when they have become rare."""
    found: set[str] = set()
    tries = 0
    while tries < 1000 + 200 * (len(found) + 1):
        tries += 1
        problem = task.make_problem(rng, *bounds)
        if split_of(problem.id) == split and problem.id not in found:
            found.add(problem.id)
            yield problem
