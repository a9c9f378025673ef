"""`--mode=verify`: a file of completions, judged by the verifier of a config.

    python -m cipo_jax.main --mode=verify --config=configs/math.py --input=answers.jsonl

A line of the file is one JSON object:

    completion   `text`, `completion` or `response`
    problem      `question`, `problem` or `prompt`; `answer` (in any form of `data/references.py`; a
                 `solution` will do) or `tests` (an object)
    optionally   `id`; a label: `label_correct`, `label` or `correct` (true or false); and
                 `thought_open`: whether the prompt ended inside a thought (true or false)

A chat template that ends in `<think>` leaves no trace in the completion. Where `thought_open` is
missing, it is taken to be true if the question ends in such a tag, or if the completion breaks off
in the middle of a sentence: it was cut, and nothing says that the thought had come to its end.

Everything else goes to `Problem.meta`. This file decides what is read and reported. How completions
are judged is decided in `verifiers/`.
"""

import collections
import dataclasses
import json
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tqdm import tqdm

from cipo_jax.config.command_line import Invocation
from cipo_jax.config.keys import Verifier
from cipo_jax.data.references import reference_answer, solution_answer
from cipo_jax.data.rows import ALIASES
from cipo_jax.run.records.terminal import printable
from cipo_jax.types import CipoError, Outcome, Problem, Verdict
from cipo_jax.verifiers.judge import open_pool, verdicts
from cipo_jax.verifiers.thoughts import OPENING, opened_by

_TEXTS = ("text", "completion", "response")
_LABELS = ("label_correct", "label", "correct")
_SHOWN = 20  # disagreements
_REASONS = 5  # of errors
# No sentence ends so.
_BROKEN_OFF = re.compile(
    r"(?:[=+(]|\b(?:an|the|and|or|but|if|because|since|which|with|without|by|of|to|from|into|than|we|"
    r"let|my|our|when|while))\s*$"
)
_LAST_CHARS = 100
_WORDS = {True: "right", False: "wrong"}


@dataclasses.dataclass(frozen=True)
class Grading:
    """What became of a file.

    Attributes:
      outcomes: {outcome: items}.
      confusion: {(label, outcome): items} of those with a label.
      disagreements: (id, label, verdict) where label and verdict differ. An ERROR says neither
        right nor wrong, so it is none.
      failures: {reason of an ERROR verdict: items}.
      slowest: (id, seconds), slowest first.
      stats: of the pool, see `VerifierPool.stats`.
    """

    outcomes: Mapping[Outcome, int]
    confusion: Mapping[tuple[bool, Outcome], int]
    disagreements: list[tuple[str, bool, Verdict]]
    failures: Mapping[str, int]
    slowest: list[tuple[str, float]]
    stats: Mapping[str, float]

    @property
    def total(self) -> int:
        return sum(self.outcomes.values())

    @property
    def labelled(self) -> int:
        """Those with a label and a verdict."""
        return sum(n for (_, outcome), n in self.confusion.items() if outcome is not Outcome.ERROR)


def command(invocation: Invocation) -> None:
    """The mode."""
    input_file = invocation.required("input", "grades the jsonl file it names")
    verify(invocation.config.verifier, input_file)


def verify(verifier: Verifier, input_file: str | Path) -> Grading:
    """Judges every line of `input_file` and prints a report.

    Args:
      verifier: started once every line of the file has been checked.

    Raises:
      CipoError: the file cannot be read, with line and field, or the verifier cannot be started.
    """
    path = Path(input_file)
    total = sum(1 for _ in _items(path))  # and every line is checked before anything starts
    outcomes: collections.Counter[Outcome] = collections.Counter()
    confusion: collections.Counter[tuple[bool, Outcome]] = collections.Counter()
    failures: collections.Counter[str] = collections.Counter()
    disagreements = []
    with open_pool(verifier) as pool:
        if pool.about:
            print(pool.about)
        judged = verdicts(pool, _items(path), lambda item: item[:2])
        for (problem, _, label), verdict in tqdm(
            judged, total=total, unit="item", disable=None, leave=False, file=sys.stderr
        ):
            outcomes[verdict.outcome] += 1
            if not verdict.judged:
                failures[verdict.detail.replace(f"problem {problem.id!r}", "a problem")] += 1
            if label is not None:
                confusion[label, verdict.outcome] += 1
                if verdict.judged and label != verdict.correct:
                    disagreements.append((problem.id, label, verdict))
        result = Grading(outcomes, confusion, disagreements, failures, pool.slowest(), pool.stats())
    _print(path, result)
    return result


def _print(path: Path, result: Grading) -> None:
    stats = result.stats
    print(
        f"{path}: {result.total} items, {stats['busy_seconds']:.1f} s of work; latency p50 "
        f"{stats['latency_p50_seconds'] * 1000:.1f} ms, p99 "
        f"{stats['latency_p99_seconds'] * 1000:.1f} ms; {stats['restarts']:.0f} workers lost"
    )
    labels = sorted({label for label, _ in result.confusion}, reverse=True)
    print(" " * 30 + "".join(f"  labelled {_WORDS[label]}" for label in labels))
    for outcome in Outcome:
        count = result.outcomes.get(outcome, 0)
        line = f"  {outcome.value:10} {count:8}  {count / max(result.total, 1):7.2%}"
        print(line + "".join(f"{result.confusion.get((x, outcome), 0):16}" for x in labels))
    if errors := result.outcomes.get(Outcome.ERROR, 0):
        print(f"{errors} items have no verdict: tests, verifier or sandbox are at fault")
    for reason, count in sorted(result.failures.items(), key=lambda item: -item[1])[:_REASONS]:
        print(printable(f"errors, {count} times: {reason[:200]}"))
    if result.confusion:
        print(f"disagreements with {result.labelled} labels: {len(result.disagreements)}")
        for problem_id, label, verdict in result.disagreements[:_SHOWN]:
            start = f"  {problem_id}: labelled {_WORDS[label]}, {verdict.outcome.value}"
            detail = verdict.detail or f"answer {verdict.extracted!r:.60}"
            print(printable(f"{start} ({detail[:100]})"))
        if len(result.disagreements) > _SHOWN:
            print(f"  and {len(result.disagreements) - _SHOWN} more")
    print("slowest")
    for problem_id, seconds in result.slowest:
        print(printable(f"  {seconds * 1000:8.1f} ms  {problem_id}"))


def _items(path: Path) -> Iterator[tuple[Problem, str, bool | None]]:
    """(problem, completion, label) of each line that is not blank."""
    try:
        file = path.open(encoding="utf-8")
    except OSError as error:
        raise CipoError(f"--input={path}: cannot be read: {error.strerror}") from error
    with file:
        number = 0
        try:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield _item(json.loads(line), f"{path}:{number}", path.stem, number)
        except UnicodeDecodeError as error:
            raise CipoError(f"{path}:{number + 1}: is not UTF-8 text: {error.reason}") from error
        except json.JSONDecodeError as error:
            raise CipoError(f"{path}:{number}: is not json: {error}") from error
        except CipoError:
            raise
        except (ValueError, RecursionError) as error:
            raise CipoError(f"{path}:{number}: {error}") from error
    if number == 0:
        raise CipoError(f"--input={path}: is empty, wanted one json object a line")


def _item(row: Any, where: str, stem: str, number: int) -> tuple[Problem, str, bool | None]:
    if not isinstance(row, dict):
        raise ValueError("wanted a json object")
    fields = ", ".join(row)
    text = _take(row, _TEXTS)
    question = _take(row, ALIASES["question"])
    label = _take(row, _LABELS)
    answer, tests = _take(row, ALIASES["answer"]), row.pop("tests", None)
    thought_open = row.pop("thought_open", None)
    if not isinstance(text, str):
        wanted = f"wanted the completion as text in one of {', '.join(_TEXTS)}"
        got = f"the fields {fields}" if text is None else f"{text!r:.60}"
        raise ValueError(f"{wanted}; got {got}")
    if label is not None and not isinstance(label, bool):
        raise ValueError(f"a label is true or false, got {label!r:.60}")
    if thought_open is not None and not isinstance(thought_open, bool):
        raise ValueError(f"thought_open is true or false, got {thought_open!r:.60}")
    if answer is None and tests is None:
        answer = solution_answer(row.get("solution"))
    if answer is None and tests is None:
        raise ValueError(f"wanted answer (text) or tests (an object); got the fields {fields}")
    if tests is not None and not isinstance(tests, dict):
        raise ValueError(f"tests are an object, got {tests!r:.60}")
    problem_id = str(row.pop("id", None) or f"{stem}:{number}")
    # A custom verifier may need no answer: an empty one stays as it is.
    answer = answer if answer in (None, "") else reference_answer(where, answer)
    question = str(question or "")
    if thought_open is None and tests is None:
        thought_open = _BROKEN_OFF.search(text[-_LAST_CHARS:]) is not None
    thought = opened_by(question) or (OPENING if thought_open else "")
    return Problem(problem_id, question, answer, tests, row), thought + text, label


def _take(row: dict[str, Any], names: tuple[str, ...]) -> Any:
    """The first of the fields that `row` has, removed from it."""
    return next((row.pop(name) for name in names if name in row), None)
