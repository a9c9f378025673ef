"""Every attempt of a run, on disk, readable without the run's code or weights.

Decides the files and the fields: attempts/{phase}-{step:06d}.jsonl.gz, one json object per
attempt, in the order given. Equal attempts give equal bytes (no times are stored), so a resumed
run overwrites what it repeats with the same file. Not decided here: which attempts are kept, and
when.

Fields of a record:
    phase, step, index      index is its place in the file
    stream                  "base" or "correction"
    problem_id, question, answer    answer is the reference, null for program-checked problems
    tests, meta             the test specification of a program-checked problem, else null; and what
                            else its source said of the problem. The file has both at the problem's
                            first attempt alone, the reader adds them to all
    text                    the completion
    opening                 what the prompt opened at its end, such as <think> or a code block, ""
                            for nothing; verifiers see it before the text. In older files "thought"
    outcome, extracted, detail      the verdict
    prompt_tokens, completion_tokens    lengths
    logprob_sum             natural log of the completion's probability under the sampling
                            distribution; null if not finite
    finished                a stop token or a stop string ended it
    trimmed, kept           whether the attempt quoted in the prompt was cut in the middle; and if
                            it was, the characters of its head and of its tail that were quoted,
                            else null. Older files have no "kept"
    round                   0 in the base stream; 1 for the correction of such an attempt, or of one
                            that is not in this file; 2 for that correction's correction, and so on.
                            In older files it is missing, and is 0 or 1
    anchor                  null in the base stream; else {"index", "outcome", "extracted", "text"}
                            of the attempt that was quoted; index is null if it is not in this file.
                            "first": true where it was in the file of the run's first evaluation
"""

import gzip
import io
import json
import math
import os
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from cipo_jax.data.prompts import CUT_MARK, quoted_text
from cipo_jax.run.records.files import explained, replacing
from cipo_jax.types import Attempt, CipoError, Outcome, Problem

ATTEMPTS_DIR = "attempts"
_SUFFIX = ".jsonl.gz"
_OF_PROBLEM = ("tests", "meta")
# Fields that files of every version have.
_NEEDED = (
    *("phase", "step", "index", "stream", "problem_id", "question", "answer", "text"),
    *("outcome", "extracted", "anchor"),
)
_OUTCOMES = tuple(Outcome)
CHECKED_BYTES = 64_000_000  # of files, compressed, that `check_archive` reads: some seconds
_MEND = "remove the file, or restore it"


class AttemptArchive:
    """Writes the attempts of a run under `workdir`/attempts."""

    def __init__(self, workdir: Path):
        self._directory = workdir / ATTEMPTS_DIR
        with explained(self._directory):
            self._directory.mkdir(parents=True, exist_ok=True)

    def write(
        self, phase: str, step: int, attempts: Sequence[Attempt], of_first: Sequence[Attempt] = ()
    ) -> Path:
        """Writes one file whole; it replaces an earlier one of the same phase and step.

        Args:
          phase: "train", "eval" or the name of a benchmark.
          attempts: both streams; a correction is linked to its anchor if that is among them.
          of_first: corrections of attempts of the run's first evaluation; they come last.
        """
        path = self._directory / f"{phase}-{step:06d}{_SUFFIX}"
        index_of = {id(attempt): i for i, attempt in enumerate(attempts)}
        with (
            replacing(path) as temporary,
            temporary.open("wb") as raw,
            # No name and no time in the header: the bytes depend on the attempts alone.
            gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=raw, mtime=0) as packed,
        ):
            written: set[str] = set()
            for index, attempt in enumerate((*attempts, *of_first)):
                record = {"phase": phase, "step": step, "index": index}
                record |= _record(attempt, index_of, first=index >= len(attempts))
                if attempt.problem.id in written:
                    record |= dict.fromkeys(_OF_PROBLEM)
                written.add(attempt.problem.id)
                packed.write(json.dumps(record, allow_nan=False).encode("ascii") + b"\n")
        return path


def read_attempts(
    workdir: Path, phase: str | None = None, steps: Collection[int] | None = None
) -> Iterator[dict[str, Any]]:
    """The archived attempts as dictionaries (fields: see the module), one file in memory at most.

    Args:
      workdir: the run directory; one without an archive gives nothing.
      phase: only this phase; None for all, in alphabetical order.
      steps: only these steps; None for all. Steps come in ascending order within a phase.

    Raises:
      CipoError: a file is damaged, or a line in it is no attempt; the message names it.
    """
    for name, step, path in _files(workdir):
        if phase not in (None, name) or not (steps is None or step in steps):
            continue
        try:
            with io.TextIOWrapper(_opened(path), encoding="ascii") as lines:
                known: dict[str, dict[str, Any]] = {}
                for number, record in enumerate(map(json.loads, lines), 1):
                    if wrong := _fault(record):
                        raise ValueError(f"line {number} {wrong}")
                    own = {name: record.get(name) for name in _OF_PROBLEM}
                    yield record | known.setdefault(record["problem_id"], own)
        except (OSError, EOFError, ValueError, KeyError, TypeError, zlib.error) as error:
            raise CipoError(
                f"{path}: the archived attempts cannot be read ({error}); {_MEND}"
            ) from error


def _fault(record: Any) -> str:
    """Why a line is not the record of an attempt, or ""."""
    if not isinstance(record, dict):
        return "is not a json object"
    if missing := [name for name in _NEEDED if name not in record]:
        return f"has no {missing[0]}"
    anchor = record["anchor"]
    if anchor is not None and not (isinstance(anchor, dict) and "outcome" in anchor):
        return f"has the anchor {anchor!r:.40}"
    outcomes = [record["outcome"], *([anchor["outcome"]] if anchor else [])]
    if unknown := [outcome for outcome in outcomes if outcome not in _OUTCOMES]:
        return f"has the outcome {unknown[0]!r:.40}, wanted one of {', '.join(_OUTCOMES)}"
    return ""


def archived_problem(record: Mapping[str, Any]) -> Problem:
    """The problem of an archived attempt, as verifiers saw it."""
    return Problem(
        record["problem_id"],
        record["question"],
        answer=record["answer"],
        tests=record["tests"],
        meta=record["meta"] or {},  # older archives have none
    )


def archived_quote(
    record: Mapping[str, Any],
    anchor: Mapping[str, Any] | None,
    quote_thoughts: bool,
    show_failed_test: bool,
) -> str:
    """What the prompt of an archived correction quotes. One that was cut to its budget by a version
    that did not archive where is given whole.

    Args:
      anchor: the record of the quoted attempt; None if it is not in the archive.
      quote_thoughts, show_failed_test: of the run's config.
    """
    quoted = record["anchor"]
    opening = anchor.get("opening", "") if anchor else ""
    shows = show_failed_test and record["tests"] is not None and quoted["outcome"] != "correct"
    failed_test = anchor["detail"] if anchor and shows else None
    words = quoted_text(quoted["text"], opening, quote_thoughts, failed_test)
    if kept := record.get("kept"):
        head, tail = kept
        words = f"{words[:head]}{CUT_MARK}{words[len(words) - tail :]}"
    return words


def check_archive(workdir: Path, most_bytes: int = CHECKED_BYTES) -> None:
    """Reads the archive's files, the newest first, up to a number of bytes.

    Raises:
      CipoError: one is cut or has other bytes than were written; the message names it.
    """
    chosen, left = [], most_bytes
    for _, _, path in sorted(_files(workdir), key=lambda file: file[1], reverse=True):
        left -= path.stat().st_size
        if left < 0:
            break
        chosen.append(path)
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as threads:
        for damage in threads.map(_damage, chosen):
            if damage:
                raise CipoError(damage)


def _damage(path: Path) -> str:
    """What is wrong with a file; "" if its checksum is right."""
    try:
        with _opened(path) as content:
            while content.read(1 << 20):
                pass
    except (OSError, EOFError, zlib.error) as error:
        return f"{path}: the archived attempts cannot be read ({error}); {_MEND}"
    return ""


def _opened(path: Path) -> gzip.GzipFile:
    if path.stat().st_size == 0:  # gzip takes that for a file that holds nothing
        raise EOFError("it is empty")
    return gzip.open(path)


def _files(workdir: Path) -> list[tuple[str, int, Path]]:
    """(phase, step, file) of the archive, in order. Raises CipoError for a file of another name."""
    files = []
    for path in (workdir / ATTEMPTS_DIR).glob(f"*{_SUFFIX}"):
        name, _, number = path.name.removesuffix(_SUFFIX).rpartition("-")
        if not number.isdecimal():
            raise CipoError(
                f"{path}: not a name of the archive; wanted PHASE-STEP{_SUFFIX}, or the file moved "
                "away"
            )
        files.append((name, int(number), path))
    return sorted(files)


def _record(attempt: Attempt, index_of: dict[int, int], first: bool) -> dict[str, Any]:
    """The fields of one attempt.

    Args:
      index_of: {id(attempt): place in the file}.
      first: it quotes an attempt of the run's first evaluation.
    """
    problem, verdict, completion = attempt.problem, attempt.verdict, attempt.completion
    logprob_sum = float(np.sum(completion.logprobs, dtype=np.float64))
    quoted = None
    if (anchor := attempt.prompt.anchor) is not None:
        quoted = {
            "index": index_of.get(id(anchor)),
            "outcome": anchor.verdict.outcome.value,
            "extracted": anchor.verdict.extracted,
            "text": anchor.text,
            **({"first": True} if first else {}),
        }
    return {
        "stream": "base" if anchor is None else "correction",
        "round": _round(attempt),
        "problem_id": problem.id,
        "question": problem.question,
        "answer": problem.answer,
        "tests": _tests(problem),
        "meta": _plain(problem.meta),
        "text": attempt.text,
        "opening": attempt.prompt.opening,
        "outcome": verdict.outcome.value,
        "extracted": verdict.extracted,
        "detail": verdict.detail,
        "prompt_tokens": len(attempt.prompt.tokens),
        "completion_tokens": len(completion.tokens),
        "logprob_sum": logprob_sum if math.isfinite(logprob_sum) else None,
        "finished": bool(completion.finished),
        "trimmed": attempt.prompt.trimmed,
        "kept": attempt.prompt.kept,
        "anchor": quoted,
    }


def _round(attempt: Attempt) -> int:
    """How many attempts stand before it in the chain of those that quote one another."""
    anchor = attempt.prompt.anchor
    return 0 if anchor is None else 1 + _round(anchor)


def _tests(problem: Problem) -> dict[str, Any] | None:
    """The test specification, with the function under test where only the problem names it."""
    if problem.tests is None:
        return None
    name = problem.meta.get("entry_point")
    return {**({"entry_point": name} if name else {}), **problem.tests}


def _plain(value: Any) -> Any:
    """`value` as json can hold it; what it cannot hold as text."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    is_number = isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))
    return value if value is None or is_number or isinstance(value, str) else str(value)
