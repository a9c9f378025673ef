"""Tables of a run's page, as plain data: health, every metric, the config.

Decides what stands in them, in which order, and how numbers are rounded. Everything comes from
metrics.jsonl and config.json. The templates decide how a table looks.
"""

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cipo_jax.config.keys import Health
from cipo_jax.report.blocks import Block, Note, Table
from cipo_jax.report.drawing import Breach
from cipo_jax.report.figures import spark
from cipo_jax.run.measures import find_metric
from cipo_jax.run.watch.health import Rule, health_rules

Records = Sequence[Mapping[str, Any]]


def breaches(records: Records, config: Mapping[str, Any]) -> dict[str, Breach]:
    """{metric: the rule that fired for it}, from the lines of phase "health"."""
    rules = {rule.name: rule for rule in _rules(config)}
    return {
        rules[name].metric: Breach(rules[name].limit, tuple(fired))
        for name, fired in _firings(records).items()
        if name in rules
    }


def health(records: Records, config: Mapping[str, Any]) -> list[Block]:
    """Each rule with its limit, and the steps at which it fired."""
    rules, fired = _rules(config), _firings(records)
    conditions = {r.name: f"{r.metric} {'<' if r.below else '>'} {r.limit:g}" for r in rules}
    rows = []
    for name in dict.fromkeys((*conditions, *fired)):
        steps = fired.get(name, {})
        where = some([str(step) for step in steps]) if steps else "–"
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


def all_metrics(by_phase: Mapping[str, Records]) -> Block:
    """Every metric of the run as one line with a small curve, so that none is hidden."""
    rows: list[tuple[str | tuple[str, str], ...]] = []
    for phase, records in by_phase.items():
        for name in sorted({name for record in records for name in record} - {"phase", "step"}):
            values = np.array([r[name] for r in records if name in r], dtype=np.float64)
            finite = values[np.isfinite(values)]
            low_high = (finite.min(), finite.max()) if len(finite) else (math.nan, math.nan)
            numbers = (f"{value:.4g}" for value in (values[0], values[-1], *low_high))
            title = name if name.startswith(phase + "/") or phase == "train" else f"{phase}: {name}"
            known = find_metric(name, phase)
            explained = f"{known.unit}: {known.meaning}" if known else ""
            rows.append(((title, explained), spark(values), *numbers))
    if not rows:
        return Note("No metrics yet.")
    columns, folded = ("Metric", "", "first", "last", "min", "max"), f"{len(rows)} metrics"
    return Table("All metrics", columns, rows, ("metric", "spark"), numbers=True, folded=folded)


def config_tables(config: Mapping[str, Any]) -> list[Block]:
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


def some(items: Sequence[str], count: int = 5) -> str:
    """The first items, and how many more there are."""
    more = f" and {len(items) - count} more" if len(items) > count else ""
    return ", ".join(items[:count]) + more


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
