"""The table before and after: the first and the last evaluation, each number with its cases.

Values are those of metrics.jsonl. Of how many cases each is, and how uncertain it is, is counted in
the archived attempts; where those are not kept, the table says so and shows what metrics.jsonl
tells. Intervals are 95%, over problems; formulas are in `run/statistics.py`.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from cipo_jax.report.blocks import Block, Cell, Kind, Note, Table
from cipo_jax.run.comparison import Counts
from cipo_jax.run.statistics import NORMAL, pass_at_k, share_difference, share_estimate
from cipo_jax.types import Outcome

_LENGTH, _GAIN, _LINES = "eval/length/mean", "eval/correction/w2r_gain", "eval/lines_true"
_FIRST, _FIRST_GAIN = "eval/first_wrong/w2r", "eval/first_wrong/w2r_gain"
# Shares: the end of a metric's name, what it is, and of what.
_OF_CORRECTIONS = (
    ("accuracy_before", "right before it was corrected", "attempts"),
    ("accuracy_after", "right after a correction", "corrections"),
    ("w2r", "wrong → right: mended by a correction", "wrong attempts"),
    ("r2r", "right → right: kept by a correction", "right attempts"),
)


class Measure(NamedTuple):
    """A row of the table: a metric, what it is in plain words, and of what it is a share or a
    mean."""

    metric: str
    label: str
    cases: str


class Counted(NamedTuple):
    """What an archive says of a metric: for each problem two numbers, of which the metric is the
    ratio of sums, {} if it does not tell them, and of how many cases that is."""

    ratios: Mapping[str, tuple[float, float]]
    cases: str


def measures(pass_at: Sequence[str]) -> list[Measure]:
    """The rows, in order; `pass_at` as of `plots.pass_at_names`."""
    found = []
    for name in pass_at:
        k = name.partition("@")[2]
        words = "first attempt right" if k == "1" else f"one of {k} attempts right"
        found.append(Measure(name, f"{words} (pass@{k})", "attempts"))
    for prefix, whose in (("correction", ""), ("given", "given attempts, ")):
        found += [
            Measure(f"eval/{prefix}/{name}", whose + label, cases)
            for name, label, cases in _OF_CORRECTIONS
        ]
    found += [
        Measure(_GAIN, "mended by a correction, minus by trying again", "wrong attempts"),
        Measure(_FIRST, "wrong at first: mended by a correction", "wrong attempts"),
        Measure(_FIRST_GAIN, "the same, minus by trying again", "wrong attempts"),
        Measure(_LINES, "lines of attempts that are true", "attempts"),
        Measure("eval/no_answer", "no answer found", "attempts"),
    ]
    return [*found, Measure(_LENGTH, "length, tokens", "attempts")]


def before_after(
    ends: Mapping[int, Counts], evaluations: Sequence[Mapping[str, Any]], pass_at: Sequence[str]
) -> list[Block]:
    """The first and the last of `evaluations`, which are in order of steps, with their differences.

    Args:
      ends: what `comparison.count_ends` gives for them.
      pass_at: as of `plots.pass_at_names`.
    """
    if not evaluations:
        return [Note("No evaluation yet.")]
    both = [evaluations[0], evaluations[-1]][: len(evaluations)]
    wanted = [*measures(pass_at), *_rounds(both[-1])]
    counted = {e["step"]: _counted(ends[e["step"]], wanted) for e in both}
    rows: list[tuple[Cell, ...]] = []
    for measure in wanted:
        values = [evaluation.get(measure.metric, math.nan) for evaluation in both]
        if not np.isfinite(values).any():
            continue
        errors = [evaluation.get(f"{measure.metric}_stderr") for evaluation in both]
        sides = [
            counted[evaluation["step"]].get(measure.metric) if math.isfinite(value) else None
            for evaluation, value in zip(both, values, strict=True)
        ]
        cells = zip(values, errors, sides, strict=True)
        shown = [_cell(measure.metric, *cell) for cell in cells]
        if len(both) == 2:
            shown.append(_difference(measure.metric, values, errors, sides))
        rows.append((measure.label, *shown))
    columns = ["Held-out problems", *(f"step {e['step']}" for e in both), "difference"]
    columns = columns[: 2 * len(both)]
    kinds: tuple[Kind, ...] = ("text", "estimate", "estimate", "estimate")
    blocks: list[Block] = [Table("Before and after", columns, rows, kinds, numbers=True)]
    if len(both) == 1:
        blocks.insert(0, Note("One evaluation so far: nothing to compare yet."))
    if any(isinstance(cell, tuple) and len(cell) > 1 for row in rows for cell in row):
        words = "In brackets: 95% intervals over problems; those of differences are paired."
        blocks.append(Note(words, "note"))
    if missing := [str(step) for step, found in sorted(counted.items()) if not found]:
        blocks.append(
            Note(
                f"The attempts of the evaluation at step {' and at step '.join(missing)} are not "
                "archived: the number of cases is not known, and intervals are from standard "
                "errors, where metrics.jsonl has any."
            )
        )
    return blocks


def _counted(counts: Counts, wanted: Sequence[Measure]) -> dict[str, Counted]:
    """{metric: what the attempts of an evaluation say of it}, as far as they have a case."""
    rights = counts.rights()
    sums: dict[str, dict[str, tuple[float, float]]] = {
        _LENGTH: {p: (sum(of), len(of)) for p, of in counts.lengths.items()},
        "eval/no_answer": {
            p: (of.count(Outcome.NO_ANSWER), len(of)) for p, of in counts.outcomes.items()
        },
        **_of_corrections("eval/correction", counts.own),
        **_of_corrections("eval/given", counts.given),
    }
    # At the first evaluation these are its own.
    sums[_FIRST] = _of_corrections("eval", counts.first or counts.own).get("eval/w2r", {})
    # The gain is of wrong attempts beside which there is another one, lines are those of all
    # attempts, also without a verdict.
    others = {
        _GAIN: sum(int(of[0].sum()) for p, of in counts.own.items() if len(rights.get(p, ())) > 1),
        _FIRST_GAIN: int(sum(of[0].sum() for of in (counts.first or counts.own).values())),
        _LINES: sum(map(len, counts.lengths.values())),
    }
    found = {}
    for measure in wanted:
        if measure.metric.startswith("eval/pass@"):
            k = int(measure.metric.partition("@")[2])
            if ratios := _pass_at(k, rights):
                cases = _problems(len(ratios))
                if k == 1:
                    total, good = sum(map(len, rights.values())), sum(map(sum, rights.values()))
                    cases = f"{good:,} of {total:,} attempts at {cases}"
                found[measure.metric] = Counted(ratios, cases)
        elif of := sums.get(measure.metric):
            above, below = np.sum([*of.values()], axis=0)
            cases = f"{below:,.0f} {measure.cases}"
            if measure.metric != _LENGTH:
                cases = f"{above:,.0f} of {cases}"
            found[measure.metric] = Counted(of, cases)
        elif number := others.get(measure.metric):
            found[measure.metric] = Counted({}, f"{number:,} {measure.cases}")
    return found


def _of_corrections(
    prefix: str, counts: Mapping[str, np.ndarray]
) -> dict[str, dict[str, tuple[float, float]]]:
    """{metric: {problem: (above, below)}} as in `Counted`, of problems with a case.

    Args:
      counts: as `comparison.Corrections`.
    """
    sums: dict[str, dict[str, tuple[float, float]]] = {}
    for problem, of in counts.items():
        (_, w2r), (_, r2r) = of.tolist()
        (wrong, right), after = of.sum(axis=1).tolist(), w2r + r2r
        ratios = {
            "accuracy_before": (right, wrong + right),
            "accuracy_after": (after, wrong + right),
            "r2r": (r2r, right),
            "w2r": (w2r, wrong),
        }
        for name, (above, below) in ratios.items():
            if below:
                sums.setdefault(f"{prefix}/{name}", {})[problem] = (above, below)
    return sums


def _pass_at(k: int, rights: Mapping[str, Sequence[bool]]) -> dict[str, tuple[float, float]]:
    """pass@k of each problem with k verdicts, and 1: the metric is the mean over problems."""
    known = {problem: of for problem, of in rights.items() if len(of) >= k}
    return {p: (float(pass_at_k(np.array([of]), k)[0]), 1.0) for p, of in known.items()}


def _cell(
    metric: str, value: float, error: float | None, counted: Counted | None
) -> tuple[str, ...]:
    """A number, its interval, and the cases behind it, as far as they are known."""
    signed = metric.endswith("_gain")  # a difference of shares by itself
    number = _number(metric, value, signed)
    if counted is not None and counted.ratios:
        above, below = np.array([*counted.ratios.values()]).T
        of = share_estimate(above, below)
        low, high = of.low, of.high
        if metric == _LENGTH:  # no share
            low, high = of.value - NORMAL * of.stderr, of.value + NORMAL * of.stderr
        return number, _interval(metric, low, high), counted.cases
    if not math.isfinite(value):
        return (number,)
    cases = () if counted is None else (counted.cases,)
    if error is None:
        return number, *cases
    low, high = value - NORMAL * error, value + NORMAL * error
    return number, _interval(metric, low, high, signed), *cases


def _difference(
    metric: str,
    values: Sequence[float],
    errors: Sequence[float | None],
    sides: Sequence[Counted | None],
) -> tuple[str, ...]:
    """The last value minus the first."""
    gain = values[1] - values[0]
    number = _number(metric, gain, signed=True)
    if not math.isfinite(gain):
        return (number,)
    first, last = sides
    if first is None or last is None or not (first.ratios and last.ratios):
        if None in errors:
            return (number,)
        half = NORMAL * math.hypot(*filter(None, errors))
        return number, _interval(metric, gain - half, gain + half, signed=True)
    # A problem without a case on one side adds nothing to the sums of that side.
    problems = sorted(first.ratios.keys() | last.ratios.keys())
    pairs = [np.array([of.ratios.get(p, (0.0, 0.0)) for p in problems]).T for of in (last, first)]
    cases = _problems(len(problems))
    if (pairs[0] == pairs[1]).all():  # resampling would give an interval of no width
        return number, f"equal in {cases}"
    low, high = share_difference(*((above, below) for above, below in pairs))
    return number, _interval(metric, low, high, signed=True), cases


def _rounds(evaluation: Mapping[str, Any]) -> list[Measure]:
    """The rows of correction rounds, as far as the evaluation has any."""
    rows = {
        "accuracy": ("right after {} rounds of correction", "corrections"),
        "solved_gain": (
            "right at any time in {} rounds, minus pass@k of as many tokens",
            "problems",
        ),
    }
    found = []
    for metric in evaluation:
        start, _, name = metric.rpartition("/")
        if start.startswith("eval/correction/round_") and name in rows:
            label, cases = rows[name]
            found.append(Measure(metric, label.format(start.rpartition("_")[2]), cases))
    return found


def _problems(count: int) -> str:
    return f"{count:,} problem{'s' * (count != 1)}"


def _number(metric: str, value: float, signed: bool = False) -> str:
    """A share in percent, a difference of shares (`signed`) in percentage points."""
    if not math.isfinite(value):
        return "–"
    scale, unit = (1, "") if metric == _LENGTH else (100, " pts" if signed else "%")
    return f"{value * scale:{'+' if signed else ''}.1f}{unit}".replace("-", "−")


def _interval(metric: str, low: float, high: float, signed: bool = False) -> str:
    scale, sign = (1 if metric == _LENGTH else 100), "+" if signed else ""
    return f"[{low * scale:{sign}.1f}, {high * scale:{sign}.1f}]".replace("-", "−")
