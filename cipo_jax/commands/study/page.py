"""The page of a study, study.html: the verdict, learning curves, pass@k, and the tables.

Decides which figures it shows and what the verdict says. A figure of the page has the metrics and
measures of those in `figures.py`, with values under the pointer; the tables are those of table.md.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cipo_jax import __version__
from cipo_jax.commands.study.figures import CURVES, NOT_SHARES
from cipo_jax.commands.study.measures import (
    Ratio,
    Record,
    by_method,
    measures,
    paired_measures,
    pass_ks,
    tasks_of,
)
from cipo_jax.commands.study.plan import COLD
from cipo_jax.report.blocks import Note, Section
from cipo_jax.report.comparison import curve_figures, said_difference
from cipo_jax.report.figures import Figure, FigureGrid, estimates_figure
from cipo_jax.report.html import Page, write_page
from cipo_jax.report.plots import Plot
from cipo_jax.run.records.terminal import format_duration
from cipo_jax.run.statistics import difference_by_seed, over_seeds, seed_ratios, t_interval

PAGE = "study.html"
_CALLED = {"two-turn": "right after a correction"}


def write_study_page(
    results: Mapping[str, Any], tables: Sequence[Section], about: str, out: Path
) -> Path:
    """Writes `out`/study.html and returns its path.

    Args:
      results: the content of results.json.
      tables: a section for each task.
      about: what the numbers in the tables are.
    """
    sections = [
        Section(of.title, [FigureGrid(_figures(results, of.title)), Note(about), *of.blocks])
        for of in tables
    ]
    runs = results["runs"]
    commands = [r["command"] for r in runs if r.get("command") and r["method"] != COLD]
    page = Page(
        kind="cipo_jax study",
        name=out.resolve().name,
        verdicts=[study_verdict(results, task) for task in tasks_of(results)],
        facts=_facts(results),
        sections=sections,
        command=next(iter(commands), ""),
        command_of="One of its runs",
    )
    return write_page(out / PAGE, page)


def study_verdict(results: Mapping[str, Any], task: str) -> str:
    """How the methods differ from the reference on a task, a line for each, in pass@1, in pass@K of
    the largest K, and in accuracy after a correction, as far as these were measured. Intervals are
    Student's t over seeds; of one seed, or where all have the same difference, the bootstrap's."""
    methods, reference = by_method(results, task), results["reference"]
    others = [name for name in methods if name not in (reference, COLD)]
    told: dict[str, list[str]] = {}
    for method in others if reference in methods else ():
        paired = paired_measures(methods, method, reference)
        most = pass_ks([*methods[method], *methods[reference]])[-1:]
        for name in dict.fromkeys(("pass@1", *(f"pass@{k}" for k in most), "two-turn")):
            if name in paired:
                said = f"{method}: {_said(paired[name], reference)}"
                told.setdefault(_CALLED.get(name, name), []).append(said)
    if not told:
        return f"{task}: nothing to compare with {reference}"
    return "\n".join(line for name in told for line in (f"{task}, {name}", *told[name]))


def _said(paired: tuple[Ratio, Ratio], reference: str) -> str:
    """The difference of a measure from the reference, in words."""
    d = difference_by_seed(*paired)
    each = seed_ratios(*paired[0]) - seed_ratios(*paired[1])
    low, high = t_interval(each)
    if math.isfinite(low):
        d = dataclasses.replace(d, low=low, high=high)
    return said_difference(reference, d, f"{len(each)} seed{'s' * (len(each) > 1)}")


def _facts(results: Mapping[str, Any]) -> dict[str, str]:
    runs = results["runs"]
    names = {key: dict.fromkeys(str(r[key]) for r in runs) for key in ("task", "method", "seed")}
    seconds = [r["seconds"] for r in runs if r.get("seconds") is not None]
    return {
        "Reference": results["reference"],
        "Methods": ", ".join(names["method"]),
        "Tasks": ", ".join(names["task"]),
        "Seeds": ", ".join(names["seed"]),
        "Finished runs": str(len(runs)),
        "Time of all runs": format_duration(sum(seconds)) if seconds else "not recorded",
        "Tokens sampled": f"{sum(r['sampled_tokens'] for r in runs):,.0f}",
        "Page by": f"cipo_jax {__version__}",
    }


def _figures(results: Mapping[str, Any], task: str) -> list[Figure]:
    methods = by_method(results, task)
    # The cold start has one evaluation: no curve.
    trained = {
        name: [r["curve"] for r in records if len(r["curve"]["step"]) > 1]
        for name, records in methods.items()
    }
    found = curve_figures(trained, CURVES, NOT_SHARES, f"{task}: ")
    by_k = estimates_figure(
        Plot(f"{task}: pass@k at the end", {}, x="k", share=True),
        {name: _pass_at_k(records) for name, records in methods.items()},
    )
    return found + ([by_k] if by_k else [])


def _pass_at_k(
    records: Sequence[Record],
) -> tuple[list[float], list[tuple[float, float, float]]]:
    """Each k, and the mean over seeds with its interval."""
    ks, found = pass_ks(records), measures(records)
    estimates = [over_seeds(*found[f"pass@{k}"]) for k in ks]
    return [float(k) for k in ks], [(e.value, e.low, e.high) for e in estimates]
