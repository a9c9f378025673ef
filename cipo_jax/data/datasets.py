"""Problems and demonstrations from jsonl files, in an order that only (seed, step) decides.

A line of a problem file is one object: `question` (or `problem`), `answer` (text) or `tests` (an
object), optionally `id`; everything else goes to `Problem.meta`. A line of a demonstration file
has `question` (or `problem`), `solution`, and optionally `previous_attempt`, `id`, `answer`.

Files are read and checked whole before anything else happens; every complaint names file, line
and field. This file does not decide how problems are worded for the policy (`prompts.py`).
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from cipo_jax.data.arithmetic import ArithmeticDemonstrations, ArithmeticProblems
from cipo_jax.data.small_programs import SmallProgramDemonstrations, SmallPrograms
from cipo_jax.types import CipoError, Demonstration, Problem

# The names of the embedded tasks in place of a file.
ARITHMETIC, PROGRAMS = "arithmetic", "programs"

Item = TypeVar("Item")


class ProblemSource(Protocol):
    """Where problems come from."""

    def batch(self, step: int, size: int) -> list[Problem]:
        """`size` problems for training step `step`: a pure function of (seed, step, size)."""

    def first(self, n: int) -> list[Problem]:
        """A fixed list of `n` problems for evaluation, the same for every seed."""


class DemonstrationSource(Protocol):
    """Where demonstrations come from."""

    def batch(self, step: int, size: int) -> list[Demonstration]:
        """`size` demonstrations for cold-start step `step`: a function of (seed, step, size)."""


def open_problems(
    name: str, seed: int, split: str, *, min_operations: int = 2, max_operations: int = 5
) -> ProblemSource:
    """The problems called `name`.

    Args:
      name: "arithmetic" or "programs" (embedded generators), or a jsonl file.
      seed: of the order or of the draws.
      split: "train", "dev" or "test" of the generator. A file is one split and ignores it.
      min_operations, max_operations: of the generator's problems; a file ignores them.

    Raises:
      CipoError: anything wrong with the file or the settings.
    """
    if name == ARITHMETIC:
        return ArithmeticProblems(seed, split, min_operations, max_operations)
    if name == PROGRAMS:
        return SmallPrograms(seed, split, min_operations, max_operations)
    return JsonlProblems(load_problems(name), seed)


def open_demonstrations(
    name: str,
    seed: int,
    *,
    correction_share: float,
    right_share: float,
    min_operations: int = 2,
    max_operations: int = 5,
) -> DemonstrationSource:
    """The demonstrations called `name`: "arithmetic", "programs", or a jsonl file.

    The shares and the numbers of operations shape what the generator makes (see
    `ArithmeticDemonstrations`); a file has its own mixture and ignores them.

    Raises:
      CipoError: anything wrong with the file or the settings.
    """
    if name == ARITHMETIC:
        return ArithmeticDemonstrations(
            seed, correction_share, right_share, min_operations, max_operations
        )
    if name == PROGRAMS:
        return SmallProgramDemonstrations(
            seed, correction_share, right_share, min_operations, max_operations
        )
    return JsonlDemonstrations(load_demonstrations(name), seed)


class _EpochShuffled(Generic[Item]):
    """Items in a new random order each epoch, one epoch after the other.

    With a fixed batch size every item occurs exactly once per epoch, batches running across the
    borders.
    """

    def __init__(self, items: Sequence[Item], seed: int) -> None:
        if not items:
            raise CipoError("data: got no items, wanted at least one")
        self._items = list(items)
        self._seed = seed

    def batch(self, step: int, size: int) -> list[Item]:
        count = len(self._items)
        positions = range(step * size, (step + 1) * size)
        orders = {
            epoch: np.random.default_rng([self._seed, epoch]).permutation(count)
            for epoch in {position // count for position in positions}
        }
        return [self._items[orders[p // count][p % count]] for p in positions]


class JsonlProblems(_EpochShuffled[Problem]):
    """Problems of a file; `batch(step, size)` shuffles per epoch, `first(n)` keeps file order."""

    def first(self, n: int) -> list[Problem]:
        """The first `n` problems; 0 means all.

        Raises:
          CipoError: there are fewer than `n`.
        """
        if not 0 <= n <= len(self._items):
            raise CipoError(
                f"number of problems: got {n}, wanted at most the {len(self._items)} "
                "there are, or 0 for all"
            )
        return self._items[:n] if n else list(self._items)


class JsonlDemonstrations(_EpochShuffled[Demonstration]):
    """Demonstrations of a file; `batch(step, size)` shuffles per epoch."""


def load_problems(path: str | Path) -> list[Problem]:
    """All problems of a jsonl file, in file order.

    Problems without an id are called `<file stem>:<line number>`.

    Raises:
      CipoError: names file, line and field of the first mistake.
    """
    problems: list[Problem] = []
    line_of_id: dict[str, int] = {}
    for line, where, row in _objects(Path(path)):
        problem_id, question = _id_and_question(row, where, Path(path), line)
        answer, tests = _optional_text(row, "answer", where), row.pop("tests", None)
        if tests is not None and not (isinstance(tests, Mapping) and tests):
            raise CipoError(f"{where}: tests: got {_shown(tests)}, wanted a non-empty object")
        if answer is None and tests is None:
            raise CipoError(f"{where}: answer: missing; wanted answer (text) or tests (an object)")
        if problem_id in line_of_id:
            raise CipoError(
                f"{where}: id: {problem_id!r} is also the id of line {line_of_id[problem_id]}; "
                "wanted a different one for each problem"
            )
        line_of_id[problem_id] = line
        problems.append(Problem(problem_id, question, answer=answer, tests=tests, meta=row))
    return problems


def load_demonstrations(path: str | Path) -> list[Demonstration]:
    """All demonstrations of a jsonl file, in file order; several may share a problem and its id.

    Raises:
      CipoError: names file, line and field of the first mistake.
    """
    demonstrations = []
    for line, where, row in _objects(Path(path)):
        problem_id, question = _id_and_question(row, where, Path(path), line)
        solution = _text(row, "solution", where)
        previous = _optional_text(row, "previous_attempt", where)
        answer = _optional_text(row, "answer", where)
        problem = Problem(problem_id, question, answer=answer, meta=row)
        demonstrations.append(Demonstration(problem, solution, previous_attempt=previous))
    return demonstrations


def _objects(path: Path) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """(line number, "file:line", object) of each line that is not blank."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise CipoError(
            f"{path}: there is no such file; wanted a jsonl file, "
            f"or {ARITHMETIC!r} for the embedded task"
        ) from None
    except OSError as error:
        raise CipoError(f"{path}: cannot be read: {error.strerror}") from error
    if not content.strip():
        raise CipoError(f"{path}: the file is empty, wanted one json object a line")
    lines = content.split(b"\n")
    for number, raw in enumerate(lines, start=1):
        if raw.strip():
            where = f"{path}:{number}"
            yield number, where, _object(raw, where, cut=number == len(lines))


def _object(raw: bytes, where: str, cut: bool) -> dict[str, Any]:
    """One line as an object; `cut`: no line feed follows, so the file may end too early."""
    hint = "; the file ends within this line, it may have been cut" if cut else ""
    try:
        row = json.loads(raw.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise CipoError(f"{where}: not UTF-8 (byte {error.start} of the line){hint}") from error
    except (ValueError, RecursionError) as error:
        raise CipoError(f"{where}: not JSON: {error}{hint}") from error
    if not isinstance(row, dict):
        raise CipoError(f"{where}: got {_shown(row)}, wanted a json object")
    return row


def _id_and_question(row: dict[str, Any], where: str, path: Path, line: int) -> tuple[str, str]:
    """Takes id and question out of `row`."""
    if "question" in row and "problem" in row:
        raise CipoError(f"{where}: question: there is also a field problem; wanted one of the two")
    question = _text(row, "problem" if "problem" in row else "question", where)
    return _optional_text(row, "id", where) or f"{path.stem}:{line}", question


def _text(row: dict[str, Any], field: str, where: str) -> str:
    """Takes a required text out of `row`."""
    value = _optional_text(row, field, where)
    if value is None:
        found = ", ".join(row) or "none"
        raise CipoError(f"{where}: {field}: missing; other fields of the line: {found}")
    return value


def _optional_text(row: dict[str, Any], field: str, where: str) -> str | None:
    """Takes a text out of `row`; None if it is absent or null."""
    value = row.pop(field, None)
    if value is None:
        return None
    if not isinstance(value, str):
        hint = f'; write "{value}"' if type(value) in (int, float) else ""
        raise CipoError(f"{where}: {field}: got {_shown(value)}, wanted text{hint}")
    if not value.strip():
        raise CipoError(f"{where}: {field}: got an empty text")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise CipoError(f"{where}: {field}: holds half of a surrogate pair: {error}") from error
    return value


def _shown(value: object) -> str:
    text = repr(value)
    return f"{text if len(text) <= 40 else text[:40] + '...'} ({type(value).__name__})"
