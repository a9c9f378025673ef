"""One figure of a page: its curves, what its legend says, and what a pointer shows of a point.

Decides how curves are shortened, smoothed and coloured. Colours are CSS variables of the page, so
that one drawing is legible in light and in dark. Not decided here: which metrics are drawn together
(`plots.py`), how a figure is drawn (`drawing.py`), where it stands on the page, and the HTML around
it (templates/blocks.html).
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
from markupsafe import Markup

from cipo_jax.report.drawing import Breach, Curve, draw
from cipo_jax.report.plots import Plot
from cipo_jax.run.comparison import LearningCurve, mean_curve, points
from cipo_jax.run.statistics import NORMAL

MAX_POINTS = 400  # of one curve; longer ones are averaged
MAX_STACKED_POINTS = 100  # likewise where there are many areas
SMOOTHED_POINTS = 40  # from this number, a curve is drawn as its moving average within a band
BAND = (10, 90)  # percentiles of the values around a point, the edges of that band
SPARK_POINTS = 60  # of the small curves in tables

_NUM_COLOURS = 8  # --s1 to --s8
_DASHES = ("solid", "dashed", "dotted")


class Figure(NamedTuple):
    """A drawing, and what is drawn in it, for legend, pointer and screen reader."""

    plot: Plot
    curves: Sequence[Curve]
    breaches: Sequence[Breach]
    svg: Markup
    hover: str  # json that report.js reads, see `_hover`


@dataclasses.dataclass(frozen=True)
class FigureGrid:
    """Figures side by side, as many as fit."""

    macro: ClassVar[str] = "figures"
    figures: Sequence[Figure]


def figure(
    plot: Plot, records: Sequence[Mapping[str, Any]], breaches: Mapping[str, Breach] | None = None
) -> Figure | None:
    """`plot` drawn, or None if no record has any of its metrics.

    Args:
      records: lines of metrics.jsonl, of the plot's phase only, in order of steps. A metric with a
        standard error (`..._stderr`) is drawn with its 95% interval.
      breaches: {metric: the health rule that fired for it}.
    """
    limit = MAX_STACKED_POINTS if plot.ramp else MAX_POINTS
    curves = []
    for index, (metric, label) in enumerate(plot.series.items()):
        found = [(r["step"], r[metric], r.get(metric + "_stderr")) for r in records if metric in r]
        rows = np.array(found, np.float64).reshape(-1, 3)
        rows = rows[np.isfinite(rows[:, 1])]
        if not len(rows):
            continue
        shorter = _averaged(rows, limit)
        x, y, error = shorter.T
        curve = Curve(label, *_look(plot, index), x, y, merged=-(-len(rows) // len(shorter)))
        curve = _with_interval(plot, curve, error)
        if curve.low is None and (plot.ramp or not plot.stacked):
            curve = _smoothed(curve)
        curves.append(curve)
    fired = [(breaches or {}).get(metric) for metric in plot.series]
    return _finish(plot, curves, [breach for breach in fired if breach])


def pass_at_k_figure(
    evaluations: Sequence[Mapping[str, Any]], pass_at: Sequence[str]
) -> Figure | None:
    """pass@k against k in the first and the last evaluation; None for fewer than three values of k.
    Arguments as in `evaluations.before_after`."""
    if len(pass_at) < 3:
        return None
    plot, curves = Plot("pass@k against k, held out", {}, x="k", share=True), []
    for index, record in enumerate((evaluations[0], evaluations[-1])[: len(evaluations)]):
        found = [
            (float(name.partition("@")[2]), record.get(name), record.get(f"{name}_stderr"))
            for name in pass_at
        ]
        rows = np.array(found, np.float64)
        rows = rows[np.isfinite(rows[:, 1])]
        if len(rows):
            curve = Curve(f"step {record['step']}", *_look(plot, index), rows[:, 0], rows[:, 1])
            curves.append(_with_interval(plot, curve, rows[:, 2]))
    return _finish(plot, curves)


def methods_figure(
    plot: Plot, methods: Mapping[str, Sequence[LearningCurve]], metric: str
) -> Figure | None:
    """A metric of several methods: the mean over seeds of each, and its seeds as thin lines. None
    if no method has it in all its seeds; the others keep their colours."""
    curves = []
    against = "step" if plot.x == "step" else "tokens"
    for index, (name, seeds) in enumerate(methods.items()):
        if (mean := mean_curve(seeds, metric, against)) is None or not len(mean[0]):
            continue
        each = [points(seed, metric, against) for seed in seeds] if len(seeds) > 1 else []
        curves.append(Curve(name, *_look(plot, index), *mean, seeds=each))
    return _finish(plot, curves)


def estimates_figure(
    plot: Plot, methods: Mapping[str, tuple[Sequence[float], Sequence[tuple[float, float, float]]]]
) -> Figure | None:
    """Estimates of several methods with their intervals, of those that have any; they keep their
    colours. None if no method has.

    Args:
      methods: name -> x, and (value, low, high) at each.
    """
    curves = []
    for index, (name, (x, estimates)) in enumerate(methods.items()):
        if not len(x):
            continue
        y, low, high = np.array(estimates, np.float64).reshape(-1, 3).T
        curves.append(Curve(name, *_look(plot, index), np.array(x, float), y, low=low, high=high))
    return _finish(plot, curves)


def _finish(plot: Plot, curves: Sequence[Curve], breaches: Sequence[Breach] = ()) -> Figure | None:
    """The figure of curves; None without any."""
    if not curves:
        return None
    drawing = draw(plot, curves, breaches)
    return Figure(plot, curves, breaches, drawing.svg, _hover(plot, curves, drawing.box))


def spark(values: np.ndarray) -> str:
    """[n] -> the points of a small curve, for a <polyline> in a box of 100 x 18; "" for fewer than
    two finite values."""
    values = values[np.isfinite(values)]
    if len(values) < 2:
        return ""
    points = _averaged(np.stack([np.arange(len(values)), values], axis=1), SPARK_POINTS)
    low, high = points.min(axis=0), points.max(axis=0)
    unit = (points - low) / np.where(high > low, high - low, 1)
    return " ".join(f"{1 + 98 * x:.0f},{17 - 15 * y:.1f}" for x, y in unit)


def _look(plot: Plot, place: int) -> tuple[str, str]:
    """The CSS colour and the dashes of a series. Those of a ramp go from one colour through the
    grid's to another; of the others no two of the first 24 are the same."""
    if plot.ramp:
        share = 2 * place / max(1, len(plot.series) - 1) - 1
        end = "var(--s1)" if share > 0 else "var(--s2)"
        return f"color-mix(in oklab, {end} {100 * abs(share):.0f}%, var(--grid))", "solid"
    dash = _DASHES[place // _NUM_COLOURS % len(_DASHES)]
    if plot.series:  # of four at most: the third and the fourth differ without colour as well
        dash = ("solid", "solid", "dashed", "dotted")[place]
    return f"var(--s{place % _NUM_COLOURS + 1})", dash


def _averaged(points: np.ndarray, limit: int) -> np.ndarray:
    """[n, d] -> [min(n, limit), d]: means of runs of about equal length, if there are too many."""
    if len(points) <= limit:
        return points
    return np.stack([run.mean(axis=0) for run in np.array_split(points, limit)])


def _with_interval(plot: Plot, curve: Curve, error: np.ndarray) -> Curve:
    """The curve with its 95% interval, if its standard error is known at each point."""
    if not np.isfinite(error).all():
        return curve
    low, high = curve.y - NORMAL * error, curve.y + NORMAL * error
    if plot.share:
        low, high = np.clip(low, 0, 1), np.clip(high, 0, 1)
    return curve._replace(low=low, high=high)


def _smoothed(curve: Curve) -> Curve:
    """A long curve with its moving average and the band around it; others as they are. A window is
    about a twentieth of the curve, centred, and shorter at the ends."""
    if len(curve.y) < SMOOTHED_POINTS:
        return curve
    half = max(1, len(curve.y) // 40)
    padded = np.pad(curve.y, half, constant_values=np.nan)
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * half + 1)
    low, high = np.nanpercentile(windows, BAND, axis=1)
    return curve._replace(average=np.nanmean(windows, axis=1), low=low, high=high)


def _hover(plot: Plot, curves: Sequence[Curve], box: tuple[float, ...]) -> str:
    """What report.js shows of the point under the pointer, as json: "x" the axis' name, "k" whether
    it is logarithmic, "share", "box" (see `drawing.Drawing`), and for each curve its label, colour,
    number of merged points, and lists of x, y, and if there are any of averages or of bounds."""

    def short(values: np.ndarray | None) -> list[float] | None:
        return None if values is None else [float(f"{value:.4g}") for value in values]

    shown = [
        {
            "label": curve.label,
            "colour": curve.colour,
            "merged": curve.merged,
            "x": [float(f"{x:.7g}") for x in curve.x],
            "y": short(curve.y),
            "average": short(curve.average),
            "low": None if curve.average is not None else short(curve.low),
            "high": None if curve.average is not None else short(curve.high),
        }
        for curve in curves
    ]
    content = {"x": plot.x, "share": plot.share, "box": [round(v, 6) for v in box], "curves": shown}
    return json.dumps(content, separators=(",", ":"))
