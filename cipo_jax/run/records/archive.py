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
    trimmed                 the attempt quoted in the prompt was cut in the middle
    round                   0 in the base stream; 1 for the correction of such an attempt, or of one
                            that is not in this file; 2 for that correction's correction, and so on.
                            In older files it is missing, and is 0 or 1
    anchor                  null in the base stream; else {"index", "outcome", "extracted", "text"}
                            of the attempt that was quoted; index is null if it is not in this file
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

from cipo_jax.run.records.files import explained, replacing
from cipo_jax.types import Attempt, CipoError, Problem

ATTEMPTS_DIR = "attempts"
_SUFFIX = ".jsonl.gz"
_OF_PROBLEM = ("tests", "meta")
CHECKED_BYTES = 64_000_000  # of files, compressed, that `check_archive` reads: some seconds
_MEND = "remove the file, or restore it"


class AttemptArchive:
    """Writes the attempts of a run under `workdir`/attempts."""

    def __init__(self, workdir: Path):
        self._directory = workdir / ATTEMPTS_DIR
        with explained(self._directory):
            self._directory.mkdir(parents=True, exist_ok=True)

    def write(self, phase: str, step: int, attempts: Sequence[Attempt]) -> Path:
        """Writes one file whole; it replaces an earlier one of the same phase and step.

        Args:
          phase: "train", "eval" or the name of a benchmark.
          attempts: both streams; a correction is linked to its anchor if that is among them.
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
            for index, attempt in enumerate(attempts):
                record = {"phase": phase, "step": step, "index": index}
                record |= _record(attempt, index_of)
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
      CipoError: a file is damaged; the message names it.
    """
    for name, step, path in _files(workdir):
        if phase not in (None, name) or not (steps is None or step in steps):
            continue
        try:
            with io.TextIOWrapper(_opened(path), encoding="ascii") as lines:
                known: dict[str, dict[str, Any]] = {}
                for record in map(json.loads, lines):
                    own = {name: record.get(name) for name in _OF_PROBLEM}
                    yield record | known.setdefault(record["problem_id"], own)
        except (OSError, EOFError, ValueError, KeyError, TypeError, zlib.error) as error:
            raise CipoError(
                f"{path}: the archived attempts cannot be read ({error}); {_MEND}"
            ) from error


def archived_problem(record: Mapping[str, Any]) -> Problem:
    """The problem of an archived attempt, as verifiers saw it."""
    return Problem(
        record["problem_id"],
        record["question"],
        answer=record["answer"],
        tests=record["tests"],
        meta=record["meta"] or {},  # older archives have none
    )


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


def _record(attempt: Attempt, index_of: dict[int, int]) -> dict[str, Any]:
    """The fields of one attempt; `index_of` maps id(attempt) to its place in the file."""
    problem, verdict, completion = attempt.problem, attempt.verdict, attempt.completion
    logprob_sum = float(np.sum(completion.logprobs, dtype=np.float64))
    quoted = None
    if (anchor := attempt.prompt.anchor) is not None:
        quoted = {
            "index": index_of.get(id(anchor)),
            "outcome": anchor.verdict.outcome.value,
            "extracted": anchor.verdict.extracted,
            "text": anchor.text,
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
        "trimmed": bool(attempt.prompt.trimmed),
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
