"""`--mode=compare runA runB ...`: runs against each other, at equal steps and at equal compute.

    python -m cipo_jax.main --mode=compare runs/cipo-* runs/grpo-* [--workdir=runs/comparison]

Table and figure go to --workdir, by default to the directory `comparison` beside the first run.

Runs whose configs differ only in the seed (and in what cannot change results) are one method; the
first run's method is the baseline. Curves at equal steps flatter a method that samples more per
step, so everything is shown twice: against steps, and against sampled tokens.

Paired tests use the archived attempts of evaluations, problem by problem. This file decides which
runs are one method, at which evaluations they are compared, and what the page says. Curves are read
in `run/comparison.py`; the formulas are in `run/statistics.py`.
"""

import dataclasses
import itertools
import json
import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cipo_jax import __version__
from cipo_jax.config.command_line import Invocation
from cipo_jax.config.resolve import read_values, with_newer_keys
from cipo_jax.report.blocks import Note, Section, Table, interval_places
from cipo_jax.report.comparison import (
    curve_figures,
    draw_curves,
    line_styles,
    runs_table,
    said_difference,
    save_figure,
    unsolved_table,
)
from cipo_jax.report.figures import FigureGrid
from cipo_jax.report.html import Page, write_page
from cipo_jax.report.markdown import markdown_page, signed_interval
from cipo_jax.run.comparison import (
    LearningCurve,
    Outcomes,
    learning_curve,
    outcomes,
    points,
    suite_outcomes,
)
from cipo_jax.run.records.files import write_json, write_text
from cipo_jax.run.statistics import Difference, mcnemar, paired_difference
from cipo_jax.run.unsolved import may_recur, next_visits
from cipo_jax.run.watch.heartbeat import Heartbeat
from cipo_jax.types import CipoError

# Keys in which the runs of one method may differ.
_SAME_METHOD = ("seed", "log.", "mesh.", "checkpoint.", "eval.", "verifier.workers")
# Evaluations at equal compute may exceed the budget by this share.
_TOLERANCE = 0.05
# An evaluation with less than this share of the budget is not compared.
_NEAR = 0.5
PAGE = "comparison.html"
_PROGRAM = ("python", "-m", "cipo_jax.main", "--mode=compare")
_PAIRED = (
    "p: bootstrap over problems (and seeds, where there are several). Alone: problems solved by "
    "more than half of the attempts of one method only, McNemar's p."
)
_UNSOLVED = (
    "Training problems as long as none of their attempts has been right, and their next visit: "
    "whether it has a right attempt, and the share of right ones. Corrected: a correction has been "
    "right. Problems that can be corrected are easier ones, so kinds of one method differ by that "
    "as well; compare `all` between methods."
)
_CURVES = ("pass@1", "correction/accuracy_after", "correction/w2r", "first_wrong/w2r")


@dataclasses.dataclass(frozen=True)
class ComparedRun:
    """A run directory, read.

    Attributes:
      config: {"section.key": value} without the keys that may differ within a method.
      curve: of the run's own evaluations, at least one.
    """

    path: Path
    config: dict[str, Any]
    curve: LearningCurve

    def latest(self, column: str, most: float) -> dict[str, Any]:
        """The last evaluation whose "step" or "tokens" is at most `most`, else the first."""
        place = max(sum(value <= most for value in self.curve[column]) - 1, 0)
        return {name: values[place] for name, values in self.curve.items()}


# Runs that differ only in the seed, by the name of their method.
Methods = dict[str, list[ComparedRun]]


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One method against the baseline on one set of problems.

    Attributes:
      at: "equal steps", "equal tokens" or "evaluations".
      measure: what is compared, such as "eval pass@1".
      values: means of (method, baseline).
      difference: method minus baseline, paired by problem.
      only_method, only_baseline, p_mcnemar: McNemar's test; a problem counts as solved where more
        than half of the attempts of all seeds are right.
      problems: those of which every run has a verdict.
      unjudged: attempts of these runs without a verdict, which are left out.
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
    unjudged: int


def command(invocation: Invocation) -> None:
    """The mode."""
    paths, out = list(map(Path, invocation.paths)), invocation.workdir
    if paths and not invocation.workdir_given:
        out = Path(os.path.normpath(paths[0])).parent / "comparison"
    with Heartbeat(invocation.config.log.heartbeat_seconds) as heartbeat:
        compare(paths, out, heartbeat)


def compare(
    paths: Sequence[Path], out: Path, heartbeat: Heartbeat | None = None
) -> list[Comparison]:
    """Compares runs; writes comparison.html, .md, .json, .png and .svg to `out`, and prints the
    tables.

    Args:
      heartbeat: says what the mode is doing; None: nothing does.

    Raises:
      CipoError: fewer than two runs, or a directory that is no run or has no evaluations.
    """
    if len(paths) < 2:
        raise CipoError(f"--mode=compare: got {len(paths)} run directories, wanted two or more")
    there = [path.resolve() for path in paths]
    if twice := [str(p) for p, place in zip(paths, there, strict=True) if there.count(place) > 1]:
        raise CipoError(f"--mode=compare: {twice[0]} is given twice; wanted different runs")
    heartbeat = heartbeat or Heartbeat()
    heartbeat.begin("compare")
    print(f"compare  {len(paths)} runs", flush=True)
    counted = heartbeat.counting(paths, "runs read", len(paths))
    methods = group_runs([load_run(path) for path in counted])
    curves = {name: [run.curve for run in runs] for name, runs in methods.items()}
    places = {name: [run.path for run in runs] for name, runs in methods.items()}
    last_step = min(curve["step"][-1] for seeds in curves.values() for curve in seeds)
    budget = min(curve["tokens"][-1] for seeds in curves.values() for curve in seeds)
    most = budget * (1 + _TOLERANCE)
    limits = {"equal steps": ("step", last_step), "equal tokens": ("tokens", most)}

    comparisons, notes = [], []
    for at, limit in limits.items():
        heartbeat.begin("compare", f"attempts of all runs at {at}, and paired tests")
        ends = {n: min(r.latest(*limit)[limit[0]] for r in runs) for n, runs in methods.items()}
        if far := [name for name, end in ends.items() if end < _NEAR * limit[1]]:
            notes.append(f"no evaluation of {', '.join(far)} near {at}: no paired tests there")
            continue
        tables = {
            name: [outcomes(run.path, "eval", run.latest(*limit)["step"]) for run in runs]
            for name, runs in methods.items()
        }
        if missing := [name for name, found in tables.items() if not all(found)]:
            notes.append(f"no archived evaluations in {', '.join(missing)}: no paired tests {at}")
        else:
            found = _with_baseline(at, tables)
            without = [name for name in [*tables][1:] if name not in {c.method for c in found}]
            notes += [f"{name}: on other problems, no paired tests at {at}" for name in without]
            comparisons += found
    heartbeat.begin("compare", "attempts at benchmarks, and paired tests")
    suites = {name: [suite_outcomes(run.path) for run in runs] for name, runs in methods.items()}
    comparisons += _with_baseline("evaluations", suites)
    notes += [
        f"{c.unjudged} attempts without a verdict (outcome error) are left out of {c.measure}, "
        f"{c.at}, {c.method} with {c.baseline}; their `detail` in attempts/*.jsonl.gz says why"
        for c in comparisons
        if c.unjudged
    ]

    recurring = [run for runs in methods.values() for run in runs if may_recur(run.config)]
    heartbeat.begin("compare", "attempts at training problems")
    read = heartbeat.counting(recurring, "runs read", len(recurring))
    unsolved = {run.path: next_visits(run.path) for run in read}
    followed = {
        name: [unsolved[run.path] for run in runs if unsolved.get(run.path)]
        for name, runs in methods.items()
    }

    heartbeat.begin("compare", f"table and figure in {out}")
    metrics = _shared_metrics([curve for seeds in curves.values() for curve in seeds])
    about = (
        f"Equal steps: {last_step} steps. Equal tokens: {budget:,.0f} sampled tokens, the number "
        "that the cheapest run had sampled at its last evaluation; values there are interpolated "
        "between evaluations. Step and tokens are those of the evaluation that the paired tests "
        f"use: the last one with at most {_TOLERANCE:.0%} more. Means over seeds ± standard error."
    )
    sections = [
        Section("Values", [_value_table(methods, metrics, limits, budget)]),
        Section("Paired by problem", [Note(_PAIRED), _paired_table(comparisons)]),
    ]
    if any(followed.values()):
        sections.append(Section("Unsolved", [Note(_UNSOLVED), unsolved_table(followed)]))
    sections.append(Section("Methods", [*_method_notes(methods), *map(Note, notes)]))
    text = markdown_page("Comparison", about, sections)

    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "comparison.md", text)
    write_json(out / "comparison.json", [dataclasses.asdict(c) for c in comparisons])
    labels = {metric: metric for metric in metrics}
    drawn = draw_curves(curves, labels, line_styles(curves), each_seed=True)
    figure = save_figure(drawn, out / "comparison")
    page = Page(
        kind="cipo_jax comparison",
        name=" and ".join(methods),
        verdicts=[_verdict(comparisons)],
        facts={
            "Baseline": next(iter(methods)),
            "Equal steps": f"{last_step}",
            "Equal tokens": f"{budget:,.0f} sampled",
            "Page by": f"cipo_jax {__version__}",
        },
        command=shlex.join([*_PROGRAM, *map(str, paths), f"--workdir={out}"]),
        sections=[
            Section("Curves", [FigureGrid(curve_figures(curves, labels))]),
            Section("Runs", [runs_table(places)]),
            sections[0]._replace(blocks=[Note(about), *sections[0].blocks]),
            *sections[1:],
        ],
    )
    print(f"{text}\nfigure  {figure}\nreport  {write_page(out / PAGE, page)}", flush=True)
    return comparisons


def load_run(path: Path) -> ComparedRun:
    """Reads config and metrics of a run directory.

    Raises:
      CipoError: it is not one, or nothing was evaluated or sampled there.
    """
    if not (path / "config.json").is_file():
        raise CipoError(f"{path}: is not a run directory (no config.json)")
    flat = with_newer_keys(read_values(path / "config.json"))
    # A seed has its own warmed-up parameters; whether there are any is the method's.
    flat["init_from"] = bool(flat.get("init_from"))
    config = {k: v for k, v in flat.items() if not k.startswith(_SAME_METHOD)}
    curve = learning_curve(path)
    if not curve["step"]:
        raise CipoError(f"{path}: metrics.jsonl: has no evaluations to compare")
    return ComparedRun(path, config, curve)


def group_runs(runs: Sequence[ComparedRun]) -> Methods:
    """The different `runs` by method, in order of first appearance."""
    grouped: dict[str, list[ComparedRun]] = {}
    for run in runs:
        grouped.setdefault(json.dumps(run.config, sort_keys=True), []).append(run)
    methods: Methods = {}
    for members in grouped.values():
        places = [Path(os.path.abspath(run.path)) for run in members]
        names = [place.name for place in places]
        shared = os.path.commonprefix(names).rstrip("-_.0123456789") or names[0]
        name = names[0] if len(names) == 1 else f"{shared} ({len(names)} seeds)"
        # Runs in different places may have one name, and a path relative to here is no other.
        choices = (name, "/".join(places[0].parts[-2:]), str(members[0].path.resolve()))
        methods[next(choice for choice in choices if choice not in methods)] = members
    return methods


def _with_baseline(at: str, tables: dict[str, list[Outcomes]]) -> list[Comparison]:
    """Each method with the first, which is the baseline: every measure that all runs of both have,
    on the problems that all have.

    Args:
      tables: method -> the outcomes of each run.
    """
    baseline, *others = tables
    comparisons = []
    for method in others:
        runs = [*tables[method], *tables[baseline]]
        for measure in sorted(set.intersection(*map(set, runs))):
            found = [_with_verdicts(run[measure]) for run in runs]
            problems = sorted(set.intersection(*map(set, found)))
            if not problems:
                continue
            means = np.array([[np.mean(run[p]) for p in problems] for run in found])
            a, b = np.split(means, [len(tables[method])])
            values = float(a.mean()), float(b.mean())
            solved = mcnemar(a.mean(axis=0) > 0.5, b.mean(axis=0) > 0.5)
            difference, total = paired_difference(a, b), len(problems)
            unjudged = sum(list(of).count(None) for run in runs for of in run[measure].values())
            comparisons.append(
                Comparison(
                    method, baseline, at, measure, values, difference, *solved, total, unjudged
                )
            )
    return comparisons


def _with_verdicts(table: dict[str, list[bool | None]]) -> dict[str, list[bool]]:
    """The problems that have any, with these alone."""
    known = {p: [r for r in rights if r is not None] for p, rights in table.items()}
    return {p: rights for p, rights in known.items() if rights}


def _value_table(
    methods: Methods, metrics: Sequence[str], limits: dict[str, tuple[str, float]], budget: float
) -> Table:
    """The metrics of each method at each limit; at equal tokens interpolated to the budget."""
    rows = []
    for (at, limit), (name, runs) in itertools.product(limits.items(), methods.items()):
        latest = [run.latest(*limit) for run in runs]
        cells = []
        for metric in metrics:
            values = np.array([evaluation[metric] for evaluation in latest])
            if at == "equal tokens":
                curves = [points(run.curve, metric, "tokens") for run in runs]
                values = np.array([np.interp(budget, *curve) for curve in curves])
            spread = f" ± {values.std(ddof=1) / len(runs) ** 0.5:.3f}" if len(runs) > 1 else ""
            cells.append(f"{values.mean():.3f}{spread}")
        steps = dict.fromkeys(str(evaluation["step"]) for evaluation in latest)
        spent = np.mean([evaluation["tokens"] for evaluation in latest])
        rows.append((name, at, ", ".join(steps), f"{spent:,.0f}", *cells))
    return Table("Values", ("method", "at", "step", "sampled tokens", *metrics), rows)


def _paired_table(comparisons: Sequence[Comparison]) -> Table:
    head = ("at", "measure", "", "problems", "method", "baseline", "difference", "95% interval")
    bounds = [abs(x) for c in comparisons for x in (c.difference.low, c.difference.high)]
    rows = [
        (
            c.at,
            c.measure,
            interval_places(d.low, d.value, d.high, max(bounds)),
            c.problems,
            f"{c.method} {c.values[0]:.3f}",
            f"{c.baseline} {c.values[1]:.3f}",
            f"{d.value:+.3f}",
            signed_interval(d.low, d.high),
            f"{d.p:.4f}",
            f"{c.only_method} : {c.only_baseline}",
            f"{c.p_mcnemar:.4f}",
        )
        for c in comparisons
        for d in [c.difference]
    ]
    columns = (*head, "p", "alone", "McNemar p")
    return Table("Paired by problem", columns, rows, ("text", "text", "interval"))


def _method_notes(methods: Methods) -> list[Note]:
    """A list of the methods: their runs, and in which keys they differ."""
    configs = [runs[0].config for runs in methods.values()]
    lines = []
    for name, runs in methods.items():
        lines.append(f"- {name}: {', '.join(str(run.path) for run in runs)}")
        lines += [f"    - {difference}" for difference in _differences(runs[0].config, configs)]
    return [Note("\n".join(lines), "list")]


def _verdict(comparisons: Sequence[Comparison]) -> str:
    """What the paired tests say of pass@1 on the runs' own evaluations, a line for each."""
    told = [
        f"{c.method} at {c.at}: "
        f"{said_difference(c.baseline, c.difference, f'{c.problems} problems')}"
        for c in comparisons
        if c.measure == "eval pass@1"
    ]
    return "\n".join(("pass@1", *told)) if told else "no paired test of pass@1"


def _shared_metrics(curves: Sequence[LearningCurve]) -> list[str]:
    """The metrics shown: pass@1, pass@k of the largest k, and corrections, where all evaluations
    have them."""
    shared = set.intersection(
        *({name for name, values in curve.items() if None not in values} for curve in curves)
    )
    ks = [int(k) for name in shared if (k := name.removeprefix("pass@")).isdecimal()]
    names = dict.fromkeys((_CURVES[0], f"pass@{max(ks, default=1)}", *_CURVES[1:]))
    return [name for name in names if name in shared]


def _differences(mine: dict[str, Any], configs: Sequence[dict[str, Any]]) -> list[str]:
    """The keys of one config in which any of all configs differs from it, with its values."""
    keys = dict.fromkeys(key for config in configs for key in config)
    return [f"{k}={mine.get(k)!r}" for k in keys if any(c.get(k) != mine.get(k) for c in configs)]
