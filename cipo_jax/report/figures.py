"""How a figure of the run report looks, as inline SVG.

Colours are CSS variables of the page, so that one drawing is legible on a light and on a dark
ground. Which metrics are drawn together is `plots.py`'s business; where a figure stands on
the page, and what is said when there is nothing to draw, is `page.py`'s.
"""

import html
import io
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from cipo_jax.report.plots import Plot

MAX_POINTS = 400  # of one curve; longer ones are averaged
MAX_STACKED_POINTS = 100  # likewise where there are many areas
MARKED_POINTS = 15  # up to so many, each point gets a marker
SMOOTHED_POINTS = 40  # from so many, a moving average is drawn over the pale raw curve
SPARK_POINTS = 60  # of the small curves in tables

# matplotlib wants colours it knows; these stand for CSS variables and are replaced in the SVG.
_STAND_INS = {
    "#010101": "var(--s1)",
    "#020202": "var(--s2)",
    "#030303": "var(--s3)",
    "#040404": "var(--s4)",
    "#050505": "var(--axis)",
    "#060606": "var(--grid)",
    "#070707": "var(--bad)",
}
_SERIES_COLOURS = tuple(_STAND_INS)[:4]
_AXIS, _GRID, _BAD = tuple(_STAND_INS)[4:]
_DASHES = ("solid", "solid", "dashed", "dotted")  # told apart without colour where four meet


class Breach(NamedTuple):
    """A health rule that fired, to be marked where its metric is drawn.

    Attributes:
      limit: of the rule; None if it is not known.
      steps: at which it fired.
    """

    limit: float | None
    steps: tuple[int, ...]


class Curve(NamedTuple):
    """Attributes: place among the plot's series, label, [n] float64 x, [n] float64 y."""

    place: int
    label: str
    x: np.ndarray
    y: np.ndarray


def figure(
    plot: Plot, records: Sequence[Mapping[str, Any]], breaches: Mapping[str, Breach] | None = None
) -> str | None:
    """`plot` as a <figure> element with its legend, or None if no record has any of its metrics.

    Args:
      records: lines of metrics.jsonl, of the plot's phase only, in order of steps.
      breaches: {metric: the health rule that fired for it}.
    """
    limit = MAX_STACKED_POINTS if plot.ramp else MAX_POINTS
    curves = []
    for index, (metric, label) in enumerate(plot.series):
        steps, values = _finite_points(metric, records, limit)
        if len(steps):
            curves.append(Curve(index, label, steps, values))
    found = [(breaches or {}).get(metric) for metric, _ in plot.series]
    return draw(plot, curves, [breach for breach in found if breach is not None])


def draw(
    plot: Plot,
    curves: Sequence[Curve],
    breaches: Sequence[Breach] = (),
    x_label: str = "step",
    doubling: bool = False,
) -> str | None:
    """The <figure> of `curves` in the manner of `plot`; None without curves.

    Args:
      doubling: the x axis is logarithmic, with a tick at each x.
    """
    if not curves:
        return None
    title = html.escape(plot.title)
    summary = html.escape(
        "; ".join(f"{c.label}: first {c.y[0]:.4g}, last {c.y[-1]:.4g}" for c in curves)
    )
    if breaches:
        summary += f"; a health rule fired {sum(len(b.steps) for b in breaches)} times"
    svg = _svg(plot, curves, breaches, x_label, doubling)
    return (
        f"<figure><figcaption><b>{title}</b>{_legend(plot, curves, breaches)}</figcaption>"
        f'<div role="img" aria-label="{title}, by {x_label}. {summary}">{svg}</div></figure>'
    )


def spark(values: np.ndarray) -> str:
    """A curve without axes, [n] -> SVG; nothing for fewer than two finite values."""
    values = values[np.isfinite(values)]
    if len(values) < 2:
        return ""
    points = _averaged(np.stack([np.arange(len(values)), values], axis=1), SPARK_POINTS)
    low, high = points.min(axis=0), points.max(axis=0)
    unit = (points - low) / np.where(high > low, high - low, 1)
    path = " ".join(f"{1 + 98 * x:.0f},{17 - 15 * y:.1f}" for x, y in unit)
    line = f'<polyline points="{path}"/>'
    return f'<svg class="spark" viewBox="0 0 100 18" aria-hidden="true">{line}</svg>'


def _legend(plot: Plot, curves: Sequence[Curve], breaches: Sequence[Breach]) -> str:
    if plot.ramp:
        colours = [_ramp_colour(c.place, len(plot.series)) for c in curves]
        items = "".join(
            f'<li><i style="border-color: {colour}"></i>{html.escape(c.label)}</li>'
            for c, colour in zip(curves, colours, strict=True)
        )
    else:
        items = "".join(
            f'<li><i class="s{c.place + 1}"></i>{html.escape(c.label)}</li>' for c in curves
        )
    if breaches:
        items += '<li><i class="fired"></i>health rule fired</li>'
    kind = "legend ramp" if plot.ramp else "legend areas" if plot.stacked else "legend"
    return f'<ul class="{kind}">{items}</ul>'


def _ramp_colour(index: int, count: int) -> str:
    """From one end's colour over the grid's to the other end's."""
    place = 2 * index / max(1, count - 1) - 1
    end = "var(--s1)" if place > 0 else "var(--s2)"
    return f"color-mix(in oklab, {end} {100 * abs(place):.0f}%, var(--grid))"


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


def _svg(
    plot: Plot, curves: Sequence[Curve], breaches: Sequence[Breach], x_label: str, doubling: bool
) -> str:
    # Here and not at the top: matplotlib is slow to import, and a run needs it at evaluations only.
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator, PercentFormatter

    # Text stays text, in the page's font; ids depend on the drawing alone.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": plot.title}):
        canvas = Figure(figsize=(4.6, 2.5))  # inches of 72 viewBox units
        axes = canvas.add_axes((0.145, 0.19, 0.835, 0.74))  # a layout engine takes twice the time
        if doubling:
            axes.set_xscale("log", base=2)
        if len({x for curve in curves for x in curve.x}) == 1:
            axes.set_xlim(curves[0].x[0] - 1, curves[0].x[0] + 1)
        if plot.stacked:
            _draw_stacked(axes, plot, curves)
        else:
            for curve in curves:
                _draw_curve(axes, curve)
        for breach in breaches:
            _mark(axes, breach)
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
        if doubling:
            ticks = sorted({x for curve in curves for x in curve.x})
            axes.xaxis.set_major_locator(FixedLocator(ticks))
            axes.xaxis.set_minor_locator(NullLocator())
            axes.set_xticklabels([f"{tick:g}" for tick in ticks])
        else:
            axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
        axes.set_xlabel(x_label, color=_AXIS, fontsize=10)
        axes.tick_params(colors=_AXIS, labelsize=10, length=0)
        axes.yaxis.offsetText.set(color=_AXIS, fontsize=10)
        axes.grid(axis="y", color=_GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.spines["bottom"].set_color(_AXIS)
        out = io.StringIO()
        canvas.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    svg = _for_page(out.getvalue(), prefix=re.sub(r"\W+", "-", plot.title.lower()).strip("-"))
    for curve in curves if plot.ramp else ():
        svg = svg.replace(_ramp_stand_in(curve.place), _ramp_colour(curve.place, len(plot.series)))
    return svg


def _ramp_stand_in(index: int) -> str:
    return f"#fe{index:04x}"


def _top(shares: Sequence[float]) -> float:
    """Of the axis: 100%, or less where all shares are rare."""
    return next((top for top in (0.04, 0.2, 0.4) if max(shares) <= top), 1.0)


def _draw_curve(axes: Any, curve: Curve) -> None:
    place, _, x, y = curve
    style = {"color": _SERIES_COLOURS[place], "linestyle": _DASHES[place], "linewidth": 1.8}
    if len(x) <= MARKED_POINTS:
        style |= {"marker": "o", "markersize": 4}
    if len(x) < SMOOTHED_POINTS:
        axes.plot(x, y, **style)
    else:
        axes.plot(x, y, color=style["color"], linewidth=0.8, alpha=0.35)
        axes.plot(x, _moving_average(y), **style)


def _draw_stacked(axes: Any, plot: Plot, curves: Sequence[Curve]) -> None:
    x = np.unique(np.concatenate([c.x for c in curves]))
    heights = [np.interp(x, c.x, c.y, left=0, right=0) for c in curves]
    if plot.ramp and len(x) >= SMOOTHED_POINTS:
        heights = [_moving_average(y) for y in heights]
    if len(x) == 1:  # an area needs a width
        x, heights = x + np.array([-0.5, 0.5]), [np.repeat(y, 2) for y in heights]
    if plot.ramp:
        colours, alpha = [_ramp_stand_in(c.place) for c in curves], 1.0
    else:
        colours, alpha = [_SERIES_COLOURS[c.place] for c in curves], 0.75
    axes.stackplot(x, *heights, colors=colours, alpha=alpha, linewidth=0)


def _mark(axes: Any, breach: Breach) -> None:
    """The rule's limit, and triangles at the top at the steps where it fired."""
    if breach.limit is not None:
        axes.axhline(breach.limit, color=_BAD, linewidth=0.8, linestyle="dotted")
    steps = breach.steps
    top = axes.get_xaxis_transform()  # x in steps, y in shares of the height
    axes.plot(
        steps, [1.0] * len(steps), "v", color=_BAD, markersize=6, transform=top, clip_on=False
    )


def _for_page(svg: str, prefix: str) -> str:
    """matplotlib's document as an element of the page: its ids under `prefix`, since ids are
    unique in a page, its colours as CSS variables, its size left to the page."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<svg [^>]*?)width="[^"]*" height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\1{prefix}-", svg)
    svg = re.sub(r"font-family: [^;]*;", "", svg)
    svg = re.sub(r"\n\s*", "\n", svg)
    for stand_in, variable in _STAND_INS.items():
        svg = svg.replace(stand_in, variable)
    return svg.strip()
