"""`--mode=verify`: a file of completions, judged by the verifier of a config.

    python -m cipo_jax.main --mode=verify --config=configs/math.py --input=answers.jsonl

A line of the file is one JSON object:

    completion   `text`, `completion` or `response`
    problem      `question`, `problem` or `prompt`; `answer` (in any form of `data/references.py`; a
                 `solution` will do) or `tests` (an object)
    optionally   `id`; a label: `label_correct`, `label` or `correct` (true or false); and what is
                 known of how the completion was made: `thought_open` (whether the prompt ended
                 inside a thought), `truncated` (whether the completion was cut at its limit),
                 `finish_reason` ("length" says that it was)

A chat template that ends in `<think>` leaves no trace in the completion, so whether a completion
begins inside a thought is decided by the first of these that says anything:

    1. `thought_open`
    2. the row's question, if it ends in an opening tag
    3. the config's prompt, if its tokenizer is here: whether chat template or prompt template open
       a thought
    4. `truncated` or `finish_reason`: a completion without tags that was cut was still thinking
    5. nothing says anything: a completion without tags that breaks off in the middle of a sentence
       (`verifiers/thoughts.py`) was still thinking. How many were read so is printed

Everything else goes to `Problem.meta`. This file decides what is read and reported. How completions
are judged is decided in `verifiers/`.
"""

import collections
import contextlib
import dataclasses
import io
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple, TextIO

from tqdm import tqdm

from cipo_jax.config.command_line import Invocation
from cipo_jax.config.keys import Config, Verifier
from cipo_jax.data.prompts import PromptWriter
from cipo_jax.data.references import reference_answer, solution_answer
from cipo_jax.data.rows import ALIASES
from cipo_jax.data.tokenizer import load_tokenizer
from cipo_jax.run.records.terminal import printable
from cipo_jax.run.watch.heartbeat import Heartbeat
from cipo_jax.types import CipoError, Outcome, Problem, Verdict
from cipo_jax.verifiers.judge import open_pool, verdicts
from cipo_jax.verifiers.openings import opening_of
from cipo_jax.verifiers.thoughts import OPENING, breaks_off, has_tags, opened_by

_TEXTS = ("text", "completion", "response")
_LABELS = ("label_correct", "label", "correct")
_SHOWN = 20  # disagreements
_REASONS = 5  # of errors
_CUT = ("length", "max_tokens")  # the `finish_reason` of a completion that reached its limit
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
      guessed: completions that were taken for open thoughts because they break off.
    """

    outcomes: Mapping[Outcome, int]
    confusion: Mapping[tuple[bool, Outcome], int]
    disagreements: list[tuple[str, bool, Verdict]]
    failures: Mapping[str, int]
    slowest: list[tuple[str, float]]
    stats: Mapping[str, float]
    guessed: int

    @property
    def total(self) -> int:
        return sum(self.outcomes.values())

    @property
    def labelled(self) -> int:
        """Those with a label and a verdict."""
        return sum(n for (_, outcome), n in self.confusion.items() if outcome is not Outcome.ERROR)


def command(invocation: Invocation) -> None:
    """The mode."""
    input_file, config = (
        invocation.required("input", "grades the jsonl file it names"),
        invocation.config,
    )
    with Heartbeat(config.log.heartbeat_seconds) as heartbeat:
        heartbeat.begin("verify", "reading the tokenizer")
        verify(config.verifier, input_file, prompt_opening(config), heartbeat)


def prompt_opening(config: Config) -> str | None:
    """What the prompts of a config open at their end, "" for nothing; None if that is not known,
    since their tokenizer is not here."""
    data, name = config.data, config.data.tokenizer or config.model.source
    if not data.chat_template:
        return opening_of(data.prompt_template)
    if not Path(name).is_dir():
        return None
    prompts = PromptWriter(load_tokenizer(name, data.thinking), data)
    return prompts.base(Problem("any", "?")).opening


def verify(
    verifier: Verifier,
    input_file: str | Path,
    template_opening: str | None = None,
    heartbeat: Heartbeat | None = None,
) -> Grading:
    """Judges every line of `input_file` and prints a report.

    Args:
      verifier: started once every line of the file has been checked.
      template_opening: as `prompt_opening` gives it.
      heartbeat: says how much has been judged; None: nothing does.

    Raises:
      CipoError: the file cannot be read, with line and field, or the verifier cannot be started.
    """
    path, heartbeat = Path(input_file), heartbeat or Heartbeat()
    heartbeat.begin("verify", "reading the file")
    with _opened(path) as file:
        result = _judge(verifier, file, path, template_opening, heartbeat)
    _print(path, result)
    return result


def _judge(
    verifier: Verifier,
    file: TextIO,
    path: Path,
    template_opening: str | None,
    heartbeat: Heartbeat,
) -> Grading:
    may_guess = verifier.kind in ("math", "auto")
    total = guessed = 0
    for item in _items(file, path):  # every line is checked before anything starts
        total += 1
        guessed += _opening(item, template_opening, may_guess)[1]

    def completion(item: _Item) -> tuple[Problem, str]:
        return item.problem, _opening(item, template_opening, may_guess)[0] + item.text

    outcomes: collections.Counter[Outcome] = collections.Counter()
    confusion: collections.Counter[tuple[bool, Outcome]] = collections.Counter()
    failures: collections.Counter[str] = collections.Counter()
    disagreements = []
    with open_pool(verifier) as pool:
        if pool.about:
            print(pool.about)
        judged = verdicts(pool, _items(file, path), completion)
        counted = heartbeat.counting(judged, "items judged", total)
        for item, verdict in tqdm(
            counted, total=total, unit="item", disable=None, leave=False, file=sys.stderr
        ):
            problem, label = item.problem, item.label
            outcomes[verdict.outcome] += 1
            if not verdict.judged:
                failures[verdict.detail.replace(f"problem {problem.id!r}", "a problem")] += 1
            if label is not None:
                confusion[label, verdict.outcome] += 1
                if verdict.judged and label != verdict.correct:
                    disagreements.append((problem.id, label, verdict))
        return Grading(
            outcomes,
            confusion,
            disagreements,
            failures,
            pool.slowest(),
            pool.stats(),
            guessed,
        )


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
    if result.guessed:
        print(
            f"{result.guessed} completions break off in the middle of a sentence and were read as "
            "cut inside a thought, so without an answer; rows can say `thought_open` or `truncated`"
        )
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


class _Item(NamedTuple):
    """A line of the file. `thought`: the tag by which its prompt opened a thought, "" if it opened
    none; `cut`: whether the completion was cut at its limit. Both None if the row does not say."""

    problem: Problem
    text: str
    label: bool | None
    thought: str | None
    cut: bool | None


def _opening(item: _Item, template_opening: str | None, may_guess: bool) -> tuple[str, bool]:
    """What stands before the completion ("" for nothing), as said at the top of the file, and
    whether that is a guess."""
    known = template_opening if item.thought is None else item.thought
    if known is not None or has_tags(item.text):
        return known or "", False
    if item.cut is not None:
        return OPENING if item.cut else "", False
    guessed = may_guess and item.problem.tests is None and breaks_off(item.text)
    return OPENING if guessed else "", guessed


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[TextIO]:
    """The file, which is read twice; what can be read once only, as a pipe, is copied first."""
    with contextlib.ExitStack() as stack:
        try:
            binary: IO[bytes] = stack.enter_context(path.open("rb"))
            if not binary.seekable():
                copy = stack.enter_context(tempfile.TemporaryFile())
                shutil.copyfileobj(binary, copy)
                binary = copy
        except OSError as error:
            raise CipoError(
                f"--input={path}: cannot be read: {error.strerror}; wanted a jsonl file"
            ) from error
        yield stack.enter_context(io.TextIOWrapper(binary, encoding="utf-8"))


def _items(file: TextIO, path: Path) -> Iterator[_Item]:
    """Each line that is not blank, from the first."""
    file.seek(0)
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


def _item(row: Any, where: str, stem: str, number: int) -> _Item:
    if not isinstance(row, dict):
        raise ValueError("wanted a json object")
    fields = ", ".join(row)
    text = _take(row, _TEXTS)
    question = _take(row, ALIASES["question"])
    label = _take(row, _LABELS)
    answer, tests = _take(row, ALIASES["answer"]), row.pop("tests", None)
    thought_open, truncated = row.pop("thought_open", None), row.pop("truncated", None)
    finish_reason = row.pop("finish_reason", None)
    if not isinstance(text, str):
        wanted = f"wanted the completion as text in one of {', '.join(_TEXTS)}"
        got = f"the fields {fields}" if text is None else f"{text!r:.60}"
        raise ValueError(f"{wanted}; got {got}")
    if label is not None and not isinstance(label, bool):
        raise ValueError(f"a label is true or false, got {label!r:.60}")
    for name, said in (("thought_open", thought_open), ("truncated", truncated)):
        if said is not None and not isinstance(said, bool):
            raise ValueError(f"{name} is true or false, got {said!r:.60}")
    if finish_reason is not None and not isinstance(finish_reason, str):
        raise ValueError(
            f'finish_reason is a text, such as "stop" or "length", got {finish_reason!r:.60}'
        )
    if answer is None and tests is None:
        answer = solution_answer(row.get("solution"))
    if answer is None and tests is None:
        raise ValueError(f"wanted answer (text) or tests (an object); got the fields {fields}")
    if tests is not None and not isinstance(tests, dict):
        raise ValueError(f"tests are an object, got {tests!r:.60}")
    given_id = _take(row, ("id",))
    problem_id = f"{stem}:{number}" if given_id in (None, "") else str(given_id)
    # A custom verifier may need no answer: an empty one stays as it is.
    answer = answer if answer in (None, "") else reference_answer(where, answer)
    question = str(question or "")
    tag = opened_by(question) or OPENING
    said = {True: tag, False: "", None: opening_of(question) or None}[thought_open]
    cut = truncated if finish_reason is None else finish_reason in _CUT
    problem = Problem(problem_id, question, answer, tests, row)
    return _Item(problem, text, label, said, cut)


def _take(row: dict[str, Any], names: tuple[str, ...]) -> Any:
    """The first of the fields that `row` has and that is not null, removed from it."""
    return next((row.pop(name) for name in names if row.get(name) is not None), None)
