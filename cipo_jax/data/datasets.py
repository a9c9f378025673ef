"""Problems and demonstrations from rows, in an order that only (seed, step) decides.

A row of problems has a question and an answer (text) or tests (an object, to which `entry_point`
is added), perhaps an id; everything else goes to `Problem.meta`. `Columns` names the columns. A row
of demonstrations has a question, `solution`, and perhaps `previous_attempt`, an id, an answer, all
under their usual names.

Sources are read and checked whole; every error message names place and field. This file does not
decide how rows are read (`rows.py`, `tfds_rows.py`), nor how a problem becomes a prompt.
"""

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import numpy as np

from cipo_jax.data.references import checked_text, reference_answer, shown, solution_answer
from cipo_jax.data.rows import ALIASES, Row
from cipo_jax.data.sources import read_rows
from cipo_jax.data.tasks.embedded import GENERATED
from cipo_jax.data.tasks.generated import GeneratedDemonstrations, GeneratedProblems
from cipo_jax.types import CipoError, Demonstration, Problem

Item = TypeVar("Item")


@dataclasses.dataclass(frozen=True)
class Columns:
    """Which column holds what; "": whichever of the usual names (`rows.ALIASES`) is there."""

    question: str = ""
    answer: str = ""
    tests: str = ""
    id: str = ""

    def names(self, field: str) -> tuple[str, ...]:
        """The names to look for, for "question", "answer", "tests" or "id"."""
        chosen = getattr(self, field)
        return (chosen,) if chosen else ALIASES[field]


class ProblemSource(Protocol):
    """Where problems come from.

    Attributes:
      different: how many different ones there are; None: as many as are wanted.
    """

    @property
    def different(self) -> int | None: ...

    def batch(self, step: int, size: int) -> list[Problem]:
        """`size` problems: a pure function of (seed, step, size)."""

    def offer(self, step: int, drawn: int) -> Iterator[Problem]:
        """The problems on offer at a training step, without end: a pure function of the arguments
        and the seed. A list goes on after the `drawn` that it has given so far, a generator makes
        new ones for the step. With `size` problems a step, the first are those of `batch`. All
        hosts together are given these, whatever their number; each takes its share."""

    def first(self, n: int) -> list[Problem]:
        """A fixed list of `n` problems for evaluation, the same for every seed."""


class DemonstrationSource(Protocol):
    """Where demonstrations come from."""

    def batch(self, step: int, size: int) -> list[Demonstration]:
        """`size` demonstrations for cold-start step `step`: a function of (seed, step, size)."""


class Placed(NamedTuple):
    """A problem and where it was read: "file:line", or "data set[split]:number"."""

    where: str
    problem: Problem


def open_demonstrations(
    name: str,
    seed: int,
    *,
    correction_share: float,
    right_share: float,
    min_operations: int = 2,
    max_operations: int = 5,
    practice_share: float = 0.0,
) -> DemonstrationSource:
    """The demonstrations of one source, see `sources.py`. Only embedded tasks use the shares and
    the numbers of operations (see `GeneratedDemonstrations`).

    Raises:
      CipoError: anything wrong with the source or the settings.
    """
    if name in GENERATED:
        return GeneratedDemonstrations(
            GENERATED[name],
            seed,
            correction_share,
            right_share,
            min_operations,
            max_operations,
            practice_share,
        )
    return ListedDemonstrations(load_demonstrations(name), seed)


class _EpochShuffled(Generic[Item]):
    """Items in a new random order each epoch. With a fixed batch size every item occurs exactly
    once per epoch; a batch may span two epochs."""

    def __init__(self, items: Sequence[Item], seed: int) -> None:
        if not items:
            raise CipoError("data: got no items, wanted at least one")
        self._items = list(items)
        self._seed = seed

    def batch(self, step: int, size: int) -> list[Item]:
        count = len(self._items)
        positions = range(step * size, (step + 1) * size)
        orders = {epoch: self._order(epoch) for epoch in {p // count for p in positions}}
        return [self._items[orders[p // count][p % count]] for p in positions]

    def _order(self, epoch: int) -> np.ndarray:
        return np.random.default_rng([self._seed, epoch]).permutation(len(self._items))


class ListedProblems(_EpochShuffled[Problem]):
    """Problems of a list; `batch(step, size)` shuffles per epoch, `first(n)` keeps the order."""

    @property
    def different(self) -> int | None:
        return len(self._items)

    def offer(self, step: int, drawn: int) -> Iterator[Problem]:
        del step
        count = len(self._items)
        for epoch in itertools.count(drawn // count):
            for place in self._order(epoch)[drawn % count :]:
                yield self._items[place]
            drawn = 0

    def first(self, n: int) -> list[Problem]:
        """The first `n` problems; 0 means all.

        Raises:
          CipoError: there are fewer than `n`.
        """
        if not 0 <= n <= len(self._items):
            count = len(self._items)
            raise CipoError(f"got {n} problems, wanted at most the {count} there are")
        return self._items[:n] if n else list(self._items)


class ListedDemonstrations(_EpochShuffled[Demonstration]):
    """Demonstrations of a list; `batch(step, size)` shuffles per epoch."""


def load_problems(source: str, columns: Columns = Columns()) -> list[Placed]:  # noqa: B008
    """All problems of a source that is not generated, in its order.

    A problem without an id gets `<file stem>:<line>`. Answers may have the forms of
    `references.py`; without an answer, the column `solution` counts.

    Raises:
      CipoError: names place and field of the first mistake.
    """
    problems: dict[str, Placed] = {}  # by id
    for row in _rows(source):
        problem_id, question = _id_and_question(row, columns)
        tests = _take(row, columns, "tests")
        if tests is not None and not (isinstance(tests, Mapping) and tests):
            raise CipoError(f"{row.where}: tests: got {shown(tests)}, wanted a non-empty object")
        if tests is not None and (name := row.columns.pop("entry_point", None)) is not None:
            tests = {**tests, "entry_point": tests.get("entry_point") or name}
        answer = _answer(row, columns)
        if answer is None and tests is None:
            names = (*columns.names("answer"), *columns.names("tests"))
            state = "is null" if any(name in row.columns for name in names) else "missing"
            raise CipoError(
                f"{row.where}: answer: {state}; wanted an answer (text) or tests (an object) "
                f"{_under('answer', 'tests')}; {_others(row, 'answer', 'tests')}"
            )
        if problem_id in problems:
            raise CipoError(
                f"{row.where}: id: {problem_id!r} is also the id of {problems[problem_id].where}; "
                "wanted a different one for each problem"
            )
        problem = Problem(problem_id, question, answer=answer, tests=tests, meta=row.columns)
        problems[problem_id] = Placed(row.where, problem)
    return list(problems.values())


def load_demonstrations(source: str) -> list[Demonstration]:
    """All demonstrations of a source, in its order; several may share a problem and its id.

    Raises:
      CipoError: names place and field of the first mistake.
    """
    demonstrations = []
    for row in _rows(source):
        problem_id, question = _id_and_question(row, None)
        solution = _optional_text(row, "solution")
        if solution is None:
            raise CipoError(f"{row.where}: solution: missing; {_others(row)}")
        previous = _optional_text(row, "previous_attempt")
        problem = Problem(problem_id, question, answer=_answer(row, None), meta=row.columns)
        demonstrations.append(Demonstration(problem, solution, previous_attempt=previous))
    return demonstrations


def fingerprint(problems: Iterable[Problem]) -> str:
    """16 hexadecimal digits that change with any id, question, answer or test, or their order."""
    digest = hashlib.sha256()
    for p in problems:
        shown = json.dumps([p.id, p.question, p.answer, p.tests], sort_keys=True, default=repr)
        digest.update(shown.encode())
    return digest.hexdigest()[:16]


def fingerprint_generated(name: str, split: str, min_operations: int, max_operations: int) -> str:
    """As `fingerprint`, of the first problems of an embedded task."""
    source = GeneratedProblems(GENERATED[name], 0, split, min_operations, max_operations)
    return fingerprint(source.first(4))


def _rows(source: str) -> Iterable[Row]:
    """Copies of the source's rows, whose columns may be taken out."""
    return (Row(row.where, dict(row.columns)) for row in read_rows(source))


def _take(row: Row, columns: Columns | None, field: str) -> Any:
    """Takes the value of a field out of `row`; None if it is absent or null. `columns`: None where
    no key can name them."""
    present = row.present(*(columns or Columns()).names(field))
    if field != "id" and len(present) > 1:
        way = f"; say which by data.{field}_column" if columns else ""
        raise CipoError(
            f"{row.where}: {field}: got the columns {' and '.join(present)}, wanted one of them"
            + way
        )
    if columns and getattr(columns, field) and not present:
        raise CipoError(
            f"{row.where}: data.{field}_column: got {getattr(columns, field)!r}, which the row "
            f"does not have; {_others(row)}"
        )
    return row.columns.pop(present[0]) if present else None


def _id_and_question(row: Row, columns: Columns | None) -> tuple[str, str]:
    """Takes id and question out of `row`; `columns` as in `_take`."""
    question = _take(row, columns, "question")
    if question is None:
        raise CipoError(
            f"{row.where}: question: missing; wanted a text {_under('question')}; "
            f"{_others(row, *(['question'] if columns else []))}"
        )
    question = checked_text(row.where, "question", question)
    row_id = _take(row, columns, "id")
    if row_id is None:
        file, _, number = row.where.rpartition(":")
        row_id = f"{PurePosixPath(file).stem}:{number}"
    return checked_text(row.where, "id", str(row_id) if type(row_id) is int else row_id), question


def _answer(row: Row, columns: Columns | None) -> str | None:
    """Takes the answer out of `row`; a solution that has one stays there. `columns` as in
    `_take`."""
    value = _take(row, columns, "answer")
    if value is None:
        value = solution_answer(row.columns.get("solution"))
    if value is None:
        return None
    return reference_answer(row.where, value)


def _optional_text(row: Row, field: str) -> str | None:
    """Takes a text out of `row`; None if it is absent or null."""
    value = row.columns.pop(field, None)
    return None if value is None else checked_text(row.where, field, value)


def _under(*fields: str) -> str:
    """The usual names of the fields' columns, for a message."""
    return f"as {', '.join(name for field in fields for name in ALIASES[field])}"


def _others(row: Row, *fields: str) -> str:
    """The columns that are left of the row, and which keys would say that a field is one of them,
    for a message."""
    others = [name for name, value in row.columns.items() if value is not None]
    if not others:
        return "the row has no other column"
    keys = " or ".join(f"data.{field}_column" for field in fields)
    return f"other columns: {', '.join(others)}" + f"; {keys} can name one" * bool(keys)
