"""Runs on one scale: learning curves against steps and sampled tokens, and their mean over seeds.

Decides how a run's evaluations are read, counted and interpolated, whose attempt a correction
quotes, which archived attempts have a verdict, and what counts as sampled: the completions of both
streams, and those that dynamic sampling discarded, but not the demonstrations of the cold start. It
does not decide which runs are compared, by which formulas (`statistics.py`), or how that is shown
(`report/comparison.py`).
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cipo_jax.run.records.archive import ATTEMPTS_DIR, read_attempts
from cipo_jax.run.records.evaluations import EVALUATIONS_DIR
from cipo_jax.run.records.metrics_file import read_metrics
from cipo_jax.types import CipoError, Outcome

# "step", "tokens" (sampled up to that step), and each metric: one value per evaluation, in the
# order of steps; None where an evaluation lacks the metric.
LearningCurve = Mapping[str, Sequence[Any]]
# {problem id: [2, 2] int: corrections, by whether the quoted attempt and the correction are right}
Corrections = dict[str, np.ndarray]
# {measure, such as "eval pass@1": {problem id: whether each attempt is right}}; None: no verdict
Outcomes = dict[str, dict[str, list[bool | None]]]


def training_steps(directory: Path, lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of the `lines` of a run's metrics.jsonl those of its training steps, which are all there, so
    that their sums are those of the run.

    Raises:
      CipoError: a step is not there, as in the first ones of a run that went on without its
        metrics, or has no number of sampled tokens.
    """
    steps = [line for line in lines if line["phase"] == "train"]
    for wanted, line in enumerate(steps, 1):
        if (step := line["step"]) != wanted:
            raise CipoError(
                f"{directory}: metrics.jsonl: has training step {step} where step {wanted} was to "
                "be, so the tokens that the run has sampled are not known; put the missing lines "
                "back from a copy, or leave this run out"
            )
        if "tokens/sampled" not in line:
            raise CipoError(f"{directory}: metrics.jsonl: step {step} has no tokens/sampled")
    return steps


def learning_curve(directory: Path) -> dict[str, list[Any]]:
    """A run's own evaluations, as a `LearningCurve`. Metrics are named without "eval/".

    Raises:
      CipoError: metrics.jsonl is damaged, or as `training_steps`.
    """
    lines = read_metrics(directory)
    sampled = [0.0, *(line["tokens/sampled"] for line in training_steps(directory, lines))]
    spent = dict(enumerate(itertools.accumulate(sampled)))
    found: dict[int, dict[str, float]] = {}
    for line in lines:
        if line["phase"] == "eval":
            metrics = {k: v for k, v in line.items() if k.startswith("eval/")}
            found[line["step"]] = {k.removeprefix("eval/"): v for k, v in metrics.items()}
    steps = sorted(found.keys() & spent.keys())
    names = dict.fromkeys(name for step in steps for name in found[step])
    return {
        "step": steps,
        "tokens": [spent[step] for step in steps],
        **{name: [found[step].get(name) for step in steps] for name in names},
    }


def points(curve: LearningCurve, metric: str, against: str) -> tuple[np.ndarray, np.ndarray]:
    """([n], [n]) float64: "step" or "tokens", and the metric, where it was measured."""
    pairs = zip(curve[against], curve.get(metric, [None] * len(curve[against])), strict=True)
    found = np.array([(x, y) for x, y in pairs if y is not None], np.float64).reshape(-1, 2)
    return found[:, 0], found[:, 1]


def mean_curve(
    curves: Sequence[LearningCurve], metric: str, against: str
) -> tuple[np.ndarray, np.ndarray] | None:
    """The mean over seeds as `points`, linear between evaluations. It reaches as far as all seeds
    have values, since nothing is extrapolated; None if a seed has none."""
    seeds = [points(curve, metric, against) for curve in curves]
    if not seeds or not all(len(x) for x, _ in seeds):
        return None
    x = np.unique(np.concatenate([x for x, _ in seeds]))
    x = x[(x >= max(x[0] for x, _ in seeds)) & (x <= min(x[-1] for x, _ in seeds))]
    return x, np.mean([np.interp(x, *seed) for seed in seeds], axis=0)


def is_judged(attempt: Mapping[str, Any]) -> bool:
    """Has an archived attempt a verdict, and what it quotes as well? An ERROR is none: it says
    nothing of the completion."""
    quoted = attempt["anchor"] or attempt
    return Outcome.ERROR not in (attempt["outcome"], quoted["outcome"])


def stream_of(attempt: Mapping[str, Any]) -> str:
    """What an archived attempt of an evaluation is: "base", or a correction, of an attempt of its
    "own" file, of one that was "given" or of one of the run's "first" evaluation; or "round 2",
    "round 3", ... of own corrections."""
    if attempt["anchor"] is None:
        return "base"
    if (number := attempt.get("round", 1)) > 1:
        return f"round {number}"
    if attempt["anchor"].get("first"):
        return "first"
    return "given" if attempt["anchor"]["index"] is None else "own"


@dataclasses.dataclass
class Counts:
    """What the archived attempts of an evaluation are, by problem id.

    Attributes:
      lengths: completion tokens of each base attempt, with a verdict or without.
      outcomes: of each base attempt that has a verdict.
      own, given, first: corrections that have a verdict, of the policy's own attempts (of these the
        first round alone), of given ones, and of wrong ones of the run's first evaluation.
    """

    lengths: dict[str, list[int]] = dataclasses.field(default_factory=dict)
    outcomes: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    own: Corrections = dataclasses.field(default_factory=dict)
    given: Corrections = dataclasses.field(default_factory=dict)
    first: Corrections = dataclasses.field(default_factory=dict)

    def rights(self) -> dict[str, list[bool]]:
        """Whether each of `outcomes` is right."""
        return {i: [o == Outcome.CORRECT for o in of] for i, of in self.outcomes.items()}


def count_evaluation(workdir: Path, step: int) -> Counts:
    """The attempts of the run's own evaluation at `step`; nothing where they are not archived.

    Raises:
      CipoError: the archive is damaged.
    """
    counts = Counts()
    corrections = {"own": counts.own, "given": counts.given, "first": counts.first}
    for attempt in read_attempts(workdir, "eval", {step}):
        problem, outcome, stream = attempt["problem_id"], attempt["outcome"], stream_of(attempt)
        if stream == "base":
            counts.lengths.setdefault(problem, []).append(attempt["completion_tokens"])
        if not is_judged(attempt):
            continue
        if stream == "base":
            counts.outcomes.setdefault(problem, []).append(outcome)
        elif stream in corrections:
            of = corrections[stream].setdefault(problem, np.zeros((2, 2), int))
            was_right = attempt["anchor"]["outcome"] == Outcome.CORRECT
            of[int(was_right), int(outcome == Outcome.CORRECT)] += 1
    return counts


def count_ends(workdir: Path, evaluations: Sequence[Mapping[str, Any]]) -> dict[int, Counts]:
    """{step: its attempts} of the first and of the last of a run's own evaluations, as far as there
    are any; they are lines of metrics.jsonl, in order of steps.

    Raises:
      CipoError: the archive is damaged.
    """
    steps = [evaluation["step"] for evaluation in evaluations]
    return {step: count_evaluation(workdir, step) for step in dict.fromkeys(steps[:1] + steps[-1:])}


def suite_outcomes(path: Path) -> Outcomes:
    """The outcomes of every suite of `evaluations/`, each at the last step it was evaluated at; of
    several evaluations of one step, the one with the last number."""
    last: dict[str, tuple[int, int, str]] = {}  # suite -> step, and length and name of a directory
    for file in (path / EVALUATIONS_DIR).glob(f"*/{ATTEMPTS_DIR}/*.jsonl.gz"):
        suite, _, number = file.name.removesuffix(".jsonl.gz").rpartition("-")
        directory = file.parents[1].name
        place = (int(number), len(directory), directory)
        last[suite] = max(last.get(suite, place), place)
    tables: Outcomes = {}
    for suite, (step, _, directory) in sorted(last.items()):
        tables |= outcomes(path / EVALUATIONS_DIR / directory, suite, step)
    return tables


def outcomes(path: Path, phase: str, step: int) -> Outcomes:
    """Those of one evaluation, from the archive in `path`; {} if it has none."""
    measures = {
        "base": f"{phase} pass@1",
        "own": f"{phase} after correction",
        # A benchmark of corrections has no other attempts to correct.
        "given": f"{phase} {'given attempts ' if phase == 'eval' else ''}after correction",
        "first": f"{phase} first wrong attempts after correction",
    }
    tables: Outcomes = {}
    for record in read_attempts(path, phase, {step}):
        whose = stream_of(record)
        measure = measures.get(whose, f"{phase} after correction, {whose}")
        table = tables.setdefault(measure, {})
        right = record["outcome"] == Outcome.CORRECT if is_judged(record) else None
        table.setdefault(record["problem_id"], []).append(right)
    return tables
