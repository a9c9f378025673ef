"""The tables of the run report: the run in a few numbers, before and after, health, every metric,
the config.

Decides what stands in them and in which order. Everything comes from metrics.jsonl and config.json;
text from there is escaped here.
"""

import dataclasses
import html
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from cipo_jax.config.keys import Health
from cipo_jax.report.figures import Breach, spark
from cipo_jax.report.pairs import Archive
from cipo_jax.run.records.terminal import format_duration
from cipo_jax.run.watch.health import Rule, health_rules

Records = Sequence[Mapping[str, Any]]


def facts(records: Records, config: Mapping[str, Any], archive: Archive) -> str:
    """The run in a few numbers, and the values that were not finite."""
    train = [r for r in records if r["phase"] == "train"]

    def total(name: str) -> float:
        return sum(r[name] for r in train if math.isfinite(r.get(name, math.nan)))

    planned = config.get("num_steps", {}).get("value", "?")
    fired = sum(r["phase"] == "health" for r in records)
    items = {
        "RL steps": f"{max((r['step'] for r in train), default=0)} of {planned}",
        "Tokens sampled": f"{total('tokens/sampled'):,.0f}",
        "Tokens trained": f"{total('tokens/trained'):,.0f}",
        "Time in RL steps": format_duration(total("time/step")),
        "Archive": f"{archive.num_bytes / 1e6:,.1f} MB",
        "Health rules": f"fired {fired} time{'s' * (fired != 1)}" if fired else "none fired",
    }
    body = "".join(f"<div><dt>{k}</dt><dd>{html.escape(v)}</dd></div>" for k, v in items.items())
    broken: dict[str, list[str]] = {}
    for record in records:
        for name, value in record.items():
            if isinstance(value, float) and not math.isfinite(value):
                broken.setdefault(name, []).append(f"{record['phase']} {record['step']}")
    warning = "".join(
        f"<li><code>{html.escape(name)}</code> at {html.escape(_some(places))}</li>"
        for name, places in broken.items()
    )
    if warning:
        warning = f'<div class="warning"><b>Values that were not finite</b><ul>{warning}</ul></div>'
    return f"<dl>{body}</dl>{warning}"


def before_after(evaluations: Records, pass_at: Sequence[str]) -> str:
    """The table of the first and the last evaluation with their differences."""
    if not evaluations:
        return nothing("No evaluation yet.")
    first, last = evaluations[0], evaluations[-1]
    correction = "eval/correction/"
    rows = [
        *((name, name.removeprefix("eval/"), "points") for name in pass_at),
        (correction + "accuracy_before", "accuracy of the attempts to correct", "points"),
        (correction + "accuracy_after", "accuracy after correction", "points"),
        (correction + "w2r", "wrong → right", "points"),
        (correction + "r2r", "right → right", "points"),
        ("eval/no_answer", "no answer found", "points"),
        ("eval/length/mean", "completion length, tokens", "tokens"),
    ]
    body = ""
    for name, label, unit in rows:
        if name not in first and name not in last:
            continue
        before, after = first.get(name, math.nan), last.get(name, math.nan)
        cells = (
            _quantity(before, unit, first.get(name + "_stderr")),
            _quantity(after, unit, last.get(name + "_stderr")),
            _quantity(after - before, unit, signed=True),
        )
        body += _row(html.escape(label), *cells)
    single = nothing("One evaluation so far: nothing to compare yet.") if first is last else ""
    errors = '<p class="note">± is one standard error over problems.</p>' if "±" in body else ""
    columns = ("Held-out problems", f"step {first['step']}", f"step {last['step']}", "difference")
    return single + table(columns, body, "Before and after", numbers=True) + errors


def breaches(records: Records, config: Mapping[str, Any]) -> dict[str, Breach]:
    """{metric: the rule that fired for it}, from the lines of phase "health"."""
    rules = {rule.name: rule for rule in _rules(config)}
    return {
        rules[name].metric: Breach(rules[name].limit, tuple(fired))
        for name, fired in _firings(records).items()
        if name in rules
    }


def health_section(records: Records, config: Mapping[str, Any]) -> str:
    """Each rule with its limit, and the steps at which it fired."""
    rules, fired = _rules(config), _firings(records)
    rows = [(rule.name, _condition(rule), fired.get(rule.name, {})) for rule in rules]
    known = {rule.name for rule in rules}
    rows += [(name, "", steps) for name, steps in fired.items() if name not in known]
    if not rows:
        return nothing("No health rule is known: there is no config.json, or all are off.")
    body = "".join(
        _row(
            f"<code>{html.escape(name)}</code>",
            html.escape(condition),
            str(len(steps)),
            html.escape(_some([str(step) for step in steps])) if steps else "–",
            f"{list(steps.values())[-1]:.4g}" if steps else "–",
        )
        for name, condition, steps in rows
    )
    patience = config.get("health.patience", {}).get("value")
    note = f" for {patience} steps in a row" if patience else ""
    return table(
        ("Rule", "Fires if", "Times", "At steps", "Last value"), body, "Health rules"
    ) + nothing(f"A rule fires when its metric has been beyond the limit{html.escape(note)}.")


def metrics_section(by_phase: Mapping[str, Records]) -> str:
    """Every metric of the run as one line with a small curve, so that none is hidden."""
    body, count = "", 0
    for phase, records in by_phase.items():
        names = sorted({name for record in records for name in record} - {"phase", "step"})
        for name in names:
            values = np.array([r[name] for r in records if name in r], dtype=np.float64)
            finite = values[np.isfinite(values)]
            low_high = (finite.min(), finite.max()) if len(finite) else (math.nan, math.nan)
            numbers = (f"{value:.4g}" for value in (values[0], values[-1], *low_high))
            title = name if name.startswith(phase + "/") or phase == "train" else f"{phase}: {name}"
            body += _row(f"<code>{html.escape(title)}</code>", spark(values), *numbers)
            count += 1
    if not count:
        return nothing("No metrics yet.")
    columns = ("Metric", "", "first", "last", "least", "most")
    return (
        f"<details><summary>{count} metrics</summary>"
        f"{table(columns, body, 'All metrics', numbers=True)}</details>"
    )


def config_section(config: Mapping[str, Any]) -> str:
    """Every key with its value and source; what differs from the defaults first."""
    if not config:
        return nothing("No config.json in this run directory.")
    rows = {
        key: _row(
            f"<code>{html.escape(key)}</code>",
            f"<code>{html.escape(json.dumps(entry['value'], ensure_ascii=False))}</code>",
            html.escape(str(entry["source"])),
        )
        for key, entry in config.items()
    }
    changed = "".join(row for key, row in rows.items() if config[key]["source"] != "default")
    default = [row for key, row in rows.items() if config[key]["source"] == "default"]
    columns = ("key", "value", "source")
    return (
        table(columns, changed, "Set by the config file or the command line")
        if changed
        else nothing("Every value is the default.")
    ) + (
        f"<details><summary>{len(default)} values at their default</summary>"
        f"{table(columns, ''.join(default), 'Defaults')}</details>"
    )


def table(columns: Iterable[str], body: str, label: str, numbers: bool = False) -> str:
    """A table that scrolls by itself where it is wider than the page."""
    head = "".join(f'<th scope="col">{column}</th>' for column in columns)
    kind = ' class="numbers"' if numbers else ""
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{label}">'
        f"<table{kind}><thead><tr>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table></div>"
    )


def nothing(text: str) -> str:
    """A line on what is missing."""
    return f'<p class="nothing">{text}</p>'


def _row(head: str, *cells: str) -> str:
    return f'<tr><th scope="row">{head}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>'


def _some(items: Sequence[str], count: int = 5) -> str:
    """The first items, and how many more there are."""
    more = f" and {len(items) - count} more" if len(items) > count else ""
    return ", ".join(items[:count]) + more


def _quantity(value: float, unit: str, error: float | None = None, signed: bool = False) -> str:
    """A number of the table; shares are in percent, their differences in percentage points."""
    if not math.isfinite(value):
        return "–"
    scale, suffix = (100, " pts" if signed else "%") if unit == "points" else (1, "")
    text = f"{value * scale:{'+' if signed else ''}.1f}{suffix}".replace("-", "−")
    return text if error is None else f"{text} <small>± {error * scale:.1f}</small>"


def _condition(rule: Rule) -> str:
    return f"{rule.metric} {'<' if rule.below else '>'} {rule.limit:g}"


def _rules(config: Mapping[str, Any]) -> tuple[Rule, ...]:
    """The run's rules, if its config is there."""
    names = [field.name for field in dataclasses.fields(Health)]
    if any(f"health.{name}" not in config for name in names):
        return ()
    return health_rules(Health(**{name: config[f"health.{name}"]["value"] for name in names}))


def _firings(records: Records) -> dict[str, dict[int, float]]:
    """{rule: {step: value}}."""
    fired: dict[str, dict[int, float]] = {}
    for record in records:
        if record["phase"] == "health":
            for name, value in record.items():
                if name.startswith("health/"):
                    fired.setdefault(name.removeprefix("health/"), {})[record["step"]] = value
    return fired
