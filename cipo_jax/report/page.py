"""One self-contained HTML page of a run, built from its run directory alone.

Decides the order of the page: the run in a few numbers, before and after, health, curves, every
metric, pairs of attempt and correction, the config with provenance. It computes no metric; it reads
what metrics.jsonl and the archive hold, and says of each part that it has no data where that is so
(a run that just started, GRPO without corrections, no evaluation).

The completions on the page were written by a model and are not trusted: they travel as base64 and
reach the document as text nodes only; a content security policy allows the page's one script by its
hash and nothing from elsewhere.
"""

import base64
import hashlib
import html
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cipo_jax.report.figures import MAX_POINTS, SMOOTHED_POINTS, Breach, Curve, draw, figure
from cipo_jax.report.pairs import choose_pairs, look_up_archive, pack_pairs, pairs_section
from cipo_jax.report.plots import Plot, histogram_names, pass_at_names, plots
from cipo_jax.report.tables import (
    Records,
    before_after,
    breaches,
    config_section,
    facts,
    health_section,
    metrics_section,
    nothing,
)
from cipo_jax.report.template import PAGE, SCRIPT, STYLE
from cipo_jax.run.records.metrics_file import read_metrics
from cipo_jax.types import CipoError

REPORT_FILE = "report.html"


def write_report(workdir: Path, max_pairs: int) -> Path:
    """Writes `workdir`/report.html and returns its path. The same run gives the same page.

    Args:
      workdir: a run directory, of a finished run or of one in progress.
      max_pairs: attempt → correction pairs on the page at most; `pairs.py` says which.

    Raises:
      CipoError: `workdir` is no directory, or a file in it is damaged.
    """
    if not workdir.is_dir():
        raise CipoError(f"workdir: got {str(workdir)!r}, wanted the directory of a run")
    records = read_metrics(workdir)
    config = _read_config(workdir / "config.json")
    archive = look_up_archive(workdir, records)
    ill = {("train", r["step"]) for r in records if r["phase"] == "health"}
    pairs = choose_pairs(workdir, archive.places, max_pairs, first=ill)
    by_phase = {
        "train": [r for r in records if r["phase"] == "train"],
        "eval": _merge_by_step(r for r in records if r["phase"] in ("eval", "final")),
        "cold_start": [r for r in records if r["phase"] == "cold_start"],
    }
    evaluations = by_phase["eval"]
    pass_at, fired = pass_at_names(evaluations), breaches(records, config)
    figures = plots(pass_at, histogram_names(by_phase["train"]))
    sections = {
        "Before and after": before_after(evaluations, pass_at) + _by_k(evaluations, pass_at),
        "Health": health_section(records, config),
        **{title: _figures(by_phase, group, fired) for title, group in figures.items()},
        "All metrics": metrics_section(by_phase),
        "Attempts and corrections": pairs_section(pairs, archive),
        "Config": config_section(config),
    }
    name = html.escape(workdir.resolve().name)
    ids = {title: title.lower().replace(" ", "-") for title in sections}
    page = PAGE.format(
        name=name,
        csp_hash=base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode(),
        style=STYLE,
        facts=facts(records, config, archive),
        nav="".join(f'<a href="#{ids[title]}">{title}</a>' for title in sections),
        sections="".join(
            f'<section id="{ids[title]}" aria-labelledby="{ids[title]}-h">'
            f'<h2 id="{ids[title]}-h">{title}</h2>{body}</section>\n'
            for title, body in sections.items()
        ),
        footer=f"A curve of {SMOOTHED_POINTS} points or more is drawn pale, its moving average "
        f"strong; one of more than {MAX_POINTS} points is averaged to so many first.",
        pairs=pack_pairs(pairs),
        script=SCRIPT,
    )
    path = workdir / REPORT_FILE
    temporary = path.with_suffix(".tmp")
    # Names and values may hold half a surrogate pair, which UTF-8 cannot: U+FFFD is shown.
    temporary.write_text(page, encoding="utf-8", errors="xmlcharrefreplace")
    os.replace(temporary, path)
    return path


def _figures(
    by_phase: Mapping[str, Records], group: Sequence[Plot], fired: Mapping[str, Breach]
) -> str:
    """The figures of one section, and a line on those without data."""
    drawn, missing = "", []
    for plot in group:
        element = figure(plot, by_phase[plot.phase], fired if plot.phase == "train" else {})
        if element is None:
            hint = f" (wants {plot.wanting})" if plot.wanting else ""
            missing.append(html.escape(plot.title + hint))
        else:
            drawn += element
    grid = f'<div class="figures">{drawn}</div>' if drawn else ""
    return grid + (nothing(f"No data: {'; '.join(missing)}.") if missing else "")


def _by_k(evaluations: Records, pass_at: Sequence[str]) -> str:
    """pass@k against k, in the first and the last evaluation, where that is more than a line."""
    if len(pass_at) < 3:
        return ""
    curves = []
    ends = (evaluations[0], evaluations[-1])[: len(evaluations)]
    for index, record in enumerate(ends):
        points = [(float(name.partition("@")[2]), record.get(name, np.nan)) for name in pass_at]
        k, values = np.array([p for p in points if np.isfinite(p[1])]).reshape(-1, 2).T
        if len(k):
            curves.append(Curve(index, f"step {record['step']}", k, values))
    plot = Plot("pass@k against k, held out", (), share=True)
    return f'<div class="figures">{draw(plot, curves, x_label="k", doubling=True) or ""}</div>'


def _merge_by_step(records: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Records of one step as one, later values first, in order of steps."""
    merged: dict[int, dict[str, Any]] = {}
    for record in records:
        merged.setdefault(record["step"], {}).update(record)
    return [merged[step] for step in sorted(merged)]


def _read_config(path: Path) -> dict[str, Any]:
    """{"section.key": {"value", "source"}}, or nothing if the run has no config yet."""
    if not path.exists():
        return {}
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        well_formed = all({"value", "source"} <= entry.keys() for entry in config.values())
    except (ValueError, AttributeError) as error:
        raise CipoError(f"{path}: not a resolved config ({error})") from error
    if not well_formed:
        raise CipoError(f'{path}: wanted {{"section.key": {{"value", "source"}}}}')
    return config
