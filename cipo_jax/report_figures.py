"""The curves of the run report, as inline SVG.

Decides which metrics are drawn together and how a curve looks. Colours are CSS variables of the
page, so that one drawing is legible on a light and on a dark ground. Where a figure stands on the
page, and what is said when there is nothing to draw, is `report.py`'s business.
"""

import dataclasses
import html
import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

TRANSITIONS = {
    "r2r": "right → right",
    "r2w": "right → wrong",
    "w2r": "wrong → right",
    "w2w": "wrong → wrong",
}
MAX_POINTS = 400  # of one curve; longer ones are averaged
MARKED_POINTS = 15  # up to so many, each point gets a marker
SMOOTHED_POINTS = 40  # from so many, a moving average is drawn over the pale raw curve

# matplotlib wants colours it knows; these stand for CSS variables and are replaced in the SVG.
_STAND_INS = {
    "#010101": "var(--s1)",
    "#020202": "var(--s2)",
    "#030303": "var(--s3)",
    "#040404": "var(--s4)",
    "#050505": "var(--axis)",
    "#060606": "var(--grid)",
}
_SERIES_COLOURS = tuple(_STAND_INS)[:4]
_AXIS, _GRID = tuple(_STAND_INS)[4:]
_DASHES = ("solid", "solid", "dashed", "dotted")  # told apart without colour where four meet


@dataclasses.dataclass(frozen=True)
class Plot:
    """One small figure.

    Attributes:
      title: what is shown.
      series: (metric, label) of each curve, at most four.
      phase: whose lines of metrics.jsonl; "eval" takes those of the final evaluation too.
      share: values are shares: the axis is in percent, from 0 to 100.
      stacked: areas on top of each other instead of curves.
    """

    title: str
    series: tuple[tuple[str, str], ...]
    phase: str = "train"
    share: bool = False
    stacked: bool = False


def _streams(metric: str) -> tuple[tuple[str, str], ...]:
    return (f"base/{metric}", "base"), (f"correction/{metric}", "correction")


def plots(pass_at: Sequence[str]) -> dict[str, tuple[Plot, ...]]:
    """The figures by section; `pass_at` names the pass@k metrics that the run evaluated."""
    accuracy = "eval/correction/accuracy_"
    return {
        "Learning": (
            Plot("Pass rate", _streams("pass_rate"), share=True),
            Plot("pass@k, held out", tuple((n, n[5:]) for n in pass_at[:4]), "eval", share=True),
            Plot(
                "Correction accuracy, held out",
                ((accuracy + "before", "first attempt"), (accuracy + "after", "after correction")),
                "eval",
                share=True,
            ),
        ),
        "Correction": (
            Plot(
                "Transitions, share of corrections",
                tuple((f"transition/{kind}", words) for kind, words in TRANSITIONS.items()),
                share=True,
            ),
            Plot(
                "Fixing, keeping, copying",
                (
                    ("correction/fix_rate", "fix rate"),
                    ("correction/retention", "retention"),
                    ("correction/break_rate", "break rate"),
                    ("correction/copy_rate", "copy rate"),
                ),
                share=True,
            ),
            Plot(
                "Share of right anchors",
                (("replay/rho", "rho (wanted)"), ("anchor/realised_success_share", "realised")),
                share=True,
            ),
            Plot(
                "Anchor selection",
                (("anchor/fallback_frac", "fallback"), ("anchor/trimmed_frac", "trimmed")),
                share=True,
            ),
        ),
        "Behaviour": (
            Plot(
                "Completion length, tokens",
                (
                    ("base/length/mean", "base"),
                    ("correction/length/mean", "correction"),
                    ("base/length/p95", "base, p95"),
                    ("correction/length/p95", "correction, p95"),
                ),
            ),
            Plot("Entropy, nats per token", _streams("entropy")),
            Plot("Truncated completions", _streams("truncated"), share=True),
            Plot("Groups with both outcomes", _streams("group/mixed"), share=True),
        ),
        "Optimisation": (
            Plot(
                "Loss",
                (
                    ("loss/base", "base"),
                    ("loss/correction", "correction"),
                    ("loss/total", "total"),
                ),
            ),
            Plot("Gradient norm", (("grad_norm", "before clipping"),)),
            Plot("Clipped ratios, share of tokens", _streams("clip_frac")),
            Plot("Largest ratio", _streams("ratio_max")),
            Plot("Sampler against trainer, mean |Δ log-prob|", _streams("sampler_gap")),
            Plot("Learning rate", (("learning_rate", "RL"),)),
        ),
        "Cost": (
            Plot(
                "Seconds per step",
                (
                    ("time/rollout", "rollout"),
                    ("time/correct", "correct"),
                    ("time/update", "update"),
                ),
                stacked=True,
            ),
            Plot("Tokens per step", (("tokens/sampled", "sampled"), ("tokens/trained", "trained"))),
            Plot("Padding in the train batch", (("tokens/pad_share", "padding"),), share=True),
        ),
        "Cold start": (
            Plot("Loss, nats per token", (("loss/demonstration", "demonstrations"),), "cold_start"),
            Plot("Pass rate, held out", (("pass_rate", "pass@1"),), "cold_start", share=True),
        ),
    }


def figure(plot: Plot, records: Sequence[Mapping[str, Any]]) -> str | None:
    """`plot` as a <figure> element with its legend, or None if no record has any of its metrics.

    Args:
      records: lines of metrics.jsonl, of the plot's phase only, in order of steps.
    """
    curves = []
    for index, (metric, label) in enumerate(plot.series):
        steps, values = _finite_points(metric, records)
        if len(steps):
            curves.append((index, label, steps, values))
    if not curves:
        return None
    legend = "".join(
        f'<li><i class="s{index + 1}"></i>{html.escape(label)}</li>'
        for index, label, _, _ in curves
    )
    kind = "legend areas" if plot.stacked else "legend"
    title = html.escape(plot.title)
    summary = html.escape(
        "; ".join(f"{label}: first {v[0]:.4g}, last {v[-1]:.4g}" for _, label, _, v in curves)
    )
    return (
        f'<figure><figcaption><b>{title}</b><ul class="{kind}">{legend}</ul></figcaption>'
        f'<div role="img" aria-label="{title}, by step. {summary}">{_svg(plot, curves)}</div>'
        "</figure>"
    )


def _finite_points(metric: str, records: Sequence[Mapping[str, Any]]) -> tuple[Any, Any]:
    """(steps, values), [n] float64 each with n <= MAX_POINTS, means of equal runs if longer."""
    points = np.array([(r["step"], r[metric]) for r in records if metric in r], dtype=np.float64)
    points = points.reshape(-1, 2)
    points = points[np.isfinite(points[:, 1])]
    runs = np.array_split(points, MAX_POINTS) if len(points) > MAX_POINTS else [points]
    if len(runs) > 1:
        points = np.stack([run.mean(axis=0) for run in runs])
    return points[:, 0], points[:, 1]


def _moving_average(values: np.ndarray) -> np.ndarray:
    """[n] -> [n]: centred, over about a twentieth of the curve, shorter windows at the ends."""
    half = max(1, len(values) // 40)
    window = np.ones(2 * half + 1)
    counts = np.convolve(np.ones_like(values), window, "same")
    return np.convolve(values, window, "same") / counts


def _svg(plot: Plot, curves: Sequence[tuple[int, str, np.ndarray, np.ndarray]]) -> str:
    # Here and not at the top: matplotlib is slow to import, and a run needs it at its end only.
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    # Text stays text, in the page's font; ids depend on the drawing alone.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": plot.title}):
        canvas = Figure(figsize=(4.6, 2.5), layout="constrained")  # inches of 72 viewBox units
        axes = canvas.add_subplot()
        if len({step for _, _, steps, _ in curves for step in steps}) == 1:
            axes.set_xlim(curves[0][2][0] - 1, curves[0][2][0] + 1)
        if plot.stacked:
            steps = np.unique(np.concatenate([steps for _, _, steps, _ in curves]))
            heights = [np.interp(steps, s, v, left=0, right=0) for _, _, s, v in curves]
            colours = [_SERIES_COLOURS[index] for index, _, _, _ in curves]
            axes.stackplot(steps, *heights, colors=colours, alpha=0.75, linewidth=0)
        else:
            for index, _, steps, values in curves:
                _draw(axes, index, steps, values)
        if plot.share:
            axes.set_ylim(-0.03, 1.03)
            axes.set_yticks([0, 0.25, 0.5, 0.75, 1])
            axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        elif plot.stacked:
            axes.set_ylim(bottom=0)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
        axes.set_xlabel("step", color=_AXIS, fontsize=10)
        axes.tick_params(colors=_AXIS, labelsize=10, length=0)
        axes.yaxis.offsetText.set(color=_AXIS, fontsize=10)
        axes.grid(axis="y", color=_GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.spines["bottom"].set_color(_AXIS)
        out = io.StringIO()
        canvas.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    return _for_page(out.getvalue(), prefix=re.sub(r"\W+", "-", plot.title.lower()).strip("-"))


def _draw(axes: Any, index: int, steps: np.ndarray, values: np.ndarray) -> None:
    style = {"color": _SERIES_COLOURS[index], "linestyle": _DASHES[index], "linewidth": 1.8}
    if len(steps) <= MARKED_POINTS:
        style |= {"marker": "o", "markersize": 4}
    if len(steps) < SMOOTHED_POINTS:
        axes.plot(steps, values, **style)
    else:
        axes.plot(steps, values, color=style["color"], linewidth=0.8, alpha=0.35)
        axes.plot(steps, _moving_average(values), **style)


def _for_page(svg: str, prefix: str) -> str:
    """matplotlib's document as an element of the page: its ids under `prefix`, since ids are
    unique in a page, its colours as CSS variables, its size left to the page."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<svg [^>]*?)width="[^"]*" height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(\bid="|href="#|url\(#)', rf"\1{prefix}-", svg)
    svg = re.sub(r"font-family: [^;]*;", "", svg)
    for stand_in, variable in _STAND_INS.items():
        svg = svg.replace(stand_in, variable)
    return svg.strip()
