"""The tables of the run report, as plain data: the run in a few numbers, before and after, health,
every metric, the config.

Decides what stands in them, in which order, and how numbers are rounded. Everything comes from
metrics.jsonl and config.json. The templates decide how a table looks.
"""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np

from cipo_jax.config.keys import Health
from cipo_jax.report.figures import Breach, spark
from cipo_jax.run.measures import find_metric
from cipo_jax.run.records.terminal import format_duration
from cipo_jax.run.watch.health import Rule, health_rules

Records = Sequence[Mapping[str, Any]]
Kind = Literal["text", "code", "metric", "estimate", "spark"]


@dataclasses.dataclass(frozen=True)
class Note:
    """A line of text."""

    macro: ClassVar[str] = "note"
    text: str
    style: Literal["nothing", "note"] = "nothing"  # CSS class


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows of values; the first value of a row is its heading.

    Attributes:
      label: what a screen reader calls the table.
      columns: the title of each column.
      rows: a value for each column. In a column of kind "estimate" it is a number and its standard
        error, in a "metric" a name and its explanation, in a "spark" the points of a small curve,
        in others text; error, explanation and points may be "".
      kinds: of the first columns; further ones are "text". A "code" is shown in fixed width.
      numbers: whether all columns but the first are aligned to the right.
      folded: if not "", only this line of the table is shown until it is clicked.
    """

    macro: ClassVar[str] = "table"
    label: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str | tuple[str, str]]]
    kinds: Sequence[Kind] = ()
    numbers: bool = False
    folded: str = ""


def facts(records: Records, config: Mapping[str, Any], archive_bytes: int) -> dict[str, str]:
    """The run in a few numbers, {label: value}."""
    train = [r for r in records if r["phase"] == "train"]

    def total(name: str) -> float:
        return sum(r[name] for r in train if math.isfinite(r.get(name, math.nan)))

    planned = config.get("num_steps", {}).get("value", "?")
    fired = sum(r["phase"] == "health" for r in records)
    return {
        "RL steps": f"{max((r['step'] for r in train), default=0)} of {planned}",
        "Tokens sampled": f"{total('tokens/sampled'):,.0f}",
        "Tokens trained": f"{total('tokens/trained'):,.0f}",
        "Time in RL steps": format_duration(total("time/step")),
        "Archive": f"{archive_bytes / 1e6:,.1f} MB",
        "Health rules": f"fired {fired} time{'s' * (fired != 1)}" if fired else "none fired",
    }


def not_finite(records: Records) -> dict[str, str]:
    """{metric: the first steps at which it was NaN or infinite}."""
    places: dict[str, list[str]] = {}
    for record in records:
        for name, value in record.items():
            if isinstance(value, float) and not math.isfinite(value):
                places.setdefault(name, []).append(f"{record['phase']} {record['step']}")
    return {name: _some(of_metric) for name, of_metric in places.items()}


def before_after(evaluations: Records, pass_at: Sequence[str]) -> list[Note | Table]:
    """The first and the last of `evaluations`, which are in order of steps, with their differences;
    `pass_at` as of `plots.pass_at_names`."""
    if not evaluations:
        return [Note("No evaluation yet.")]
    first, last = evaluations[0], evaluations[-1]
    correction = "eval/correction/"
    measures = [
        *((name, name.removeprefix("eval/"), True) for name in pass_at),
        (correction + "accuracy_before", "accuracy of the attempts to correct", True),
        (correction + "accuracy_after", "accuracy after correction", True),
        (correction + "w2r", "wrong → right", True),
        (correction + "r2r", "right → right", True),
        (correction + "w2r_gain", "wrong → right, minus another attempt", True),
        *(
            (name, name.removeprefix(correction).replace("_", " ").replace("/", ", "), True)
            for name in last
            if name.startswith(correction + "round_") and name.endswith(("accuracy", "solved_gain"))
        ),
        ("eval/no_answer", "no answer found", True),
        ("eval/length/mean", "completion length, tokens", False),
    ]
    rows = []
    for name, label, share in measures:
        if name in first or name in last:
            before, after = first.get(name, math.nan), last.get(name, math.nan)
            of_first = _quantity(before, share, first.get(name + "_stderr"))
            of_last = _quantity(after, share, last.get(name + "_stderr"))
            rows.append((label, of_first, of_last, _quantity(after - before, share, signed=True)))
    columns = ("Held-out problems", f"step {first['step']}", f"step {last['step']}", "difference")
    kinds: tuple[Kind, ...] = ("text", "estimate", "estimate", "estimate")
    blocks: list[Note | Table] = [Table("Before and after", columns, rows, kinds, numbers=True)]
    if first is last:
        blocks.insert(0, Note("One evaluation so far: nothing to compare yet."))
    if any(error for row in rows for _, error in row[1:]):
        blocks.append(Note("± is one standard error over problems.", "note"))
    return blocks


def breaches(records: Records, config: Mapping[str, Any]) -> dict[str, Breach]:
    """{metric: the rule that fired for it}, from the lines of phase "health"."""
    rules = {rule.name: rule for rule in _rules(config)}
    return {
        rules[name].metric: Breach(rules[name].limit, tuple(fired))
        for name, fired in _firings(records).items()
        if name in rules
    }


def health(records: Records, config: Mapping[str, Any]) -> list[Note | Table]:
    """Each rule with its limit, and the steps at which it fired."""
    rules, fired = _rules(config), _firings(records)
    conditions = {r.name: f"{r.metric} {'<' if r.below else '>'} {r.limit:g}" for r in rules}
    rows = []
    for name in dict.fromkeys((*conditions, *fired)):
        steps = fired.get(name, {})
        where = _some([str(step) for step in steps]) if steps else "–"
        value = f"{list(steps.values())[-1]:.4g}" if steps else "–"
        rows.append((name, conditions.get(name, ""), str(len(steps)), where, value))
    if not rows:
        return [Note("No health rule is known: there is no config.json, or all are off.")]
    columns = ("Rule", "Fires if", "Times", "At steps", "Last value")
    patience = config.get("health.patience", {}).get("value")
    note = f" for {patience} steps in a row" if patience else ""
    return [
        Table("Health rules", columns, rows, ("code",)),
        Note(f"A rule fires when its metric has been beyond the limit{note}."),
    ]


def all_metrics(by_phase: Mapping[str, Records]) -> Table | Note:
    """Every metric of the run as one line with a small curve, so that none is hidden."""
    rows: list[tuple[str | tuple[str, str], ...]] = []
    for phase, records in by_phase.items():
        for name in sorted({name for record in records for name in record} - {"phase", "step"}):
            values = np.array([r[name] for r in records if name in r], dtype=np.float64)
            finite = values[np.isfinite(values)]
            low_high = (finite.min(), finite.max()) if len(finite) else (math.nan, math.nan)
            numbers = (f"{value:.4g}" for value in (values[0], values[-1], *low_high))
            title = name if name.startswith(phase + "/") or phase == "train" else f"{phase}: {name}"
            known = find_metric(name)
            explained = f"{known.unit}: {known.meaning}" if known else ""
            rows.append(((title, explained), spark(values), *numbers))
    if not rows:
        return Note("No metrics yet.")
    columns, folded = ("Metric", "", "first", "last", "min", "max"), f"{len(rows)} metrics"
    return Table("All metrics", columns, rows, ("metric", "spark"), numbers=True, folded=folded)


def config_tables(config: Mapping[str, Any]) -> list[Note | Table]:
    """Every key with its value and source; what differs from the defaults first."""
    if not config:
        return [Note("No config.json in this run directory.")]
    rows = [
        (key, json.dumps(entry["value"], ensure_ascii=False), str(entry["source"]))
        for key, entry in config.items()
    ]
    changed = [row for row in rows if row[-1] != "default"]
    default = [row for row in rows if row[-1] == "default"]

    def table(label: str, rows: Sequence[tuple[str, str, str]], folded: str = "") -> Table:
        return Table(label, ("key", "value", "source"), rows, ("code", "code"), folded=folded)

    return [
        table("Set by the config file or the command line", changed)
        if changed
        else Note("Every value is the default."),
        table("Defaults", default, f"{len(default)} values at their default"),
    ]


def _some(items: Sequence[str], count: int = 5) -> str:
    """The first items, and how many more there are."""
    more = f" and {len(items) - count} more" if len(items) > count else ""
    return ", ".join(items[:count]) + more


def _quantity(
    value: float, share: bool, error: float | None = None, signed: bool = False
) -> tuple[str, str]:
    """A number and its standard error ("" without); a share in percent, a difference of shares
    (`signed`) in percentage points."""
    if not math.isfinite(value):
        return "–", ""
    scale, suffix = (100, " pts" if signed else "%") if share else (1, "")
    text = f"{value * scale:{'+' if signed else ''}.1f}{suffix}".replace("-", "−")
    return text, "" if error is None else f"{error * scale:.1f}"


def _rules(config: Mapping[str, Any]) -> tuple[Rule, ...]:
    """The run's rules: those its config has, as a rule may be younger than the run."""
    names = [field.name for field in dataclasses.fields(Health)]
    known = {n: config[f"health.{n}"]["value"] for n in names if f"health.{n}" in config}
    return tuple(rule for rule in health_rules(Health(**known)) if rule.name in known)


def _firings(records: Records) -> dict[str, dict[int, float]]:
    """{rule: {step: value}}."""
    fired: dict[str, dict[int, float]] = {}
    for record in records:
        if record["phase"] == "health":
            for name, value in record.items():
                if name.startswith("health/"):
                    fired.setdefault(name.removeprefix("health/"), {})[record["step"]] = value
    return fired
