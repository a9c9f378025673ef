"""A figure as SVG, by matplotlib.

Decides how curves, areas, intervals and marks look, and what stands at the axes. Colours are CSS
values that the page defines.
"""

import io
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from markupsafe import Markup

from cipo_jax.report.plots import Plot

MARKED_POINTS = 15  # up to this number, each point gets a marker, and areas are bars
_AXIS, _GRID, _BAD = "var(--axis)", "var(--grid)", "var(--bad)"
_SIZE = (4.6, 2.5)  # inches of 72 viewBox units
_LEFT, _BOTTOM, _WIDTH, _HEIGHT = 0.145, 0.19, 0.835, 0.74  # of the axes, shares of the drawing
_SMALLEST_SPAN = 2e-3  # of values that are not constant, relative to the largest
_UNITS = ((1e9, "G"), (1e6, "M"), (1e3, "k"))
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


class Breach(NamedTuple):
    """A health rule that fired, to be marked where its metric is drawn."""

    limit: float | None  # None if it is not known
    steps: tuple[int, ...]  # at which it fired


class Curve(NamedTuple):
    """One series of a figure.

    Attributes:
      colour: of CSS.
      dash: "solid", "dashed" or "dotted", as CSS and matplotlib call it.
      x, y: [n] float64, the points.
      merged: how many measured values each of them is the mean of.
      average: [n] the moving average, drawn in place of `y`.
      low, high: [n] each, an interval or a band around the curve.
      seeds: thin lines, (x, y) each.
    """

    label: str
    colour: str
    dash: str
    x: np.ndarray
    y: np.ndarray
    merged: int = 1
    average: np.ndarray | None = None
    low: np.ndarray | None = None
    high: np.ndarray | None = None
    seeds: Sequence[tuple[np.ndarray, np.ndarray]] = ()


class Drawing(NamedTuple):
    """A drawing, and where its axes are.

    Attributes:
      box: left, right, top and bottom of the axes as shares of the drawing, and the x at their left
        and at their right.
    """

    svg: Markup
    box: tuple[float, float, float, float, float, float]


def draw(plot: Plot, curves: Sequence[Curve], breaches: Sequence[Breach]) -> Drawing:
    """Draws at least one curve."""
    # Here and not at the top: matplotlib is slow to import, and a run needs it at evaluations only.
    import matplotlib
    import matplotlib.figure

    # matplotlib does not know CSS variables: it draws in stand-ins, which are replaced at the end.
    colours = dict.fromkeys((_AXIS, _GRID, _BAD, *(curve.colour for curve in curves)))
    paint = {colour: f"#fe{index:04x}" for index, colour in enumerate(colours)}
    # Text stays text, in the page's font; ids depend on the drawing alone.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": plot.id}):
        canvas = matplotlib.figure.Figure(figsize=_SIZE)
        # A layout engine takes twice the time.
        axes = canvas.add_axes((_LEFT, _BOTTOM, _WIDTH, _HEIGHT))
        if plot.x == "k":
            axes.set_xscale("log", base=2)
        if len({x for curve in curves for x in curve.x}) == 1:
            alone = curves[0].x[0]
            axes.set_xlim(*((alone / 2, alone * 2) if plot.x == "k" else (alone - 1, alone + 1)))
        if plot.stacked:
            _draw_stacked(axes, plot, curves, paint)
        else:
            for curve in curves:
                _draw_curve(axes, curve, paint[curve.colour])
        for breach in breaches:
            _mark(axes, breach, paint[_BAD])
        _set_y(axes, plot, curves, breaches)
        _set_x(axes, plot, curves)
        axes.set_xlabel(plot.x_label, color=paint[_AXIS], fontsize=10)
        axes.tick_params(colors=paint[_AXIS], labelsize=10, length=0, which="both")
        axes.grid(axis="y", color=paint[_GRID], linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.spines["bottom"].set_color(paint[_AXIS])
        out = io.StringIO()
        canvas.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    svg = _for_page(out.getvalue(), prefix=plot.id)
    for colour, stand_in in paint.items():
        svg = svg.replace(stand_in, colour)
    left, right = axes.get_xlim()
    top, bottom = 1 - _BOTTOM - _HEIGHT, 1 - _BOTTOM
    # It holds numbers and the x axis' label, no text of a model.
    return Drawing(Markup(svg), (_LEFT, _LEFT + _WIDTH, top, bottom, left, right))


def tick_labels(ticks: Sequence[float]) -> list[str]:
    """Numbers at an axis, each legible by itself: no offset or factor stands elsewhere."""
    largest = max(map(abs, ticks), default=0.0)
    if not largest:
        return ["0" for _ in ticks]
    unit, suffix = 1.0, ""
    if largest < 1e-3:
        exponent = math.floor(math.log10(largest) + 1e-9)
        unit, suffix = 10.0**exponent, "·10" + str(exponent).translate(_RAISED)
    elif largest >= 1e4:
        unit, suffix = next(of for of in _UNITS if largest >= of[0])
    numbers = [tick / unit for tick in ticks]
    # As few decimals as tell them apart and keep them where they are.
    gap = min((abs(b - a) for a, b in zip(numbers, numbers[1:], strict=False)), default=1.0)
    digits = next(
        (d for d in range(9) if all(abs(n - round(n, d)) <= 0.02 * gap for n in numbers)), 9
    )
    return [f"{n:.{digits}f}{suffix}".replace("-", "−") if n else "0" for n in numbers]


def _set_y(axes: Any, plot: Plot, curves: Sequence[Curve], breaches: Sequence[Breach]) -> None:
    if plot.share and not plot.tight:
        shares = [*(_highest(c) for c in curves), *(b.limit or 0 for b in breaches)]
        top = 1.0 if plot.stacked else _top(shares)
        axes.set_ylim(-0.03 * top, 1.03 * top)
        quarters = np.linspace(0, top, 5)
        axes.set_yticks(quarters, [f"{100 * tick:g}%" for tick in quarters])
        return
    if plot.stacked:
        axes.set_ylim(bottom=0)
    values = np.concatenate([curve.y for curve in curves])
    largest = float(np.abs(values).max())
    if np.ptp(values) <= _SMALLEST_SPAN * largest:
        # A constant stands on an axis from 0: noise in its last digits would else fill the axis.
        ends = sorted((0.0, 1.25 * float(values.mean()) or 1.0))
        axes.set_ylim(ends[0] - 0.03 * (ends[1] - ends[0]), ends[1])
    low, high = axes.get_ylim()
    ticks = [t for t in _locator(5).tick_values(low, high) if low <= t <= high]
    scale, unit = (100, "%") if plot.share else (1, "")
    axes.set_yticks(ticks, [text + unit for text in tick_labels([scale * t for t in ticks])])


def _set_x(axes: Any, plot: Plot, curves: Sequence[Curve]) -> None:
    if plot.x == "k":
        ticks: list[float] = sorted({x for curve in curves for x in curve.x})
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.set_xticks([], minor=True)
        return
    left, right = axes.get_xlim()
    first = min(curve.x.min() for curve in curves)
    ticks = [
        tick
        for tick in _locator(6, integer=True).tick_values(left, right)
        if left <= tick <= right and tick >= min(0, first)
    ]
    axes.set_xticks(ticks, tick_labels(ticks))


def _locator(count: int, integer: bool = False) -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(count, integer=integer, steps=[1, 2, 2.5, 5, 10], min_n_ticks=1)


def _highest(curve: Curve) -> float:
    tops = [curve.y if curve.average is None else curve.average, curve.high]
    return max(float(top.max()) for top in tops if top is not None)


def _top(shares: Sequence[float]) -> float:
    """The upper end of an axis of shares: 100%, or less where all of them are small."""
    return next((top for top in (0.04, 0.2, 0.4) if max(shares) <= top), 1.0)


def _draw_curve(axes: Any, curve: Curve, colour: str) -> None:
    x, y = curve.x, curve.y if curve.average is None else curve.average
    few = len(x) <= MARKED_POINTS
    for of_seed in curve.seeds:
        axes.plot(*of_seed, color=colour, linewidth=0.8, alpha=0.4)
    if curve.low is not None and curve.high is not None:
        if few:
            axes.vlines(x, curve.low, curve.high, color=colour, linewidth=1, alpha=0.6)
        else:
            axes.fill_between(x, curve.low, curve.high, color=colour, alpha=0.15, linewidth=0)
    marker = {"marker": "o", "markersize": 4} if few else {}
    axes.plot(x, y, color=colour, linestyle=curve.dash, linewidth=1.8, **marker)


def _draw_stacked(axes: Any, plot: Plot, curves: Sequence[Curve], paint: Mapping[str, str]) -> None:
    x = np.unique(np.concatenate([c.x for c in curves]))
    shown = [curve.y if curve.average is None else curve.average for curve in curves]
    pairs = zip(curves, shown, strict=True)
    heights = [np.interp(x, curve.x, y, left=0, right=0) for curve, y in pairs]
    colours, alpha = [paint[curve.colour] for curve in curves], 1.0 if plot.ramp else 0.75
    if len(x) > MARKED_POINTS:
        axes.stackplot(x, *heights, colors=colours, alpha=alpha, linewidth=0)
        return
    width = 0.8 * float(np.diff(x).min()) if len(x) > 1 else 0.8
    below = np.zeros(len(x))
    for colour, height in zip(colours, heights, strict=True):
        axes.bar(x, height, width, below, color=colour, alpha=alpha, linewidth=0)
        below = below + height


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
