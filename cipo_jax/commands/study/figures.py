"""The figures of a study, drawn from its results.json: learning curves, pass@k, differences.

Decides how they look. What is measured is decided in `measures.py`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from cipo_jax.commands.study.measures import Record, by_method, measures, pass_ks, tasks_of
from cipo_jax.commands.study.plan import COLD
from cipo_jax.run.statistics import difference_by_seed, over_seeds

# Metrics of the curves, as far as the runs have them, with their labels.
_CURVES = {
    "pass@1": "pass@1",
    "correction/accuracy_after": "after correction of own attempts",
    "given/w2r": "given wrong attempts corrected",
    "given/r2w": "given right attempts spoilt",
    "entropy": "entropy, nats per token",
    "length/mean": "response length, tokens",
}
_DIFFERENCES = ("pass@1", "two-turn", "w2r", "r2w", "given w2r", "given r2w")


def draw_study(results: Mapping[str, Any], out: Path) -> list[Path]:
    """Draws all figures of all tasks as png and svg; returns the png files."""
    files = []
    for task in tasks_of(results):
        methods = by_method(results, task)
        colors = {name: f"C{i % 10}" for i, name in enumerate(methods)}
        styles = {name: ("-", "--", ":")[i // 10 % 3] for i, name in enumerate(methods)}
        figures = {
            "curves": _curves(methods, colors, styles),
            "pass_at_k": _pass_at_k(methods, colors, styles),
            "differences": _differences(methods, results["reference"]),
        }
        for name, figure in figures.items():
            if figure is not None:
                figure.suptitle(task)
                files.append(out / f"{task}_{name}.png")
                for ending in (".png", ".svg"):
                    figure.savefig(files[-1].with_suffix(ending), dpi=120)
    return files


def _curves(
    methods: Mapping[str, list[Record]], colors: Mapping[str, str], styles: Mapping[str, str]
) -> Figure | None:
    """Metrics in rows, against steps and against sampled tokens; means over seeds."""
    trained = {m: rs for m, rs in methods.items() if all(len(r["curve"]["step"]) > 1 for r in rs)}
    metrics = [m for m in _CURVES if any(m in r["curve"] for rs in trained.values() for r in rs)]
    if not metrics:
        return None
    figure = Figure(figsize=(11, 2.5 * len(metrics)), layout="constrained")
    axes = figure.subplots(len(metrics), 2, squeeze=False, sharey="row", sharex="col")
    for row, metric in zip(axes, metrics, strict=True):
        row[0].set_ylabel(_CURVES[metric])
        for axis, against in zip(row, ("step", "tokens"), strict=True):
            axis.grid(alpha=0.3)
            for method, records in trained.items():
                drawn = _mean_curve(records, metric, against)
                if drawn is not None:
                    axis.plot(
                        *drawn,
                        color=colors[method],
                        linestyle=styles[method],
                        marker="o",
                        markersize=2.5,
                        label=method,
                    )
    for axis, label in zip(axes[-1], ("steps", "sampled tokens"), strict=True):
        axis.set_xlabel(label)
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside right upper")
    return figure


def _mean_curve(
    records: Sequence[Record], metric: str, against: str
) -> tuple[np.ndarray, np.ndarray] | None:
    """The mean over seeds where all seeds have values, interpolated between evaluations."""
    curves = []
    for record in records:
        curve = record["curve"]
        points = [
            (x, y)
            for x, y in zip(curve[against], curve.get(metric, []), strict=False)
            if y is not None
        ]
        if not points:
            return None
        curves.append(np.array(points, np.float64).T)
    x = np.unique(np.concatenate([curve[0] for curve in curves]))
    x = x[(x >= max(c[0][0] for c in curves)) & (x <= min(c[0][-1] for c in curves))]
    return x, np.mean([np.interp(x, *curve) for curve in curves], axis=0)


def _pass_at_k(
    methods: Mapping[str, list[Record]], colors: Mapping[str, str], styles: Mapping[str, str]
) -> Figure:
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axis: Axes = figure.subplots()
    for i, (method, records) in enumerate(methods.items()):
        ks, found = pass_ks(records), measures(records)
        values = [over_seeds(*found[f"pass@{k}"]) for k in ks]
        mean = np.array([v.value for v in values])
        errors = [mean - [v.low for v in values], [v.high for v in values] - mean]
        axis.errorbar(
            np.array(ks) * (1 + 0.02 * i),  # side by side, so that intervals can be told apart
            mean,
            np.maximum(errors, 0),
            color=colors[method],
            linestyle=styles[method],
            marker="o",
            markersize=3,
            linewidth=1,
            label=method,
        )
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
        seeds = {r["seed"] for r in methods[method]} & {r["seed"] for r in methods[reference]}
        if not seeds:
            continue
        ours, theirs = (
            measures([r for r in methods[name] if r["seed"] in seeds])
            for name in (method, reference)
        )
        for measure in _DIFFERENCES:
            if measure in ours and measure in theirs:
                d = difference_by_seed(ours[measure], theirs[measure])
                panels.setdefault(measure, []).append((method, d.value, d.low, d.high))
    if not panels:
        return None
    columns = min(3, len(panels))
    lines = -(-len(panels) // columns)
    figure = Figure(
        figsize=(3.4 * columns, lines * (0.9 + 0.25 * len(others))), layout="constrained"
    )
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
