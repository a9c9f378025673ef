"""`--mode=compare runA runB ...`: runs against each other, at equal steps and at equal compute.

    python -m cipo_jax.main --mode=compare runs/cipo-* runs/grpo-* [--workdir=runs/comparison]

Runs whose configs differ in nothing but the seed (and what cannot change results) are one method;
the first run's method is the baseline. Curves at equal steps flatter a method that samples more a
step, so everything is shown twice: against steps, and against sampled tokens (of both streams and
of all that dynamic sampling discarded; supervised tokens of the cold start are not sampled).

Paired tests use the archived attempts of evaluations, problem by problem. This file decides what
is compared; the formulas are in `run/statistics.py`.
"""

import dataclasses
import itertools
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cipo_jax.config.command_line import Invocation
from cipo_jax.config.keys import Config, flatten
from cipo_jax.config.resolve import read_resolved
from cipo_jax.run.records.archive import ATTEMPTS_DIR, read_attempts
from cipo_jax.run.records.metrics_file import read_metrics
from cipo_jax.run.statistics import Difference, mcnemar, paired_difference
from cipo_jax.types import CipoError

# Keys in which the runs of one method may differ.
_SAME_METHOD = ("seed", "log.", "mesh.", "checkpoint.", "eval.", "verifier.workers")
# Evaluations that stand for equal compute may be over the budget by this share.
_TOLERANCE = 0.05
_CURVES = ("eval/pass@1", "eval/correction/accuracy_after", "eval/correction/w2r")
_EVALUATIONS_DIR = "evaluations"


@dataclasses.dataclass(frozen=True)
class Run:
    """A run directory, read.

    Attributes:
      path: the directory.
      config: {"section.key": value} without the keys that may differ within a method.
      tokens: {step: tokens sampled up to it}, with step 0.
      evaluations: {step: {metric: value}} of the run's own evaluations.
    """

    path: Path
    config: dict[str, Any]
    tokens: dict[int, float]
    evaluations: dict[int, dict[str, float]]


@dataclasses.dataclass(frozen=True)
class Method:
    """Runs that differ in nothing but the seed."""

    name: str
    runs: list[Run]


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


def command(invocation: Invocation) -> None:
    """The mode."""
    given, workdir = invocation.workdir_given, invocation.workdir
    compare(list(map(Path, invocation.paths)), workdir if given else Path("runs/comparison"))


def compare(paths: Sequence[Path], out: Path) -> list[Comparison]:
    """Compares runs; writes comparison.md, .json, .png and .svg to `out`, and prints the table.

    Raises:
      CipoError: fewer than two runs, or a directory that is no run or has no evaluations.
    """
    if len(paths) < 2:
        raise CipoError(f"--mode=compare: got {len(paths)} run directories, wanted two or more")
    methods = group_runs([load_run(path) for path in paths])
    runs = [run for method in methods for run in method.runs]
    last_step = min(max(run.evaluations) for run in runs)
    budget = min(run.tokens[max(run.evaluations)] for run in runs)
    most = budget * (1 + _TOLERANCE)

    comparisons, notes = [], []
    points: tuple[tuple[str, Callable[[Run], int]], ...] = (
        ("equal steps", lambda run: _latest(run, lambda step: step <= last_step)),
        ("equal tokens", lambda run: _latest(run, lambda step: run.tokens[step] <= most)),
    )
    baseline, *others = methods
    for at, step_of in points:
        tables = {m.name: [eval_table(r.path, step_of(r)) for r in m.runs] for m in methods}
        if missing := [name for name, found in tables.items() if not all(found)]:
            notes.append(f"no archived evaluations in {', '.join(missing)}: no paired tests {at}")
            continue
        for method in others:
            comparisons += _compare_tables(
                at, method.name, tables[method.name], baseline.name, tables[baseline.name]
            )
    for method in others:
        suites = {m.name: [suite_table(r.path) for r in m.runs] for m in (method, baseline)}
        comparisons += _compare_tables(
            "evaluations", method.name, suites[method.name], baseline.name, suites[baseline.name]
        )
    out.mkdir(parents=True, exist_ok=True)
    text = format_comparison(methods, last_step, budget, points, comparisons, notes)
    (out / "comparison.md").write_text(text)
    raw = [dataclasses.asdict(c) for c in comparisons]
    (out / "comparison.json").write_text(json.dumps(raw, indent=1) + "\n")
    draw(methods, out / "comparison")
    print(text + f"\nfigure  {out / 'comparison.png'}", flush=True)
    return comparisons


def load_run(path: Path) -> Run:
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
    tokens, total = {0: 0.0}, 0.0
    evaluations = {}
    for record in read_metrics(path):
        if record["phase"] == "train":
            if "tokens/sampled" not in record:
                raise CipoError(
                    f"{path}: metrics.jsonl: step {record['step']} has no tokens/sampled"
                )
            total += record["tokens/sampled"]
            tokens[record["step"]] = total
        elif record["phase"] == "eval":
            evaluations[record["step"]] = {k: v for k, v in record.items() if k.startswith("eval/")}
    evaluations = {step: values for step, values in evaluations.items() if step in tokens}
    if not evaluations:
        raise CipoError(f"{path}: metrics.jsonl: has no evaluations to compare")
    return Run(path, config, tokens, evaluations)


def group_runs(runs: Sequence[Run]) -> list[Method]:
    """The runs by method, in order of first appearance."""
    grouped: list[list[Run]] = []
    for run in runs:
        for members in grouped:
            if members[0].config == run.config:
                members.append(run)
                break
        else:
            grouped.append([run])
    methods: list[Method] = []
    for members in grouped:
        names = [run.path.name for run in members]
        shared = os.path.commonprefix(names).rstrip("-_.0123456789") or names[0]
        name = names[0] if len(names) == 1 else f"{shared} ({len(names)} seeds)"
        if any(name == other.name for other in methods):
            name = str(members[0].path)
        methods.append(Method(name, members))
    return methods


def eval_table(path: Path, step: int) -> dict[str, dict[str, list[bool]]]:
    """{"eval pass@1": {problem id: outcomes}, "eval after correction": ...} of one evaluation."""
    return _outcomes(path, "eval", {step}, "eval")


def suite_table(path: Path) -> dict[str, dict[str, list[bool]]]:
    """Likewise for every suite of `evaluations/`, at the last step each was evaluated at."""
    tables: dict[str, dict[str, list[bool]]] = {}
    for directory in sorted((path / _EVALUATIONS_DIR).glob("*")):
        newest: dict[str, int] = {}
        for file in (directory / ATTEMPTS_DIR).glob("*.jsonl.gz"):
            suite, _, number = file.name.removesuffix(".jsonl.gz").rpartition("-")
            newest[suite] = max(newest.get(suite, 0), int(number))
        for suite, step in newest.items():
            tables |= _outcomes(directory, suite, {step}, suite)
    return tables


def _outcomes(
    path: Path, phase: str, steps: set[int], name: str
) -> dict[str, dict[str, list[bool]]]:
    tables: dict[str, dict[str, list[bool]]] = {}
    measures = {
        "base": f"{name} pass@1",
        "correction": f"{name} after correction",
        "given": f"{name} given attempts after correction",
    }
    for record in read_attempts(path, phase, steps):
        stream = record["stream"]
        # In an evaluation of own attempts, an anchor that is not in the file was given.
        if stream == "correction" and phase == "eval" and record["anchor"]["index"] is None:
            stream = "given"
        table = tables.setdefault(measures[stream], {})
        table.setdefault(record["problem_id"], []).append(record["outcome"] == "correct")
    return tables


def _compare_tables(
    at: str,
    method: str,
    ours: Sequence[dict[str, dict[str, list[bool]]]],
    baseline: str,
    theirs: Sequence[dict[str, dict[str, list[bool]]]],
) -> list[Comparison]:
    """Every measure that all runs of both methods have, on the problems that all have."""
    runs = [*ours, *theirs]
    comparisons = []
    for measure in sorted(set.intersection(*(set(tables) for tables in runs))):
        problems = sorted(set.intersection(*(set(tables[measure]) for tables in runs)))
        if not problems:
            continue
        a, b = (
            np.array([[np.mean(tables[measure][p]) for p in problems] for tables in side])
            for side in (ours, theirs)
        )
        only_a, only_b, p = mcnemar(a.mean(axis=0) > 0.5, b.mean(axis=0) > 0.5)
        comparisons.append(
            Comparison(
                method,
                baseline,
                at,
                measure,
                (float(a.mean()), float(b.mean())),
                paired_difference(a, b),
                only_a,
                only_b,
                p,
                len(problems),
            )
        )
    return comparisons


def _latest(run: Run, allowed: Callable[[int], bool]) -> int:
    """The last evaluated step that is allowed; step 0 always is."""
    return max((step for step in run.evaluations if allowed(step)), default=min(run.evaluations))


def format_comparison(
    methods: Sequence[Method],
    last_step: int,
    budget: float,
    points: Sequence[tuple[str, Callable[[Run], int]]],
    comparisons: Sequence[Comparison],
    notes: Sequence[str],
) -> str:
    """The comparison as markdown."""
    metrics = _shared_metrics(methods)
    header = " | ".join(name.removeprefix("eval/") for name in metrics)
    lines = [
        "# Comparison",
        "",
        f"Equal steps: {last_step} steps. Equal tokens: {budget:,.0f} sampled tokens, what the "
        "cheapest run had sampled at its last evaluation; values there are interpolated between "
        "evaluations. Step and tokens are those of the evaluation that the paired tests use: the "
        f"last one with at most {_TOLERANCE:.0%} more. Means over seeds ± standard error.",
        "",
        f"| method | at | step | sampled tokens | {header} |",
        "|---|---|---|---|" + "---|" * len(metrics),
    ]
    for at, step_of in points:
        for method in methods:
            steps = [step_of(run) for run in method.runs]
            spent = [run.tokens[step] for run, step in zip(method.runs, steps, strict=True)]
            cells = []
            for metric in metrics:
                values = np.array(
                    [
                        run.evaluations[step][metric]
                        for run, step in zip(method.runs, steps, strict=True)
                    ]
                )
                if at == "equal tokens":
                    values = np.array(
                        [
                            np.interp(budget, *_curve(run, metric, tokens=True))
                            for run in method.runs
                        ]
                    )
                spread = values.std(ddof=1) / len(values) ** 0.5 if len(values) > 1 else None
                cells.append(
                    f"{values.mean():.3f}" + ("" if spread is None else f" ± {spread:.3f}")
                )
            where = ", ".join(map(str, dict.fromkeys(steps)))
            tokens = f"{np.mean(spent):,.0f}"
            lines.append(f"| {method.name} | {at} | {where} | {tokens} | {' | '.join(cells)} |")
    lines += [
        "",
        "Paired by problem. p: bootstrap over problems (and seeds, where there are several). "
        "Alone: problems solved by more than half of the attempts of one method only, McNemar's p.",
        "",
        "| at | measure | problems | method | baseline | difference | 95% interval | p | alone | "
        "McNemar p |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for c in comparisons:
        d = c.difference
        lines.append(
            f"| {c.at} | {c.measure} | {c.problems} | {c.method} {c.values[0]:.3f} "
            f"| {c.baseline} {c.values[1]:.3f} | {d.value:+.3f} | {d.low:+.3f} to {d.high:+.3f} "
            f"| {d.p:.4f} | {c.only_method} : {c.only_baseline} | {c.p_mcnemar:.4f} |"
        )
    lines += ["", "## Methods", ""]
    for method in methods:
        lines.append(f"- {method.name}: {', '.join(str(run.path) for run in method.runs)}")
        lines += [f"    - {difference}" for difference in _differences(methods, method)]
    return "\n".join([*lines, *(f"\n{note}" for note in notes)]) + "\n"


def draw(methods: Sequence[Method], path: Path) -> None:
    """Writes the curves as `path`.png and .svg: metrics in rows, against steps and tokens."""
    import matplotlib.figure  # here and not at the top: half a second

    metrics = _shared_metrics(methods)
    figure = matplotlib.figure.Figure(figsize=(9, 2.6 * max(len(metrics), 1)), layout="constrained")
    axes = figure.subplots(max(len(metrics), 1), 2, squeeze=False, sharey="row")
    for (row, metric), column in itertools.product(enumerate(metrics), (0, 1)):
        axis = axes[row][column]
        for number, method in enumerate(methods):
            curves = [_curve(run, metric, tokens=column == 1) for run in method.runs]
            for x, y in curves:
                axis.plot(x, y, color=f"C{number}", alpha=0.3, linewidth=0.8)
            x = np.unique(np.concatenate([x for x, _ in curves]))
            # No extrapolation: the mean is over all seeds or not drawn.
            x = x[(x >= max(x[0] for x, _ in curves)) & (x <= min(x[-1] for x, _ in curves))]
            mean = np.mean([np.interp(x, *curve) for curve in curves], axis=0)
            axis.plot(x, mean, color=f"C{number}", marker="o", markersize=3, label=method.name)
        axis.set_xlabel("sampled tokens" if column else "steps")
        axis.grid(alpha=0.3)
        if not column:
            axis.set_ylabel(metric.removeprefix("eval/"))
    axes[0][0].legend(fontsize="small")
    for ending in (".png", ".svg"):
        figure.savefig(path.with_suffix(ending), dpi=150)


def _shared_metrics(methods: Sequence[Method]) -> list[str]:
    """The metrics shown: pass@1, pass@k of the largest k, and corrections, where all have them."""
    sets = [set(values) for m in methods for r in m.runs for values in r.evaluations.values()]
    shared = set.intersection(*sets)
    ks = [int(name.removeprefix("eval/pass@")) for name in shared if _is_pass_at(name)]
    names = dict.fromkeys((*_CURVES[:1], f"eval/pass@{max(ks, default=1)}", *_CURVES[1:]))
    return [name for name in names if name in shared]


def _is_pass_at(name: str) -> bool:
    return name.startswith("eval/pass@") and name.removeprefix("eval/pass@").isdecimal()


def _curve(run: Run, metric: str, tokens: bool) -> tuple[np.ndarray, np.ndarray]:
    steps = sorted(run.evaluations)
    x = [run.tokens[step] if tokens else step for step in steps]
    return np.array(x, np.float64), np.array([run.evaluations[step][metric] for step in steps])


def _differences(methods: Sequence[Method], method: Method) -> list[str]:
    """The config keys in which methods differ, with this method's values."""
    configs = [m.runs[0].config for m in methods]
    keys = dict.fromkeys(key for config in configs for key in config)
    mine = method.runs[0].config
    return [f"{k}={mine.get(k)!r}" for k in keys if any(c.get(k) != mine.get(k) for c in configs)]
