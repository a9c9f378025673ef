"""How methods are shown beside each other: curves as png and svg, and as figures of a page."""

import dataclasses
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from cipo_jax.report.blocks import Table
from cipo_jax.report.figures import Figure as PageFigure
from cipo_jax.report.figures import methods_figure
from cipo_jax.report.plots import Plot
from cipo_jax.run.comparison import LearningCurve, mean_curve, points
from cipo_jax.run.records.files import replacing
from cipo_jax.run.records.starts import read_starts
from cipo_jax.run.statistics import Difference, share_estimate
from cipo_jax.run.unsolved import KINDS, NextVisits, of_any_kind


def line_styles(methods: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Colour and dashes of each method, as matplotlib takes them; no two of thirty are the same."""
    return {
        name: {"color": f"C{i % 10}", "linestyle": ("-", "--", ":")[i // 10 % 3]}
        for i, name in enumerate(methods)
    }


def with_curves(
    methods: Mapping[str, Sequence[LearningCurve]], metrics: Mapping[str, str]
) -> dict[str, str]:
    """The metrics that some run has at two evaluations or more: a point is no curve."""
    runs = [run for seeds in methods.values() for run in seeds]
    return {
        metric: label
        for metric, label in metrics.items()
        if any(len(points(run, metric, "step")[0]) > 1 for run in runs)
    }


def draw_curves(
    methods: Mapping[str, Sequence[LearningCurve]],
    metrics: Mapping[str, str],
    styles: Mapping[str, Mapping[str, Any]],
    each_seed: bool = False,
) -> Figure:
    """Metrics in rows, against steps and against sampled tokens; means over seeds.

    Args:
      methods: name -> the curve of each seed. A metric is drawn for the methods whose seeds all
        have it.
      metrics: name -> label.
      styles: see `line_styles`.
      each_seed: draws the seeds' own curves as well, pale.
    """
    rows = max(len(metrics), 1)
    figure = Figure(figsize=(11, 2.5 * rows), layout="constrained")
    axes = figure.subplots(rows, 2, squeeze=False, sharey="row", sharex="col")
    for row, (metric, label) in zip(axes, metrics.items(), strict=False):
        row[0].set_ylabel(label)
        for axis, against in zip(row, ("step", "tokens"), strict=True):
            axis.grid(alpha=0.3)
            for name, curves in methods.items():
                if (mean := mean_curve(curves, metric, against)) is None:
                    continue
                axis.plot(*mean, **styles[name], marker="o", markersize=2.5, label=name)
                for curve in curves if each_seed else ():
                    axis.plot(
                        *points(curve, metric, against), **styles[name], alpha=0.3, linewidth=0.8
                    )
    for axis, label in zip(axes[-1], ("steps", "sampled tokens"), strict=True):
        axis.set_xlabel(label)
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="outside right upper")
    return figure


def curve_figures(
    methods: Mapping[str, Sequence[LearningCurve]],
    metrics: Mapping[str, str],
    not_shares: Collection[str] = (),
    prefix: str = "",
) -> list[PageFigure]:
    """For a page: each metric against steps and against sampled tokens, as far as there are curves.

    Args:
      methods: name -> the curve of each seed.
      metrics: name -> label.
      not_shares: the metrics that are no shares.
      prefix: of titles, which are unique in a page.
    """
    found = []
    for metric, label in with_curves(methods, metrics).items():
        by_step = Plot(f"{prefix}{label}, by steps", {}, share=metric not in not_shares, tight=True)
        by_tokens = dataclasses.replace(
            by_step, title=f"{prefix}{label}, by sampled tokens", x="tokens"
        )
        found += [methods_figure(plot, methods, metric) for plot in (by_step, by_tokens)]
    return [figure for figure in found if figure]


def runs_table(methods: Mapping[str, Sequence[Path]]) -> Table:
    """When and on what runs were made, as far as their directories say."""
    rows = []
    for name, paths in methods.items():
        for path in paths:
            start: Mapping[str, Any] = (read_starts(path) or [{}])[-1]
            told = [str(start.get(key, "not recorded")) for key in ("devices", "time")]
            version = start.get("versions", {}).get("cipo_jax", "not recorded")
            rows.append((str(path), name, *told, version))
    return Table("Runs", ("run", "method", "devices", "started (UTC)", "version"), rows, ("code",))


def unsolved_table(
    methods: Mapping[str, Sequence[Mapping[str, Mapping[str, NextVisits]]]],
) -> Table:
    """What followed visits of problems without a right attempt.

    Args:
      methods: name -> the next visits of each seed, as `unsolved.next_visits` gives them. A problem
        of two seeds counts as two.
    """
    rows = []
    for name, seeds in methods.items():
        kinds = {k: [n for of in seeds for n in of.get(k, {}).values()] for k in KINDS}
        whole = [n for of in seeds for n in of_any_kind(of).values()]
        for kind, of in {"all": whole, **kinds}.items():
            if of:
                visits, solved, rate = np.array([[n.visits, n.solved, n.rate] for n in of], float).T
                shares = [share_estimate(x, visits) for x in (solved, rate)]
                cells = [f"{e.value:.3f} [{e.low:.3f}, {e.high:.3f}]" for e in shares]
                rows.append((name, kind, f"{len(of):,}", f"{visits.sum():,.0f}", *cells))
    head = ("method", "problems that are", "number", "visits", "next solved", "next pass rate")
    return Table("Unsolved problems", head, rows)


def said_difference(reference: str, d: Difference, cases: str) -> str:
    """A difference of shares from a reference, with its 95% interval, in words."""
    word = "above" if d.low > 0 else "below" if d.high < 0 else "no difference from"
    points = [f"{100 * x:+.1f}" for x in (d.value, d.low, d.high)]
    return "{} {} ({} points, 95% interval {} to {}, {})".format(word, reference, *points, cases)


def save_figure(figure: Figure, path: Path) -> Path:
    """Writes `path`.png and `path`.svg; returns the former."""
    files = [path.with_name(path.name + ending) for ending in (".png", ".svg")]
    for file in files:
        with replacing(file) as temporary:
            figure.savefig(temporary, dpi=120, format=file.suffix[1:])
    return files[0]
