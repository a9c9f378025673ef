"""One self-contained HTML page of a run, built from its run directory alone.

Decides what the page shows and how: numbers before and after, curves, pairs of attempt and
correction, the config with provenance. It computes no metric; it reads what metrics.jsonl and the
archive hold, and says of each part that it has no data where that is so (a run that just started,
GRPO without corrections, no evaluation).

The completions on the page were written by a model and are not trusted: they travel as json with
<, > and & escaped and reach the document as text nodes only; a content security policy allows the
page's one script by its hash and nothing from elsewhere.
"""

import base64
import hashlib
import html
import itertools
import json
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cipo_jax.archive import read_attempts
from cipo_jax.metrics import format_duration, read_metrics
from cipo_jax.report_figures import MAX_POINTS, SMOOTHED_POINTS, TRANSITIONS, Plot, figure, plots
from cipo_jax.report_page import BROWSER, PAGE, SCRIPT, STYLE
from cipo_jax.types import CipoError, Outcome

REPORT_FILE = "report.html"
MAX_TEXT = 20_000  # characters shown of one text; the middle of longer ones is cut
MAX_PAIR_BYTES = 8_000_000  # of all pairs as json; texts are cut shorter to stay below

Records = Sequence[Mapping[str, Any]]


def write_report(workdir: Path, max_pairs: int) -> Path:
    """Writes `workdir`/report.html and returns its path. The same run gives the same page.

    Args:
      workdir: a run directory, of a finished run or of one in progress.
      max_pairs: attempt → correction pairs on the page at most, spread over steps and transitions.

    Raises:
      CipoError: `workdir` is no directory, or a file in it is damaged.
    """
    if not workdir.is_dir():
        raise CipoError(f"workdir: got {str(workdir)!r}, wanted the directory of a run")
    records = read_metrics(workdir)
    config = _read_config(workdir / "config.json")
    pairs, num_attempts = choose_pairs(workdir, max_pairs)
    evaluations = _merge_by_step(r for r in records if r["phase"] in ("eval", "final"))
    by_phase = {
        "train": [r for r in records if r["phase"] == "train"],
        "cold_start": [r for r in records if r["phase"] == "cold_start"],
        "eval": evaluations,
    }
    pass_at = sorted(
        {name for r in evaluations for name in r if re.fullmatch(r"eval/pass@\d+", name)},
        key=lambda name: int(name.partition("@")[2]),
    )
    sections = {
        "Before and after": _before_after(evaluations, pass_at),
        **{title: _figures(by_phase, group) for title, group in plots(pass_at).items()},
        "Attempts and corrections": _pairs_section(pairs, num_attempts),
        "Config": _config_section(config),
    }
    name = html.escape(workdir.resolve().name)
    ids = {title: title.lower().replace(" ", "-") for title in sections}
    page = PAGE.format(
        name=name,
        csp_hash=base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode(),
        style=STYLE,
        facts=_facts(records, config, num_attempts),
        nav="".join(f'<a href="#{ids[title]}">{title}</a>' for title in sections),
        sections="".join(
            f'<section id="{ids[title]}" aria-labelledby="{ids[title]}-h">'
            f'<h2 id="{ids[title]}-h">{title}</h2>{body}</section>\n'
            for title, body in sections.items()
        ),
        footer=f"A curve of {SMOOTHED_POINTS} points or more is drawn pale, its moving average "
        f"strong; one of more than {MAX_POINTS} points is averaged to so many first.",
        pairs=_pairs_json(pairs),
        script=SCRIPT,
    )
    path = workdir / REPORT_FILE
    temporary = path.with_suffix(".tmp")
    # Names and values may hold half a surrogate pair, which UTF-8 cannot: U+FFFD is shown.
    temporary.write_text(page, encoding="utf-8", errors="xmlcharrefreplace")
    os.replace(temporary, path)
    return path


def choose_pairs(workdir: Path, max_pairs: int) -> tuple[list[dict[str, Any]], int]:
    """Archived corrections to show, each with its "transition", and the number of all attempts.

    Steps are left out evenly, the first and the last kept, until at least two pairs a step fit in
    `max_pairs`; a step shows its transitions in turn, and different anchors before the same again.

    Args:
      workdir: the run directory.
      max_pairs: 0 shows none.
    """
    num_attempts = 0
    places: dict[tuple[str, int], None] = {}  # those with corrections, in order
    for attempt in read_attempts(workdir):
        num_attempts += 1
        if attempt["anchor"]:
            places[attempt["phase"], attempt["step"]] = None
    if not places or max_pairs <= 0:
        return [], num_attempts
    share = min(max_pairs, max(2, max_pairs // len(places)))
    spread = np.linspace(0, len(places) - 1, min(len(places), max_pairs // share))
    pairs: list[dict[str, Any]] = []
    for phase, step in (list(places)[round(i)] for i in spread):
        by_anchor: dict[str, dict[Any, list]] = {kind: {} for kind in TRANSITIONS}
        for attempt in read_attempts(workdir, phase, {step}):
            if anchor := attempt["anchor"]:
                rights = [o == Outcome.CORRECT for o in (anchor["outcome"], attempt["outcome"])]
                kind = "2".join("wr"[right] for right in rights)
                same = by_anchor[kind].setdefault((attempt["problem_id"], anchor["text"]), [])
                same.append({**attempt, "transition": kind})
        by_kind = [_in_turn(groups.values()) for groups in by_anchor.values()]
        # Another transition goes first each time, so that few pairs a step still show all four.
        first = len(pairs) % len(TRANSITIONS)
        pairs += _in_turn(by_kind[first:] + by_kind[:first])[:share]
    return pairs, num_attempts


def _in_turn(groups: Iterable[Sequence]) -> list:
    """The first of each group, the second of each, and so on."""
    missing = object()
    turns = itertools.zip_longest(*groups, fillvalue=missing)
    return [item for turn in turns for item in turn if item is not missing]


def _pairs_json(pairs: Sequence[Mapping[str, Any]]) -> str:
    """The pairs as ASCII json that is inert inside a <script> element.

    Below MAX_PAIR_BYTES, unless there are so many pairs that 100 characters a text are too much.
    """
    limit = MAX_TEXT
    while True:
        shown = [_shown(pair, limit) for pair in pairs]
        text = json.dumps(shown, separators=(",", ":"))
        for character in "<>&":
            text = text.replace(character, f"\\u{ord(character):04x}")
        if len(text) <= MAX_PAIR_BYTES or limit < 100:
            return text
        limit //= 2


def _shown(pair: Mapping[str, Any], limit: int) -> dict[str, Any]:
    """What the page tells of a pair; texts longer than `limit` characters lose their middle."""

    def cut(text: str | None) -> str | None:
        if text is None:
            return None
        # A cut byte sequence can decode to half a surrogate pair; browsers have crashed on those.
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        if len(text) <= limit:
            return text
        half = limit // 2
        return f"{text[:half]}\n[… {len(text) - 2 * half} characters left out …]\n{text[-half:]}"

    anchor = pair["anchor"]
    return {
        "where": f"{pair['phase']} {pair['step']}",
        "transition": pair["transition"],
        "id": cut(pair["problem_id"]),
        "question": cut(pair["question"]),
        "answer": cut(pair["answer"]),
        "trimmed": pair["trimmed"],
        "tokens": pair["completion_tokens"],
        "finished": pair["finished"],
        "before": [anchor["outcome"], cut(anchor["extracted"]), cut(anchor["text"])],
        "after": [pair["outcome"], cut(pair["extracted"]), cut(pair["text"])],
    }


def _pairs_section(pairs: Sequence[Mapping[str, Any]], num_attempts: int) -> str:
    if not num_attempts:
        return _nothing("No attempts are archived yet, or log.archive is off.")
    if not pairs:
        return _nothing(f"{num_attempts:,} attempts are archived; no corrections to show.")
    places = dict.fromkeys(f"{p['phase']} {p['step']}" for p in pairs)
    kinds = [p["transition"] for p in pairs]
    return BROWSER.format(
        about=f"{num_attempts:,} attempts are archived. Shown here: {len(pairs):,} corrections, "
        "chosen evenly over steps and transitions, so that their numbers are no rates.",
        steps="".join(f"<option>{html.escape(place)}</option>" for place in places),
        kinds="".join(
            f'<option value="{kind}">{words} ({kinds.count(kind)})</option>'
            for kind, words in TRANSITIONS.items()
        ),
    )


def _figures(by_phase: Mapping[str, Records], group: Sequence[Plot]) -> str:
    """The figures of one section, and a line on those without data."""
    drawn = {plot.title: figure(plot, by_phase.get(plot.phase, [])) for plot in group}
    missing = [html.escape(title) for title, element in drawn.items() if element is None]
    body = "".join(element for element in drawn.values() if element is not None)
    grid = f'<div class="figures">{body}</div>' if body else ""
    return grid + (_nothing(f"No data: {'; '.join(missing)}.") if missing else "")


def _before_after(evaluations: Records, pass_at: Sequence[str]) -> str:
    """The table of the first and the last evaluation with their differences."""
    if not evaluations:
        return _nothing("No evaluation yet.")
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
        body += f'<tr><th scope="row">{html.escape(label)}</th>'
        body += "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
    single = _nothing("One evaluation so far: nothing to compare yet.") if first is last else ""
    errors = '<p class="note">± is one standard error over problems.</p>' if "±" in body else ""
    return single + (
        '<div class="scroll" tabindex="0" role="region" aria-label="Before and after">'
        f'<table class="numbers"><thead><tr><th scope="col">Held-out problems</th>'
        f'<th scope="col">step {first["step"]}</th><th scope="col">step {last["step"]}</th>'
        f'<th scope="col">difference</th></tr></thead><tbody>{body}</tbody></table></div>{errors}'
    )


def _quantity(value: float, unit: str, error: float | None = None, signed: bool = False) -> str:
    """A number of the table; shares are in percent, their differences in percentage points."""
    if not math.isfinite(value):
        return "–"
    scale, suffix = (100, " pts" if signed else "%") if unit == "points" else (1, "")
    text = f"{value * scale:{'+' if signed else ''}.1f}{suffix}".replace("-", "−")
    return text if error is None else f"{text} <small>± {error * scale:.1f}</small>"


def _facts(records: Records, config: Mapping[str, Any], num_attempts: int) -> str:
    """The run in a few numbers, and the values that were not finite."""
    train = [r for r in records if r["phase"] == "train"]

    def total(name: str) -> float:
        return sum(r[name] for r in train if math.isfinite(r.get(name, math.nan)))

    wanted = config.get("num_steps", {}).get("value")
    facts = {
        "RL steps": f"{len(train):,}" + (f" of {wanted:,}" if isinstance(wanted, int) else ""),
        "Tokens sampled": f"{total('tokens/sampled'):,.0f}",
        "Tokens trained": f"{total('tokens/trained'):,.0f}",
        "Time in RL steps": format_duration(total("time/step")),
        "Attempts archived": f"{num_attempts:,}",
    }
    items = "".join(f"<div><dt>{k}</dt><dd>{html.escape(v)}</dd></div>" for k, v in facts.items())
    broken: dict[str, list[str]] = {}
    for record in records:
        for name, value in record.items():
            if isinstance(value, float) and not math.isfinite(value):
                broken.setdefault(name, []).append(f"{record['phase']} {record['step']}")
    warning = "".join(
        f"<li><code>{html.escape(name)}</code> at {html.escape(', '.join(places[:5]))}"
        f"{f' and {len(places) - 5} more' if len(places) > 5 else ''}</li>"
        for name, places in broken.items()
    )
    if warning:
        warning = f'<div class="warning"><b>Values that were not finite</b><ul>{warning}</ul></div>'
    return f"<dl>{items}</dl>{warning}"


def _config_section(config: Mapping[str, Any]) -> str:
    if not config:
        return _nothing("No config.json in this run directory.")
    rows = {
        key: f'<tr><th scope="row"><code>{html.escape(key)}</code></th>'
        f"<td><code>{html.escape(json.dumps(entry['value'], ensure_ascii=False))}</code></td>"
        f"<td>{html.escape(entry['source'])}</td></tr>"
        for key, entry in config.items()
    }
    changed = [row for key, row in rows.items() if config[key]["source"] != "default"]
    default = [row for key, row in rows.items() if config[key]["source"] == "default"]
    return (
        _table(changed, "Set by the config file or the command line")
        if changed
        else _nothing("Every value is the default.")
    ) + (
        f"<details><summary>{len(default)} values at their default</summary>"
        f"{_table(default, 'Defaults')}</details>"
    )


def _table(rows: Sequence[str], label: str) -> str:
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{label}"><table><thead><tr>'
        '<th scope="col">key</th><th scope="col">value</th><th scope="col">source</th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _nothing(text: str) -> str:
    return f'<p class="nothing">{text}</p>'


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
