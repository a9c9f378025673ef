"""The embedded list task: digits moved and changed step by step, generated without limit.

    question   Compute 47291: sort, flip, turn.
    solution   sort 12479
               flip 98631
               turn 86319
               \\boxed{86319}

A list of five digits 1..9 goes through one operation after another:

    sort   ascending                         back   reversed
    flip   every digit d becomes 10 - d      turn   the first digit goes to the end
    next   every digit one up, 9 becomes 1   swap   the first and the last change places

No operation makes a 0, so the result can be read as a number. Difficulty is the number of
operations. Nothing is added: the task asks for another skill than `arithmetic.py`.

This file decides what a problem, its solution and a typical wrong solution look like; which are
drawn is decided in `generated.py`.
"""

import itertools
import re
from collections.abc import Callable, Sequence

import numpy as np

from cipo_jax.data.tasks.generated import Task, lines_of
from cipo_jax.types import Problem

LENGTH = 5  # digits of a list

_OPERATIONS: dict[str, Callable[[str], str]] = {
    "sort": lambda digits: "".join(sorted(digits)),
    "back": lambda digits: digits[::-1],
    "flip": lambda digits: "".join(str(10 - int(d)) for d in digits),
    "turn": lambda digits: digits[1:] + digits[0],
    "next": lambda digits: "".join(str(int(d) % 9 + 1) for d in digits),
    "swap": lambda digits: digits[-1] + digits[1:-1] + digits[0],
}
_NAMES = tuple(_OPERATIONS)
_NAME = f"(?:{'|'.join(_NAMES)})"
_PROBLEM = re.compile(rf"([1-9]{{{LENGTH}}}): ({_NAME}(?:, {_NAME})*)")
PHRASES = (": ", ", ", *_NAMES)  # the tokenizer's pieces for this task


def make_problem(rng: np.random.Generator, min_operations: int, max_operations: int) -> Problem:
    """Draws digits, a number of operations and the operations, all uniform; none follows itself.

    The id is the list with the operations, the answer the last list, and `meta["operations"]` the
    number of operations.
    """
    digits = "".join(str(d) for d in rng.integers(1, 10, LENGTH))
    length = int(rng.integers(min_operations, max_operations + 1))
    names: list[str] = []
    while len(names) < length:
        name = _NAMES[rng.integers(len(_NAMES))]
        if names[-1:] != [name]:
            names.append(name)
    task = f"{digits}: {', '.join(names)}"
    answer = _values(digits, names)[-1]
    return Problem(task, f"Compute {task}.", answer=answer, meta={"operations": length})


def solution(problem: Problem) -> str:
    """The worked solution: one line per operation, then the boxed list."""
    digits, names = _parse(problem)
    return _write(names, _values(digits, names))


def corrupt(problem: Problem, rng: np.random.Generator) -> str:
    """A wrong solution of the kind a half-trained policy writes, with one of these errors, from
    which everything after it follows:

      slip (60%): one digit of one line is another;
      exchange (15%): two neighbouring digits of one line change places;
      other operation (15%): one line does what another operation's name says;
      dropped step (10%): one operation is left out.

    The boxed list always differs from the right one.
    """
    digits, names = _parse(problem)
    # A slip in the last line is always possible, so the loop ends.
    while True:
        text, result = _corruption(digits, names, rng)
        if result != problem.answer:
            return text


def true_lines(problem: Problem, text: str) -> list[bool]:
    """Whether each line has what its operation makes of the list above."""
    (digits, _), found = _parse(problem), []
    for line in lines_of(text):
        name, _, stated = line.partition(" ")
        found.append(name in _OPERATIONS and stated == _OPERATIONS[name](digits))
        if re.fullmatch(rf"[1-9]{{{LENGTH}}}", stated):
            digits = stated
    return found


def _parse(problem: Problem) -> tuple[str, list[str]]:
    """The digits and the operations of a problem that `make_problem` made."""
    match = _PROBLEM.fullmatch(problem.id)
    if match is None:
        raise ValueError(f"{problem.id!r} is not a list problem")
    return match[1], match[2].split(", ")


def _values(digits: str, names: Sequence[str]) -> list[str]:
    """The list after each operation."""
    lists = itertools.accumulate(names, lambda d, name: _OPERATIONS[name](d), initial=digits)
    return list(lists)[1:]


def _write(names: Sequence[str], values: Sequence[str]) -> str:
    lines = [f"{name} {value}" for name, value in zip(names, values, strict=True)]
    return "\n".join([*lines, f"\\boxed{{{values[-1]}}}"])


def _corruption(digits: str, names: list[str], rng: np.random.Generator) -> tuple[str, str]:
    """A solution with a random error, and its result, which may still be right."""
    kind = rng.choice(["slip", "exchange", "operation", "dropped"], p=[0.6, 0.15, 0.15, 0.1])
    line = int(rng.integers(len(names)))
    before = _values(digits, names[:line])
    if kind == "dropped" and len(names) > 1:
        rest = [*names[:line], *names[line + 1 :]]
        values = _values(digits, rest)
        return _write(rest, values), values[-1]
    done = names[line]
    if kind == "operation":
        done = str(rng.choice([name for name in _NAMES if name != done]))
    value = _OPERATIONS[done]((before or [digits])[-1])
    if kind == "exchange":
        i = int(rng.integers(LENGTH - 1))
        value = value[:i] + value[i + 1] + value[i] + value[i + 2 :]
    elif kind != "operation":
        i = int(rng.integers(LENGTH))
        other = str(rng.choice([d for d in "123456789" if d != value[i]]))
        value = value[:i] + other + value[i + 1 :]
    values = [*before, value, *_values(value, names[line + 1 :])]
    return _write(names, values), values[-1]


TASK = Task(
    "list problems",
    make_problem,
    solution,
    corrupt,
    20,
    "char_lists",
    phrases=PHRASES,
    true_lines=true_lines,
)
