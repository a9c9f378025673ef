"""The table before and after: the first and the last evaluation, each number with its cases.

Values are those of metrics.jsonl. Of how many cases each is, and how uncertain it is, is counted in
the archived attempts; where those are not kept, the table says so and shows what metrics.jsonl
tells. Intervals are 95%, over problems, and left out where none is known; formulas are in
`run/statistics.py`.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from cipo_jax.report.blocks import Block, Cell, Kind, Note, Table
from cipo_jax.run.comparison import Counts
from cipo_jax.run.statistics import (
    difference_by_seed,
    estimate,
    gain_estimate,
    normal_interval,
    pass_at_k,
    share_estimate,
)
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
    ratio of sums, {} if it does not tell them, and of how many cases that is. Of a gain there is a
    third number: the numerator of the share that is taken off."""

    ratios: Mapping[str, tuple[float, ...]]
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
    unpaired = []  # the rows whose differences have an interval from standard errors
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
            if len(shown[-1]) > 1 and not all(side and side.ratios for side in sides):
                unpaired.append(measure.label)
        rows.append((measure.label, *shown))
    columns = ["Held-out problems", *(f"step {e['step']}" for e in both), "difference"]
    columns = columns[: 2 * len(both)]
    kinds: tuple[Kind, ...] = ("text", "estimate", "estimate", "estimate")
    blocks: list[Block] = [Table("Before and after", columns, rows, kinds, numbers=True)]
    if len(both) == 1:
        blocks.insert(0, Note("One evaluation so far: nothing to compare yet."))
    if any(isinstance(cell, tuple) and len(cell) > 1 for row in rows for cell in row):
        words = "In brackets: 95% intervals over problems; those of differences are paired"
        if unpaired:
            words += ", but from standard errors, as if the evaluations were independent, for: "
        blocks.append(Note(f"{words}{'; '.join(unpaired)}.", "note"))
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
    of_first = counts.first or counts.own  # at the first evaluation these are its own
    sums: dict[str, dict[str, tuple[float, ...]]] = {
        _LENGTH: {p: (sum(of), len(of)) for p, of in counts.lengths.items()},
        "eval/no_answer": {
            p: (of.count(Outcome.NO_ANSWER), len(of)) for p, of in counts.outcomes.items()
        },
        **_of_corrections("eval/correction", counts.own),
        **_of_corrections("eval/given", counts.given),
        _FIRST: _of_corrections("eval", of_first).get("eval/w2r", {}),
        _GAIN: _gains(counts.own, rights, 1),
        _FIRST_GAIN: _gains(of_first, rights, 0 if counts.first else 1),
    }
    # Lines are those of all attempts, also without a verdict.
    others = {_LINES: sum(map(len, counts.lengths.values()))}
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
            above, below, *_ = np.sum([*of.values()], axis=0)
            cases = f"{below:,.0f} {measure.cases}"
            if measure.metric not in (_LENGTH, _GAIN, _FIRST_GAIN):
                cases = f"{above:,.0f} of {cases}"
            found[measure.metric] = Counted(of, cases)
        elif number := others.get(measure.metric):
            found[measure.metric] = Counted({}, f"{number:,} {measure.cases}")
    return found


def _gains(
    counts: Mapping[str, np.ndarray], rights: Mapping[str, Sequence[bool]], same: int
) -> dict[str, tuple[float, ...]]:
    """{problem: three numbers as in `Counted`} of wrong attempts beside which there is another one:
    mended, all, and right if they were tried again.

    Args:
      counts: as `comparison.Corrections`.
      rights: whether each attempt at a problem is right.
      same: how many of these a wrong attempt is itself.
    """
    found: dict[str, tuple[float, ...]] = {}
    for problem, ((failed, mended), _) in counts.items():
        of = rights.get(problem, ())
        if (wrong := int(failed + mended)) and len(of) > same:
            found[problem] = float(mended), float(wrong), wrong * sum(of) / (len(of) - same)
    return found


def _of_corrections(
    prefix: str, counts: Mapping[str, np.ndarray]
) -> dict[str, dict[str, tuple[float, ...]]]:
    """{metric: {problem: (above, below)}} as in `Counted`, of problems with a case.

    Args:
      counts: as `comparison.Corrections`.
    """
    sums: dict[str, dict[str, tuple[float, ...]]] = {}
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
        above, below, *another = np.array([*counted.ratios.values()]).T
        if metric == _LENGTH:  # no share
            mean = estimate(above, below)
            low, high = normal_interval(mean.value, mean.stderr)
        else:
            of = [gain_estimate(above, off, below) for off in another]
            share = of[0] if of else share_estimate(above, below)
            low, high = share.low, share.high
        return number, *_interval(metric, low, high, signed), counted.cases
    if not math.isfinite(value):
        return (number,)
    cases = () if counted is None else (counted.cases,)
    if error is None:
        return number, *cases
    return number, *_interval(metric, *normal_interval(value, error), signed), *cases


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
        known = [error for error in errors if error is not None]
        return number, *_interval(metric, *normal_interval(gain, *known), signed=True)
    problems = sorted(first.ratios.keys() | last.ratios.keys())
    now, then = (_ratio(of.ratios, problems) for of in (last, first))
    cases = _problems(len(problems))
    if np.array_equal(now, then):  # resampling would give an interval of no width
        return number, f"equal in {cases}"
    d = difference_by_seed(now, then, share=metric not in (_LENGTH, _GAIN, _FIRST_GAIN))
    return number, *_interval(metric, d.low, d.high, signed=True), cases


def _ratio(
    ratios: Mapping[str, tuple[float, ...]], problems: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """([1, N] numerators, of a gain with the other share taken off; [1, N] denominators). A problem
    without a case adds nothing to the sums."""
    found = [ratios.get(problem, (0.0, 0.0)) for problem in problems]
    above = [numerator - sum(off) for numerator, _, *off in found]
    return np.array([above]), np.array([[of[1] for of in found]])


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


def _interval(metric: str, low: float, high: float, signed: bool = False) -> tuple[str, ...]:
    """One line; none for an interval that is not known."""
    if not math.isfinite(low):
        return ()
    scale, sign = (1 if metric == _LENGTH else 100), "+" if signed else ""
    return (f"[{low * scale:{sign}.1f}, {high * scale:{sign}.1f}]".replace("-", "−"),)
