"""`--mode=regrade`: an archived run verified again, with another verifier setting.

    python -m cipo_jax.main --mode=regrade --workdir=runs/x --config.verifier.<key>=<value>

Decides what is compared and shown. The archive (`run/records/archive.py`) holds all that the
verifier saw: the problem with its tolerance and other facts, the completion, and the tag by which
the prompt opened a thought. So with the same setting the verdicts are the same. Attempts of
`--mode=evaluate` are judged by the kind that it uses for suites.
"""

import collections
import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

from tqdm import tqdm

from cipo_jax.config.command_line import Invocation
from cipo_jax.config.keys import Verifier
from cipo_jax.run.problems import needed_but_missing
from cipo_jax.run.records.archive import archived_problem, read_attempts
from cipo_jax.run.records.files import replacing
from cipo_jax.run.records.terminal import printable
from cipo_jax.run.watch.heartbeat import Heartbeat
from cipo_jax.types import CipoError, Outcome, Problem
from cipo_jax.verifiers.judge import open_pool, suite_kind, verdicts

REGRADE_FILE = "regrade.jsonl"
_SHOWN = 20  # examples of changes


@dataclasses.dataclass(frozen=True)
class Regrade:
    """What became of an archive.

    Attributes:
      confusion: {(old outcome, new outcome): attempts}.
      examples: lines of the file whose outcome changed; at most 20.
    """

    confusion: dict[tuple[Outcome, Outcome], int]
    examples: list[dict[str, Any]]

    @property
    def changed(self) -> int:
        return sum(count for (old, new), count in self.confusion.items() if old is not new)


def command(invocation: Invocation) -> None:
    """The mode."""
    workdir = invocation.required("workdir")
    config = invocation.config
    with Heartbeat(config.log.heartbeat_seconds) as heartbeat:
        regrade(Path(workdir), config.verifier, heartbeat)


def regrade(workdir: Path, verifier: Verifier, heartbeat: Heartbeat | None = None) -> Regrade:
    """Verifies every archived attempt of the run in `workdir` again.

    Writes `workdir`/regrade.jsonl, an object for each attempt: phase, step, index, problem_id, old
    and new outcome, old_extracted, new_extracted, detail. Prints the confusion table and examples
    of changes. The archive itself stays as it is.

    Raises:
      CipoError: no archive there, a damaged file, or a verifier that cannot start.
    """
    heartbeat = heartbeat or Heartbeat()
    heartbeat.begin("regrade")
    records = read_attempts(workdir)
    first = next(records, None)
    if first is None:
        wanted = "runs write them with config.log.archive=True"
        raise CipoError(f"--workdir={workdir}: has no archived attempts; {wanted}")
    is_run = (workdir / "config.json").is_file()  # else the results of an evaluation
    if is_run and (missing := needed_but_missing(verifier.kind, archived_problem(first))):
        raise CipoError(
            f"config.verifier.kind: got {verifier.kind!r}, but the problems of {workdir} have no "
            f"{' and no '.join(missing)}; wanted a verifier for such problems"
        )
    confusion: collections.Counter[tuple[Outcome, Outcome]] = collections.Counter()
    examples: list[dict[str, Any]] = []
    path = workdir / REGRADE_FILE
    with (
        replacing(path) as temporary,
        temporary.open("w", encoding="ascii") as file,
        open_pool(verifier, "" if is_run else suite_kind(verifier)) as pool,
    ):
        judged = verdicts(pool, itertools.chain([first], records), _completion)
        counted = heartbeat.counting(judged, "attempts verified")
        for record, verdict in tqdm(counted, unit="attempt", disable=None, leave=False):
            line = {name: record[name] for name in ("phase", "step", "index", "problem_id")} | {
                "old": record["outcome"],
                "new": verdict.outcome.value,
                "old_extracted": record["extracted"],
                "new_extracted": verdict.extracted,
                "detail": verdict.detail,
            }
            file.write(json.dumps(line) + "\n")
            old, new = Outcome(record["outcome"]), verdict.outcome
            confusion[old, new] += 1
            if old is not new and len(examples) < _SHOWN:
                examples.append(line | {"answer": record["answer"], "text": record["text"]})
    result = Regrade(dict(confusion), examples)
    print(format_regrade(result) + f"\nall verdicts  {path}")
    return result


def format_regrade(result: Regrade) -> str:
    """The confusion table, rows the archived outcomes, and the examples."""
    used = [o for o in Outcome if any(o in pair for pair in result.confusion)]
    total = sum(result.confusion.values())
    changed = f"{result.changed} with another outcome ({result.changed / total:.2%})"
    lines = [f"{total} attempts, {changed}"]
    if errors := sum(n for (_, new), n in result.confusion.items() if new is Outcome.ERROR):
        lines.append(f"{errors} have no verdict now; `detail` in {REGRADE_FILE} says why")
    lines.append(f"{'archived / now':16}" + "".join(f"{o.value:>12}" for o in used))
    for old in used:
        counts = (result.confusion.get((old, new), 0) for new in used)
        lines.append(f"{old.value:16}" + "".join(f"{count:12}" for count in counts))
    for e in result.examples:
        reference = "" if e["answer"] is None else f"  answer {e['answer']!r:.60}"
        lines.append(
            f"{e['phase']} {e['step']} #{e['index']} {e['problem_id']}: {e['old']} -> {e['new']}"
            f"{reference}  read {e['old_extracted']!r:.60} -> {e['new_extracted']!r:.60}"
            f"  {printable(e['detail'])[:100]}"
        )
    return "\n".join(lines)


def _completion(record: dict[str, Any]) -> tuple[Problem, str]:
    opening = record.get("opening", record.get("thought", ""))
    return archived_problem(record), opening + record["text"]
