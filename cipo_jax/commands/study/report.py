"""The report of a study: results.json, tables, figures, a page; from run directories alone.

The records of all runs (`measures.py`) are results.json. Tables, figures (`figures.py`) and page
(`page.py`) are functions of it, so they can be made again without the runs. This file decides what
the tables show.

Intervals are 95% and over seeds and test problems, see `statistics.over_seeds`; differences are
paired: a seed is one cold start and one order of training problems, shared by all methods.
"""

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cipo_jax.commands.study.figures import draw_study
from cipo_jax.commands.study.measures import (
    COSINES,
    STAGES,
    Ratio,
    Record,
    by_first_error,
    by_method,
    is_share,
    measure_run,
    measures,
    paired_measures,
    pass_ks,
    pass_of,
    repeats,
    tasks_of,
)
from cipo_jax.commands.study.page import write_study_page
from cipo_jax.commands.study.plan import PlannedRun
from cipo_jax.report.blocks import Block, Cell, Note, Section, Table, interval_places
from cipo_jax.report.markdown import markdown_page, signed_interval
from cipo_jax.run.records.files import write_text
from cipo_jax.run.statistics import (
    Estimate,
    difference_by_seed,
    over_seeds,
    seed_ratios,
    t_interval,
)
from cipo_jax.types import CipoError

ABOUT = (
    "Means over seeds with 95% bootstrap intervals over seeds and test problems. docs/study.md "
    "says what each measure is."
)
_LAST_STEPS = 10
# Of a run's own evaluations: what became of the attempts that its first found wrong.
_FIRST_WRONG = ("first_wrong/w2r", "first_wrong/resampled_w2r")
_OF_ATTEMPTS = ("pass@", "length", "entropy")  # measures that have a table of their own


def write_study_report(runs: Sequence[PlannedRun], reference: str, out: Path) -> dict[str, Any]:
    """Writes results.json, table.md, the figures and study.html to `out`; prints the table.

    Args:
      runs: of the plan; those without a last evaluation are left out.
      reference: the method that the others are compared with.

    Returns:
      The content of results.json.

    Raises:
      CipoError: no run has been evaluated.
    """
    records = [
        {"task": run.task, "method": run.method, "seed": run.seed} | measure_run(run.directory)
        for run in runs
        if run.evaluated
    ]
    if not records:
        raise CipoError(f"{out}: no run of the study has been finished; there is nothing to report")
    results = {"reference": reference, "runs": records}
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "results.json", json.dumps(results, separators=(",", ":")) + "\n")
    table = format_study(results)
    write_text(out / "table.md", table)
    figures = draw_study(results, out)
    page = write_study_page(results, study_sections(results), ABOUT, out)
    shown = "".join(f"figure  {path}\n" for path in figures)
    print(f"{table}{shown}report  {page}", flush=True)
    return results


def format_study(results: Mapping[str, Any]) -> str:
    """The tables as markdown."""
    return markdown_page("Study", ABOUT, study_sections(results))


def study_sections(results: Mapping[str, Any]) -> list[Section]:
    """The tables of each task."""
    sections = []
    for task in tasks_of(results):
        methods = by_method(results, task)
        blocks = _value_tables(methods)
        if results["reference"] in methods:
            blocks += _difference_table(methods, results["reference"])
        blocks += _first_wrong_table(methods)
        blocks += _difficulty_table(methods) + _mechanism_table(methods)
        blocks += _transfer_table(methods)
        blocks += _repeat_table(methods) + _compute_table(methods)
        runs = itertools.chain(*methods.values())
        if errors := sum(sum(run["problems"].get("errors", [])) for run in runs):
            blocks.append(
                Note(f"{errors} attempts without a verdict (outcome error) are left out.")
            )
        sections.append(Section(task, blocks))
    return sections


def _value_tables(methods: Mapping[str, list[Record]]) -> list[Block]:
    """The measures of attempts, then those of corrections."""
    found = {name: measures(records) for name, records in methods.items()}
    names = _names(found)
    blocks: list[Block] = []
    for title, of_attempts in (("Attempts", True), ("Corrections", False)):
        shown = [name for name in names if name.startswith(_OF_ATTEMPTS) == of_attempts]
        rows: list[tuple[Cell, ...]] = [
            (k, len(methods[k]), *_cells(values, shown)) for k, values in found.items()
        ]
        blocks += [Note(f"{title}:"), Table(title, ("method", "seeds", *shown), rows)]
    return blocks


def _names(found: Mapping[str, Mapping[str, Ratio]]) -> list[str]:
    """The measures that any method has, in order of first appearance."""
    return list(dict.fromkeys(name for values in found.values() for name in values))


def _cells(values: Mapping[str, Ratio], names: Sequence[str]) -> list[str]:
    """Each named measure with its interval; empty where it is missing."""
    found = {name: over_seeds(*values[name], is_share(name)) for name in names if name in values}
    return [_estimate(name, found[name]) if name in found else "" for name in names]


def _estimate(measure: str, e: Estimate) -> str:
    digits = 1 if measure == "length" else 3
    interval = f" [{e.low:.{digits}f}, {e.high:.{digits}f}]" if math.isfinite(e.low) else ""
    return f"{e.value:.{digits}f}{interval}"


def _difference_table(methods: Mapping[str, list[Record]], reference: str) -> list[Block]:
    """Every method minus the reference, on the seeds that both have."""
    found = {
        (method, name): (
            difference_by_seed(ours, theirs, is_share(name)),
            seed_ratios(*ours) - seed_ratios(*theirs),
        )
        for method in methods
        if method != reference
        for name, (ours, theirs) in paired_measures(methods, method, reference).items()
    }
    # Intervals of one measure are drawn to one scale.
    scales: dict[str, float] = {}
    for (_, name), (d, _) in found.items():
        if math.isfinite(d.low):
            scales[name] = max(scales.get(name, 0.0), abs(d.low), abs(d.high))
    rows: list[tuple[Cell, ...]] = []
    for (method, name), (d, each) in found.items():
        known = math.isfinite(d.low)
        drawn = interval_places(d.low, d.value, d.high, scales[name]) if known else ""
        bootstrap = (f"{d.value:+.3f}", _known_interval(d.low, d.high), f"{d.p:.4f}")
        rows.append((method, name, drawn, *bootstrap, *_by_seed(each)))
    head = ("method", "measure", "", "difference", "95% bootstrap", "p", "95% t", "ahead")
    return [
        Note(
            f"Difference from {reference}, paired by seed and problem. Bootstrap as above; t: "
            "Student's t over the seeds alone, the better one with few seeds; empty where all have "
            f"the same difference. Ahead: seeds in which the method is above {reference}."
        ),
        Table(f"Differences from {reference}", head, rows, ("text", "text", "interval")),
    ]


def _first_wrong_table(methods: Mapping[str, list[Record]]) -> list[Block]:
    """What the first and the last evaluation of each run made of the attempts that were wrong in
    its first; nothing where no run has measured it twice."""
    rows: list[tuple[Cell, ...]] = []
    for method, records in methods.items():
        found = [
            [r["curve"][name][place] for name in _FIRST_WRONG for place in (0, -1)]
            for r in records
            if len(r["curve"]["step"]) > 1 and set(_FIRST_WRONG) <= r["curve"].keys()
        ]
        known = np.array([row for row in found if None not in row], float)
        if len(known):
            shares = [f"{value:.3f}" for value in known.mean(axis=0)]
            rise = known[:, 1] - known[:, 0]
            rows.append((method, len(rise), *shares, f"{rise.mean():+.3f}", *_by_seed(rise)))
    if not rows:
        return []
    heads = ("w2r first", "w2r last", "resampled first", "resampled last", "rise", "95% t", "up")
    return [
        Note(
            "The attempts that were wrong before training, the same for all methods of a seed: the "
            "share that one correction mends, and that another attempt at the problem gets right, "
            "at the first evaluation of the run and at the last. Rise: of w2r, with Student's t "
            "over the seeds."
        ),
        Table("Attempts wrong before training", ("method", "seeds", *heads), rows),
    ]


def _by_seed(differences: np.ndarray) -> tuple[str, str]:
    """Of a difference at each seed [S]: Student's t over the seeds, and how many are above 0."""
    one = len(differences) == 1
    by_t = "one seed" if one else _known_interval(*t_interval(differences))
    return by_t, f"{(differences > 0).sum()}/{len(differences)}"


def _known_interval(low: float, high: float) -> str:
    return signed_interval(low, high) if math.isfinite(low) else ""


def _of_two(first: float, second: float) -> str:
    """Two values, as far as they are numbers."""
    shown = ["–" if math.isnan(value) else f"{value:.3f}" for value in (first, second)]
    return "" if set(shown) == {"–"} else " / ".join(shown)


def _difficulty_table(methods: Mapping[str, list[Record]]) -> list[Block]:
    """pass@1 and pass@k of the largest k that each method has, by number of operations."""
    some = next(iter(methods.values()))
    operations = np.array(some[0]["problems"]["operations"])
    values, counts = np.unique(operations, return_counts=True)
    heads = [f"{n} operations ({count})" for n, count in zip(values, counts, strict=True)]
    k = min((ks[-1] for records in methods.values() if (ks := pass_ks(records))), default=1)
    rows = []
    for method, records in methods.items():
        of = np.array([r["problems"]["operations"] for r in records])
        shares = [
            [above[of == n].sum() / (below[of == n].sum() or math.nan) for n in values]
            for above, below in (pass_of(records, 1), pass_of(records, k))
        ]
        rows.append((method, *map(_of_two, *shares)))
    return [
        Note(f"pass@1 / pass@{k} by number of operations (test problems):"),
        Table("By number of operations", ("method", *heads), rows),
    ]


def _mechanism_table(methods: Mapping[str, list[Record]]) -> list[Block]:
    """What may explain the differences; nothing where no run has any of it."""
    rows = []
    for method, records in methods.items():
        stages = by_first_error(records)
        cells = []
        for stage in STAGES:
            means = {k: float(seed_ratios(*ratio).mean()) for k, ratio in stages[stage].items()}
            cells.append(_of_two(*(means.get(k, math.nan) for k in ("w2r", "resampled w2r"))))
        for name, digits in (("cosine", 3), ("ratio", 2), ("rho", 2), ("retention", 2)):
            values = [v for r in records if (v := _training_mean(r, name)) is not None]
            cells.append(f"{np.mean(values):.{digits}f}" if len(values) == len(records) else "")
        if any(cells):
            rows.append((method, *cells))
    if not rows:
        return []
    heads = [f"{stage} error" for stage in STAGES]
    return [
        Note(
            "w2r / resampled w2r by the third of the worked solution in which the attempt leaves "
            "it. Over the training steps: the cosine between the gradients of the two streams, the "
            "norm of the correction stream's over the base stream's, rho, and retention."
        ),
        Table("Mechanism", ("method", *heads, "cosine", "norms", "rho", "retention"), rows),
    ]


def _transfer_table(methods: Mapping[str, list[Record]]) -> list[Block]:
    """What parts of the correction stream have in common with the base stream, by the mean over
    seeds of the steps that measured it; nothing where no run has any of it."""
    rows = []
    for method, records in methods.items():
        found = [[_training_mean(record, name) for record in records] for name in COSINES]
        known = [[v for v in of if v is not None] for of in found]
        cells = [f"{np.mean(of):.3f}" if len(of) == len(records) else "" for of in known]
        if any(cells):
            rows.append((method, *cells))
    if not rows:
        return []
    heads = ("right anchors", "wrong anchors", "unsolved problems", "right with wrong")
    return [
        Note(
            "Cosines over the training steps: of the gradient of corrections of right anchors, of "
            "wrong ones, and of wrong ones at problems without a right attempt with the base "
            "stream's; and of the first two with each other."
        ),
        Table("Transfer", ("method", *heads), rows),
    ]


def _repeat_table(methods: Mapping[str, list[Record]]) -> list[Block]:
    """Whether errors are repeated; nothing where no record says."""
    found = {name: values for name, records in methods.items() if (values := repeats(records))}
    if not found:
        return []
    names = _names(found)
    rows = [(method, *_cells(values, names)) for method, values in found.items()]
    return [
        Note(
            "Of wrong attempts that have an answer, the share whose correction gives the same "
            "answer; resampled: the share that another attempt does."
        ),
        Table("Repeated answers", ("method", *names), rows),
    ]


def _training_mean(record: Record, name: str) -> float | None:
    """The mean over the steps that measured it; "ratio": of the gradients' norms."""
    training = record["training"]
    if not any(training["anchors"]):
        return None  # no correction stream
    if name == "ratio":
        pairs = zip(training["correction_norm"], training["base_norm"], strict=True)
        values = [a / b for a, b in pairs if a is not None and b]
    else:
        values = [v for v in training.get(name, ()) if v is not None]
    return float(np.mean(values)) if values else None


def _compute_table(methods: Mapping[str, list[Record]]) -> list[Block]:
    rows = []
    for method, records in methods.items():
        steps, group_size, sampled, trained = (
            float(np.mean([r[name] for r in records]))
            for name in ("steps", "group_size", "sampled_tokens", "trained_tokens")
        )
        wanted = [r["max_sampled_tokens"] for r in records]
        budget = f"{sampled / np.mean(wanted):.3f}" if all(wanted) else ""
        seconds = [r["seconds"] for r in records]
        minutes = "" if None in seconds else f"{np.mean(seconds) / 60:.1f}"
        last = [v for r in records for v in r["training"]["reward"][-_LAST_STEPS:] if v is not None]
        reward = f"{np.mean(last):.3f}" if last else ""
        cells = (f"{steps:.0f}", f"{group_size:g}", f"{sampled:,.0f}", budget, f"{trained:,.0f}")
        rows.append((method, *cells, minutes, reward))
    heads = ("steps", "group size", "sampled tokens", "budget", "trained tokens", "minutes")
    return [
        Note(
            "What it took, means over seeds. Budget: sampled tokens over those the run was to "
            f"sample. Reward: of attempts at training problems in the last {_LAST_STEPS} steps."
        ),
        Table("What it took", ("method", *heads, "reward"), rows),
    ]
