"""Writes the report of a run, one self-contained HTML page, from the run directory alone.

Decides what is read and the order of the page: the verdict, what was run on what, before and after,
health, curves, every metric, pairs of attempt and correction, the config with the source of each
value. It computes no metric. A part without data (a run that just started, GRPO without
corrections, no evaluation) says so. What a page is made of is decided in `html.py`.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cipo_jax.report import evaluations, figures, pairs, plots, tables
from cipo_jax.report.blocks import Block, Note, Section
from cipo_jax.report.drawing import Breach
from cipo_jax.report.facts import command_line, facts, not_finite
from cipo_jax.report.html import Page, write_page
from cipo_jax.run.comparison import count_ends
from cipo_jax.run.records.metrics_file import read_metrics
from cipo_jax.run.records.starts import read_starts
from cipo_jax.run.verdict import verdicts
from cipo_jax.types import CipoError

REPORT_FILE = "report.html"


def write_report(workdir: Path, max_pairs: int) -> Path:
    """Writes `workdir`/report.html and returns its path. The same run gives the same page.

    Args:
      workdir: the directory of a run, finished or in progress.
      max_pairs: most pairs of attempt and correction on the page.

    Raises:
      CipoError: `workdir` is no directory, or a file in it is damaged.
    """
    if not workdir.is_dir():
        raise CipoError(f"workdir: got {str(workdir)!r}, wanted the directory of a run")
    records = read_metrics(workdir)
    config = _read_config(workdir / "config.json")
    starts = read_starts(workdir)
    archive = pairs.look_up_archive(workdir, records)
    ill = {("train", r["step"]) for r in records if r["phase"] == "health"}
    chosen = pairs.choose_pairs(workdir, archive.places, max_pairs, first=ill)
    evaluated = [r for r in records if r["phase"] == "eval"]
    by_phase: dict[str, tables.Records] = {
        "train": [r for r in records if r["phase"] == "train"],
        "eval": evaluated,
        "cold_start": [r for r in records if r["phase"] == "cold_start"],
    }
    pass_at = plots.pass_at_names(evaluated)
    by_k = figures.pass_at_k_figure(evaluated, pass_at)
    fired = tables.breaches(records, config)
    groups = plots.plots(pass_at, plots.histogram_names(by_phase["train"]))
    curve = [] if by_k is None else [figures.FigureGrid([by_k])]
    ends = count_ends(workdir, evaluated)
    before_after = evaluations.before_after(ends, evaluated, pass_at)
    sections = (
        Section("Before and after", [*before_after, *curve], narrow=True),
        Section("Health", tables.health(records, config), narrow=True),
        *(Section(title, _draw(group, by_phase, fired)) for title, group in groups.items()),
        Section("All metrics", [tables.all_metrics(by_phase)]),
        Section("Attempts and corrections", [pairs.pair_browser(chosen, archive, config)]),
        Section("Config", tables.config_tables(config)),
    )
    page = Page(
        kind="cipo_jax run",
        name=workdir.resolve().name,
        verdicts=verdicts(workdir, ends),
        facts=facts(workdir, records, config, starts, archive.num_bytes),
        command=command_line(starts),
        warnings=not_finite(records),
        sections=sections,
        packed=pairs.pack_pairs(chosen, config),
    )
    return write_page(workdir / REPORT_FILE, page)


def _draw(
    group: Sequence[plots.Plot],
    by_phase: Mapping[str, tables.Records],
    fired: Mapping[str, Breach],
) -> list[Block]:
    """The figures of one section, and a line on those without data."""
    drawn, missing = [], []
    for plot in group:
        breaches = fired if plot.phase == "train" else {}
        if figure := figures.figure(plot, by_phase[plot.phase], breaches):
            drawn.append(figure)
        else:
            missing.append(plot.title + (f" (needs {plot.needs})" if plot.needs else ""))
    blocks: list[Block] = [figures.FigureGrid(drawn)] if drawn else []
    return blocks + ([Note(f"No data: {'; '.join(missing)}.")] if missing else [])


def _read_config(path: Path) -> dict[str, Any]:
    """{"section.key": {"value", "source"}}; empty if the run has no config yet."""
    if not path.exists():
        return {}
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        return {k: {name: e[name] for name in ("value", "source")} for k, e in config.items()}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        wanted = '{"section.key": {"value": ..., "source": ...}, ...}'
        raise CipoError(f"{path}: not a run's config ({error!r}), wanted {wanted}") from error
