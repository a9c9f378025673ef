"""Writes the report of a run, one self-contained HTML page, from the run directory alone.

Decides what is read and the order of the page: the verdict, the run in a few numbers, before and
after, health, curves, every metric, pairs of attempt and correction, the config with the source of
each value. It computes no metric and writes no HTML: templates/report.html does. A part without
data (a run that just started, GRPO without corrections, no evaluation) says so.

The texts on the page were written by a model and are not trusted. The pairs travel as base64 and
reach the document as text nodes only; the templates escape every other value; a content security
policy allows the page's one script by its hash and loads nothing from elsewhere.
"""

import base64
import hashlib
import importlib.resources
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from markupsafe import Markup

from cipo_jax.report import figures, pairs, plots, tables
from cipo_jax.run.records.files import write_text
from cipo_jax.run.records.metrics_file import read_metrics
from cipo_jax.run.verdict import verdict
from cipo_jax.types import CipoError

REPORT_FILE = "report.html"

Block = tables.Note | tables.Table | figures.FigureGrid | pairs.PairBrowser


class Section(NamedTuple):
    """A heading and the blocks below it; `macro` of a block names its macro in blocks.html."""

    title: str
    blocks: Sequence[Block]

    @property
    def id(self) -> str:
        return self.title.lower().replace(" ", "-")


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
    archive = pairs.look_up_archive(workdir, records)
    ill = {("train", r["step"]) for r in records if r["phase"] == "health"}
    chosen = pairs.choose_pairs(workdir, archive.places, max_pairs, first=ill)
    evaluations = _merge_by_step(r for r in records if r["phase"] in ("eval", "final"))
    by_phase: dict[str, tables.Records] = {
        "train": [r for r in records if r["phase"] == "train"],
        "eval": evaluations,
        "cold_start": [r for r in records if r["phase"] == "cold_start"],
    }
    pass_at = plots.pass_at_names(evaluations)
    by_k = figures.pass_at_k_figure(evaluations, pass_at)
    fired = tables.breaches(records, config)
    groups = plots.plots(pass_at, plots.histogram_names(by_phase["train"]))
    curve = [] if by_k is None else [figures.FigureGrid([by_k])]
    sections = (
        Section("Before and after", [*tables.before_after(evaluations, pass_at), *curve]),
        Section("Health", tables.health(records, config)),
        *(Section(title, _draw(group, by_phase, fired)) for title, group in groups.items()),
        Section("All metrics", [tables.all_metrics(by_phase)]),
        Section("Attempts and corrections", [pairs.pair_browser(chosen, archive)]),
        Section("Config", tables.config_tables(config)),
    )
    page = _render(
        name=workdir.resolve().name,
        verdict=verdict(workdir),
        facts=tables.facts(records, config, archive.num_bytes),
        not_finite=tables.not_finite(records),
        sections=sections,
        pairs=pairs.pack_pairs(chosen),
    )
    path = workdir / REPORT_FILE
    # Names and values may hold half a surrogate pair, which UTF-8 cannot: U+FFFD is shown.
    write_text(path, page, errors="xmlcharrefreplace")
    return path


def _render(**content: Any) -> str:
    """report.html with `content`; an undefined name in a template raises."""
    # Here and not at the top: only a report needs jinja2, and a run starts sooner without it.
    import jinja2

    assets = importlib.resources.files("cipo_jax.report") / "templates"
    script = (assets / "report.js").read_text(encoding="utf-8")
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("cipo_jax.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html").render(
        content,
        style=Markup((assets / "report.css").read_text(encoding="utf-8")),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        max_points=figures.MAX_POINTS,
        smoothed_points=figures.SMOOTHED_POINTS,
    )


def _draw(
    group: Sequence[plots.Plot],
    by_phase: Mapping[str, tables.Records],
    fired: Mapping[str, figures.Breach],
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
    return blocks + ([tables.Note(f"No data: {'; '.join(missing)}.")] if missing else [])


def _merge_by_step(records: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One record per step, in order of steps; of two values of one metric the later counts."""
    merged: dict[int, dict[str, Any]] = {}
    for record in records:
        merged.setdefault(record["step"], {}).update(record)
    return [merged[step] for step in sorted(merged)]


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
