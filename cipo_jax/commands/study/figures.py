"""The figures of a study, drawn from its results.json: learning curves, pass@k, differences.

Decides which metrics and measures they show, and how pass@k and differences look. Curves are drawn
in `report/comparison.py`; what is measured is decided in `measures.py`.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cipo_jax.commands.study.measures import (
    Record,
    by_method,
    measures,
    paired_measures,
    pass_ks,
    tasks_of,
)
from cipo_jax.commands.study.plan import COLD
from cipo_jax.report.comparison import draw_curves, line_styles, save_figure, with_curves
from cipo_jax.run.statistics import difference_by_seed, over_seeds

# Metrics of the curves, as far as the runs have them, with their labels.
CURVES = {
    "pass@1": "pass@1",
    "correction/accuracy_after": "after correction of own attempts",
    "given/w2r": "given wrong attempts corrected",
    "given/r2w": "given right attempts spoilt",
    "entropy": "entropy, nats per token",
    "length/mean": "response length, tokens",
}
NOT_SHARES = ("entropy", "length/mean")
_DIFFERENCES = ("pass@1", "two-turn", "w2r", "r2w", "given w2r", "given r2w")


def draw_study(results: Mapping[str, Any], out: Path) -> list[Path]:
    """Draws all figures of all tasks as png and svg; returns the png files."""
    files = []
    for task in tasks_of(results):
        methods = by_method(results, task)
        figures = {
            "curves": _curves(methods),
            "pass_at_k": _pass_at_k(methods),
            "differences": _differences(methods, results["reference"]),
        }
        for name, figure in figures.items():
            if figure is not None:
                figure.suptitle(task)
                files.append(save_figure(figure, out / f"{task}_{name}"))
    return files


def _curves(methods: Mapping[str, list[Record]]) -> Figure | None:
    """Of the methods that were evaluated more than once, which leaves out the cold start."""
    curves = {name: [r["curve"] for r in records] for name, records in methods.items()}
    trained = {name: cs for name, cs in curves.items() if all(len(c["step"]) > 1 for c in cs)}
    metrics = with_curves(trained, CURVES)
    return draw_curves(trained, metrics, line_styles(methods)) if metrics else None


def _pass_at_k(methods: Mapping[str, list[Record]]) -> Figure:
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axis: Axes = figure.subplots()
    styles = line_styles(methods)
    for i, (method, records) in enumerate(methods.items()):
        ks, found = pass_ks(records), measures(records)
        values = [over_seeds(*found[f"pass@{k}"]) for k in ks]
        mean = np.array([v.value for v in values])
        errors = [mean - [v.low for v in values], [v.high for v in values] - mean]
        beside = np.array(ks) * (1 + 0.02 * i)  # so that intervals can be told apart
        style = styles[method] | {"marker": "o", "markersize": 3, "linewidth": 1, "label": method}
        axis.errorbar(beside, mean, np.maximum(errors, 0), **style)
    axis.set_xscale("log", base=4)
    axis.set_xlabel("k")
    axis.set_ylabel("pass@k at the end")
    axis.grid(alpha=0.3)
    figure.legend(loc="outside right upper")
    return figure


def _differences(methods: Mapping[str, list[Record]], reference: str) -> Figure | None:
    """Each method minus the reference with its bootstrap interval, a panel for each measure. The
    cold start is left out: its distance would hide the others'."""
    others = [name for name in methods if name not in (reference, COLD)]
    if reference not in methods or not others:
        return None
    panels: dict[str, list[tuple[str, float, float, float]]] = {}
    for method in others:
        paired = paired_measures(methods, method, reference)
        for measure in (name for name in _DIFFERENCES if name in paired):
            d = difference_by_seed(*paired[measure])
            panels.setdefault(measure, []).append((method, d.value, d.low, d.high))
    if not panels:
        return None
    columns = min(3, len(panels))
    lines = -(-len(panels) // columns)
    size = (3.4 * columns, lines * (0.9 + 0.25 * len(others)))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False).ravel()
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    for axis, (measure, rows) in zip(axes, panels.items(), strict=False):
        names, values, lows, highs = zip(*reversed(rows), strict=True)
        mean = np.array(values)
        errors = np.maximum([mean - lows, highs - mean], 0)
        axis.errorbar(mean, range(len(names)), xerr=errors, fmt="o", markersize=3, color="C0")
        axis.axvline(0, color="black", linewidth=0.8)
        axis.set_yticks(range(len(names)), names, fontsize="small")
        axis.set_ylim(-0.5, len(names) - 0.5)
        axis.set_title(f"{measure} − {reference}", fontsize="small")
        axis.grid(alpha=0.3, axis="x")
    return figure
