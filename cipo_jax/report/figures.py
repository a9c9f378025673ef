"""One figure of the run report: its curves as SVG, with what its legend and caption say.

Decides how a figure looks. Colours are CSS variables of the page, so that one drawing is legible in
light and in dark. Not decided here: which metrics are drawn together (`plots.py`), where a figure
stands on the page (`page.py`), the HTML around it (templates/blocks.html).
"""

import dataclasses
import io
import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
from markupsafe import Markup

from cipo_jax.report.plots import Plot

MAX_POINTS = 400  # of one curve; longer ones are averaged
MAX_STACKED_POINTS = 100  # likewise where there are many areas
MARKED_POINTS = 15  # up to this number, each point gets a marker
SMOOTHED_POINTS = 40  # from this number, the raw curve is pale, its moving average on top
SPARK_POINTS = 60  # of the small curves in tables

_SERIES_COLOURS = ("var(--s1)", "var(--s2)", "var(--s3)", "var(--s4)")
_AXIS, _GRID, _BAD = "var(--axis)", "var(--grid)", "var(--bad)"
_DASHES = ("solid", "solid", "dashed", "dotted")  # told apart without colour where four meet


class Breach(NamedTuple):
    """A health rule that fired, to be marked where its metric is drawn."""

    limit: float | None  # None if it is not known
    steps: tuple[int, ...]  # at which it fired


class Curve(NamedTuple):
    """One series of a plot, with its points."""

    label: str
    place: int  # among the plot's series
    colour: str  # of CSS
    x: np.ndarray  # [n] float64
    y: np.ndarray  # [n] float64


class Figure(NamedTuple):
    """A drawing, and what is drawn in it, for the legend and for a screen reader."""

    plot: Plot
    curves: Sequence[Curve]
    breaches: Sequence[Breach]
    svg: Markup


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
      records: lines of metrics.jsonl, of the plot's phase only, in order of steps.
      breaches: {metric: the health rule that fired for it}.
    """
    limit = MAX_STACKED_POINTS if plot.ramp else MAX_POINTS
    curves = []
    for index, (metric, label) in enumerate(plot.series.items()):
        steps, values = _finite_points(metric, records, limit)
        if len(steps):
            curves.append(Curve(label, index, _colour(plot, index), steps, values))
    found = [(breaches or {}).get(metric) for metric in plot.series]
    return _draw(plot, curves, [breach for breach in found if breach])


def pass_at_k_figure(
    evaluations: Sequence[Mapping[str, Any]], pass_at: Sequence[str]
) -> Figure | None:
    """pass@k against k in the first and the last evaluation; None for fewer than three values of k.
    Arguments as in `tables.before_after`."""
    if len(pass_at) < 3:
        return None
    plot, curves = Plot("pass@k against k, held out", {}, x="k", share=True), []
    for index, record in enumerate((evaluations[0], evaluations[-1])[: len(evaluations)]):
        points = [(float(name.partition("@")[2]), record.get(name, np.nan)) for name in pass_at]
        k, values = np.array([p for p in points if np.isfinite(p[1])]).reshape(-1, 2).T
        if len(k):
            curves.append(Curve(f"step {record['step']}", index, _colour(plot, index), k, values))
    return _draw(plot, curves, [])


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


def _draw(plot: Plot, curves: Sequence[Curve], breaches: Sequence[Breach]) -> Figure | None:
    return Figure(plot, curves, breaches, _svg(plot, curves, breaches)) if curves else None


def _colour(plot: Plot, place: int) -> str:
    """The CSS colour of a series. Those of a ramp go from one through the grid's to another."""
    if not plot.ramp:
        return _SERIES_COLOURS[place]
    share = 2 * place / max(1, len(plot.series) - 1) - 1
    end = _SERIES_COLOURS[0 if share > 0 else 1]
    return f"color-mix(in oklab, {end} {100 * abs(share):.0f}%, {_GRID})"


def _finite_points(
    metric: str, records: Sequence[Mapping[str, Any]], limit: int
) -> tuple[np.ndarray, np.ndarray]:
    """(steps, values), [n] float64 each with n <= limit."""
    points = np.array([(r["step"], r[metric]) for r in records if metric in r], dtype=np.float64)
    points = points.reshape(-1, 2)
    points = _averaged(points[np.isfinite(points[:, 1])], limit)
    return points[:, 0], points[:, 1]


def _averaged(points: np.ndarray, limit: int) -> np.ndarray:
    """[n, 2] -> [min(n, limit), 2]: means of runs of about equal length, if there are too many."""
    if len(points) <= limit:
        return points
    return np.stack([run.mean(axis=0) for run in np.array_split(points, limit)])


def _moving_average(values: np.ndarray) -> np.ndarray:
    """[n] -> [n]: centred, over about a twentieth of the curve, shorter windows at the ends."""
    half = max(1, len(values) // 40)
    window = np.ones(2 * half + 1)
    counts = np.convolve(np.ones_like(values), window, "same")
    return np.convolve(values, window, "same") / counts


def _svg(plot: Plot, curves: Sequence[Curve], breaches: Sequence[Breach]) -> Markup:
    # Here and not at the top: matplotlib is slow to import, and a run needs it at evaluations only.
    import matplotlib
    import matplotlib.figure
    from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator, PercentFormatter

    # matplotlib does not know CSS variables: it draws in stand-ins, which are replaced at the end.
    colours = dict.fromkeys((_AXIS, _GRID, _BAD, *(curve.colour for curve in curves)))
    paint = {colour: f"#fe{index:04x}" for index, colour in enumerate(colours)}
    # Text stays text, in the page's font; ids depend on the drawing alone.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": plot.title}):
        canvas = matplotlib.figure.Figure(figsize=(4.6, 2.5))  # inches of 72 viewBox units
        axes = canvas.add_axes((0.145, 0.19, 0.835, 0.74))  # a layout engine takes twice the time
        if plot.x == "k":
            axes.set_xscale("log", base=2)
        if len({x for curve in curves for x in curve.x}) == 1:
            axes.set_xlim(curves[0].x[0] - 1, curves[0].x[0] + 1)
        if plot.stacked:
            _draw_stacked(axes, plot, curves, paint)
        else:
            for curve in curves:
                _draw_curve(axes, curve, paint[curve.colour])
        for breach in breaches:
            _mark(axes, breach, paint[_BAD])
        if plot.share:
            shares = [*(c.y.max() for c in curves), *(b.limit or 0 for b in breaches)]
            top = 1.0 if plot.stacked else _top(shares)
            axes.set_ylim(-0.03 * top, 1.03 * top)
            axes.set_yticks(np.linspace(0, top, 5))
            axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        else:
            axes.ticklabel_format(axis="y", scilimits=(-3, 5))  # the left margin is fixed
            if plot.stacked:
                axes.set_ylim(bottom=0)
        if plot.x == "k":
            ticks = sorted({x for curve in curves for x in curve.x})
            axes.xaxis.set_major_locator(FixedLocator(ticks))
            axes.xaxis.set_minor_locator(NullLocator())
            axes.set_xticklabels([f"{tick:g}" for tick in ticks])
        else:
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
        axes.set_xlabel(plot.x, color=paint[_AXIS], fontsize=10)
        axes.tick_params(colors=paint[_AXIS], labelsize=10, length=0)
        axes.yaxis.offsetText.set(color=paint[_AXIS], fontsize=10)
        axes.grid(axis="y", color=paint[_GRID], linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.spines["bottom"].set_color(paint[_AXIS])
        out = io.StringIO()
        canvas.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    svg = _for_page(out.getvalue(), prefix=re.sub(r"\W+", "-", plot.title.lower()).strip("-"))
    for colour, stand_in in paint.items():
        svg = svg.replace(stand_in, colour)
    return Markup(svg)  # it holds numbers and the x axis' label, no text of a model


def _top(shares: Sequence[float]) -> float:
    """The upper end of an axis of shares: 100%, or less where all of them are small."""
    return next((top for top in (0.04, 0.2, 0.4) if max(shares) <= top), 1.0)


def _draw_curve(axes: Any, curve: Curve, colour: str) -> None:
    x, y = curve.x, curve.y
    style = {"color": colour, "linestyle": _DASHES[curve.place], "linewidth": 1.8}
    if len(x) <= MARKED_POINTS:
        style |= {"marker": "o", "markersize": 4}
    if len(x) < SMOOTHED_POINTS:
        axes.plot(x, y, **style)
    else:
        axes.plot(x, y, color=colour, linewidth=0.8, alpha=0.35)
        axes.plot(x, _moving_average(y), **style)


def _draw_stacked(axes: Any, plot: Plot, curves: Sequence[Curve], paint: Mapping[str, str]) -> None:
    x = np.unique(np.concatenate([c.x for c in curves]))
    heights = [np.interp(x, c.x, c.y, left=0, right=0) for c in curves]
    if plot.ramp and len(x) >= SMOOTHED_POINTS:
        heights = [_moving_average(y) for y in heights]
    if len(x) == 1:  # an area needs a width
        x, heights = x + np.array([-0.5, 0.5]), [np.repeat(y, 2) for y in heights]
    colours, alpha = [paint[curve.colour] for curve in curves], 1.0 if plot.ramp else 0.75
    axes.stackplot(x, *heights, colors=colours, alpha=alpha, linewidth=0)


def _mark(axes: Any, breach: Breach, colour: str) -> None:
    """The rule's limit, and triangles at the top at the steps where it fired."""
    if breach.limit is not None:
        axes.axhline(breach.limit, color=colour, linewidth=0.8, linestyle="dotted")
    place = {"transform": axes.get_xaxis_transform(), "clip_on": False}  # y: a share of the height
    axes.plot(breach.steps, [1.0] * len(breach.steps), "v", color=colour, markersize=6, **place)


def _for_page(svg: str, prefix: str) -> str:
    """matplotlib's document as an element of the page: its ids under `prefix`, since ids are
    unique in a page, its font and size left to the page."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<svg [^>]*?)width="[^"]*" height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\1{prefix}-", svg)
    svg = re.sub(r"font-family: [^;]*;", "", svg)
    return re.sub(r"\n\s*", "\n", svg).strip()
