"""`--mode=compare runA runB ...`: runs against each other, at equal steps and at equal compute.

    python -m cipo_jax.main --mode=compare runs/cipo-* runs/grpo-* [--workdir=runs/comparison]

Runs whose configs differ in nothing but the seed (and what cannot change results) are one method;
the first run's method is the baseline. Curves at equal steps flatter a method that samples more per
step, so everything is shown twice: against steps, and against sampled tokens.

Paired tests use the archived attempts of evaluations, problem by problem. This file decides which
runs are one method, at which evaluations they are compared, and what the page says. Curves are read
in `run/comparison.py`; the formulas are in `run/statistics.py`.
"""

import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cipo_jax.config.keys import Config, flatten
from cipo_jax.config.resolve import read_resolved
from cipo_jax.report.comparison import (
    draw_curves,
    line_styles,
    markdown_table,
    save_figure,
    signed_interval,
)
from cipo_jax.run.comparison import LearningCurve, learning_curve, points, stream_of
from cipo_jax.run.records.archive import ATTEMPTS_DIR, read_attempts
from cipo_jax.run.statistics import Difference, mcnemar, paired_difference
from cipo_jax.types import CipoError

# Keys in which the runs of one method may differ.
_SAME_METHOD = ("seed", "log.", "mesh.", "checkpoint.", "eval.", "verifier.workers")
# Evaluations that stand for equal compute may be over the budget by this share.
_TOLERANCE = 0.05
_CURVES = ("pass@1", "correction/accuracy_after", "correction/w2r")
_EVALUATIONS_DIR = "evaluations"

# {measure, such as "eval pass@1": {problem id: whether each attempt is right}}
Outcomes = dict[str, dict[str, list[bool]]]


@dataclasses.dataclass(frozen=True)
class ComparedRun:
    """A run directory, read.

    Attributes:
      path: the directory.
      config: {"section.key": value} without the keys that may differ within a method.
      curve: of the run's own evaluations, at least one.
    """

    path: Path
    config: dict[str, Any]
    curve: LearningCurve

    def place(self, within: tuple[str, float]) -> int:
        """The place in the curve of the last evaluation whose column ("step" or "tokens") is at
        most so large, or of the first evaluation."""
        column, most = within
        return max(sum(value <= most for value in self.curve[column]) - 1, 0)


@dataclasses.dataclass(frozen=True)
class ComparedMethod:
    """Runs that differ in nothing but the seed."""

    name: str
    runs: list[ComparedRun]


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One method against the baseline on one set of problems.

    Attributes:
      method, baseline: names.
      at: "equal steps", "equal tokens" or "evaluations".
      measure: what is compared, such as "eval pass@1".
      values: means of (method, baseline).
      difference: method minus baseline, paired by problem.
      only_method, only_baseline, p_mcnemar: McNemar's test; a problem counts as solved where more
        than half of the attempts of all seeds are right.
      problems: how many.
    """

    method: str
    baseline: str
    at: str
    measure: str
    values: tuple[float, float]
    difference: Difference
    only_method: int
    only_baseline: int
    p_mcnemar: float
    problems: int


def compare(paths: Sequence[Path], out: Path) -> list[Comparison]:
    """Compares runs; writes comparison.md, .json, .png and .svg to `out`, and prints the table.

    Raises:
      CipoError: fewer than two runs, or a directory that is no run or has no evaluations.
    """
    if len(paths) < 2:
        raise CipoError(f"--mode=compare: got {len(paths)} run directories, wanted two or more")
    methods = group_runs([load_run(path) for path in paths])
    baseline, *others = methods
    curves = [run.curve for method in methods for run in method.runs]
    last_step = min(curve["step"][-1] for curve in curves)
    budget = min(curve["tokens"][-1] for curve in curves)
    points_of_comparison = {
        "equal steps": ("step", last_step),
        "equal tokens": ("tokens", budget * (1 + _TOLERANCE)),
    }

    comparisons, notes = [], []
    for at, within in points_of_comparison.items():
        tables = {
            m.name: [eval_table(r.path, r.curve["step"][r.place(within)]) for r in m.runs]
            for m in methods
        }
        if missing := [name for name, found in tables.items() if not all(found)]:
            notes.append(f"no archived evaluations in {', '.join(missing)}: no paired tests {at}")
            continue
        for method in others:
            comparisons += _compare_tables(at, method.name, baseline.name, tables)
    suites = {m.name: [suite_table(r.path) for r in m.runs] for m in methods}
    for method in others:
        comparisons += _compare_tables("evaluations", method.name, baseline.name, suites)

    metrics = _shared_metrics(curves)
    lines = [
        "# Comparison",
        "",
        f"Equal steps: {last_step} steps. Equal tokens: {budget:,.0f} sampled tokens, the number "
        "that the cheapest run had sampled at its last evaluation; values there are interpolated "
        "between evaluations. Step and tokens are those of the evaluation that the paired tests "
        f"use: the last one with at most {_TOLERANCE:.0%} more. Means over seeds ± standard error.",
        "",
        *_value_table(methods, metrics, points_of_comparison, budget),
        "",
        "Paired by problem. p: bootstrap over problems (and seeds, where there are several). "
        "Alone: problems solved by more than half of the attempts of one method only, McNemar's p.",
        "",
        *_paired_table(comparisons),
        "",
        "## Methods",
        "",
    ]
    for method in methods:
        lines.append(f"- {method.name}: {', '.join(str(run.path) for run in method.runs)}")
        lines += [f"    - {difference}" for difference in _differences(methods, method)]
    text = "\n".join([*lines, *(f"\n{note}" for note in notes)]) + "\n"

    out.mkdir(parents=True, exist_ok=True)
    (out / "comparison.md").write_text(text)
    raw = [dataclasses.asdict(c) for c in comparisons]
    (out / "comparison.json").write_text(json.dumps(raw, indent=1) + "\n")
    by_name = {m.name: [run.curve for run in m.runs] for m in methods}
    labels = {metric: metric for metric in metrics}
    drawn = draw_curves(by_name, labels, line_styles(by_name), each_seed=True)
    print(text + f"\nfigure  {save_figure(drawn, out / 'comparison')}", flush=True)
    return comparisons


def load_run(path: Path) -> ComparedRun:
    """Reads config and metrics of a run directory.

    Raises:
      CipoError: it is none, or nothing was evaluated or sampled there.
    """
    if not (path / "config.json").is_file():
        raise CipoError(f"{path}: is not a run directory (no config.json)")
    # A run of before a key existed behaved as its default does.
    flat: dict[str, Any] = json.loads(json.dumps(flatten(Config())))
    for section, value in read_resolved(path / "config.json").items():
        flat |= (
            {f"{section}.{k}": v for k, v in value.items()}
            if isinstance(value, dict)
            else {section: value}
        )
    # A seed has its own warmed-up parameters; whether there are any is the method's.
    flat["init_from"] = bool(flat.get("init_from"))
    config = {k: v for k, v in flat.items() if not k.startswith(_SAME_METHOD)}
    curve = learning_curve(path)
    if not curve["step"]:
        raise CipoError(f"{path}: metrics.jsonl: has no evaluations to compare")
    return ComparedRun(path, config, curve)


def group_runs(runs: Sequence[ComparedRun]) -> list[ComparedMethod]:
    """The runs by method, in order of first appearance."""
    grouped: list[list[ComparedRun]] = []
    for run in runs:
        for members in grouped:
            if members[0].config == run.config:
                members.append(run)
                break
        else:
            grouped.append([run])
    methods: list[ComparedMethod] = []
    for members in grouped:
        names = [run.path.name for run in members]
        shared = os.path.commonprefix(names).rstrip("-_.0123456789") or names[0]
        name = names[0] if len(names) == 1 else f"{shared} ({len(names)} seeds)"
        if any(name == other.name for other in methods):
            name = str(members[0].path)
        methods.append(ComparedMethod(name, members))
    return methods


def eval_table(path: Path, step: int) -> Outcomes:
    """The outcomes of the run's own evaluation at a step; {} without its archive."""
    return _outcomes(path, "eval", step)


def suite_table(path: Path) -> Outcomes:
    """Likewise of every suite of `evaluations/`, at the last step each was evaluated at."""
    tables: Outcomes = {}
    for directory in sorted((path / _EVALUATIONS_DIR).glob("*")):
        newest: dict[str, int] = {}
        for file in (directory / ATTEMPTS_DIR).glob("*.jsonl.gz"):
            suite, _, number = file.name.removesuffix(".jsonl.gz").rpartition("-")
            newest[suite] = max(newest.get(suite, 0), int(number))
        for suite, step in newest.items():
            tables |= _outcomes(directory, suite, step)
    return tables


def _outcomes(path: Path, phase: str, step: int) -> Outcomes:
    measures = {
        "base": f"{phase} pass@1",
        "own": f"{phase} after correction",
        # A benchmark of corrections has no other attempts to correct.
        "given": f"{phase} {'given attempts ' if phase == 'eval' else ''}after correction",
    }
    tables: Outcomes = {}
    for record in read_attempts(path, phase, {step}):
        table = tables.setdefault(measures[stream_of(record)], {})
        table.setdefault(record["problem_id"], []).append(record["outcome"] == "correct")
    return tables


def _compare_tables(
    at: str, method: str, baseline: str, outcomes: dict[str, list[Outcomes]]
) -> list[Comparison]:
    """Every measure that all runs of both methods have, on the problems that all have.

    Args:
      outcomes: method -> those of each run.
    """
    runs = [*outcomes[method], *outcomes[baseline]]
    comparisons = []
    for measure in sorted(set.intersection(*(set(tables) for tables in runs))):
        problems = sorted(set.intersection(*(set(tables[measure]) for tables in runs)))
        if not problems:
            continue
        a, b = (
            np.array([[np.mean(run[measure][p]) for p in problems] for run in outcomes[name]])
            for name in (method, baseline)
        )
        comparisons.append(
            Comparison(
                method,
                baseline,
                at,
                measure,
                (float(a.mean()), float(b.mean())),
                paired_difference(a, b),
                *mcnemar(a.mean(axis=0) > 0.5, b.mean(axis=0) > 0.5),
                len(problems),
            )
        )
    return comparisons


def _value_table(
    methods: Sequence[ComparedMethod],
    metrics: Sequence[str],
    points_of_comparison: dict[str, tuple[str, float]],
    budget: float,
) -> list[str]:
    """The metrics of each method at each point; at equal tokens interpolated to the budget."""
    rows = []
    for at, within in points_of_comparison.items():
        for method in methods:
            reached = [(run.curve, run.place(within)) for run in method.runs]
            cells = []
            for metric in metrics:
                if at == "equal tokens":
                    found = [np.interp(budget, *points(c, metric, "tokens")) for c, _ in reached]
                else:
                    found = [curve[metric][place] for curve, place in reached]
                values = np.array(found)
                spread = values.std(ddof=1) / len(values) ** 0.5 if len(values) > 1 else None
                cells.append(
                    f"{values.mean():.3f}" + ("" if spread is None else f" ± {spread:.3f}")
                )
            steps = dict.fromkeys(str(curve["step"][place]) for curve, place in reached)
            spent = np.mean([curve["tokens"][place] for curve, place in reached])
            rows.append((method.name, at, ", ".join(steps), f"{spent:,.0f}", *cells))
    return markdown_table(("method", "at", "step", "sampled tokens", *metrics), rows)


def _paired_table(comparisons: Sequence[Comparison]) -> list[str]:
    head = ("at", "measure", "problems", "method", "baseline", "difference", "95% interval", "p")
    rows = [
        (
            c.at,
            c.measure,
            c.problems,
            f"{c.method} {c.values[0]:.3f}",
            f"{c.baseline} {c.values[1]:.3f}",
            f"{c.difference.value:+.3f}",
            signed_interval(c.difference.low, c.difference.high),
            f"{c.difference.p:.4f}",
            f"{c.only_method} : {c.only_baseline}",
            f"{c.p_mcnemar:.4f}",
        )
        for c in comparisons
    ]
    return markdown_table((*head, "alone", "McNemar p"), rows)


def _shared_metrics(curves: Sequence[LearningCurve]) -> list[str]:
    """The metrics shown: pass@1, pass@k of the largest k, and corrections, where all evaluations
    have them."""
    shared = set.intersection(
        *({name for name, values in curve.items() if None not in values} for curve in curves)
    )
    ks = [int(k) for name in shared if (k := name.removeprefix("pass@")).isdecimal()]
    names = dict.fromkeys((_CURVES[0], f"pass@{max(ks, default=1)}", *_CURVES[1:]))
    return [name for name in names if name in shared]


def _differences(methods: Sequence[ComparedMethod], method: ComparedMethod) -> list[str]:
    """The config keys in which methods differ, with this method's values."""
    configs = [m.runs[0].config for m in methods]
    keys = dict.fromkeys(key for config in configs for key in config)
    mine = method.runs[0].config
    return [f"{k}={mine.get(k)!r}" for k in keys if any(c.get(k) != mine.get(k) for c in configs)]
