"""Whether a run has learned anything, and to correct itself, in three lines, from its directory.

The first and the last evaluation are compared on the same problems (from the archive, paired; else
by their standard errors). As in the evaluations, attempts without a verdict are left out. Decided
here: what counts as learned, as no difference, as nothing to learn from and as collapsed. Formulas
are in `statistics.py`.
"""

import collections
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cipo_jax.run.comparison import Corrections, Counts, count_ends
from cipo_jax.run.records.metrics_file import read_metrics
from cipo_jax.run.statistics import normal_interval, paired_difference, share_difference
from cipo_jax.run.watch.learning import findings, teaches_nothing

_PASS, _STDERR = "eval/pass@1", "eval/pass@1_stderr"
_MENDED_FIRST = "eval/first_wrong/w2r"
# Another attempt, where the one that is corrected was wrong: now, and at the first evaluation.
_ANOTHER, _ANOTHER_FIRST = "eval/correction/resampled_w2r", "eval/first_wrong/resampled_w2r"
_MOST = 0.5  # of the steps


def verdicts(workdir: Path, ends: Mapping[int, Counts] | None = None) -> list[str]:
    """What a run has learned, and, where corrections are evaluated, what they are worth, a line for
    each sentence.

    Args:
      ends: what `count_ends` gives for the run's evaluations, if the caller has it.

    Raises:
      CipoError: metrics or archive are damaged.
    """
    lines = read_metrics(workdir)
    evaluations = [line for line in lines if line["phase"] == "eval"]
    if len(evaluations) < 2:
        return [on_learning(lines, None)]
    counts = ends or count_ends(workdir, evaluations)
    first, last = evaluations[0], evaluations[-1]
    ends_of = counts[first["step"]], counts[last["step"]]
    found = [on_learning(lines, ends_of)]
    if all(of.own for of in ends_of):
        found += [on_corrections(ends_of[1]), on_wrong_attempts((first, last), ends_of)]
    return [line for line in found if line]


def on_learning(lines: Sequence[Mapping[str, Any]], counts: tuple[Counts, Counts] | None) -> str:
    """One line, beginning with "learned", "no difference", "nothing to learn from", "collapsed" or
    "no verdict".

    learned                 the 95% interval of the difference in pass@1 is above 0
    collapsed               it is below 0
    nothing to learn from   it holds 0, and most steps had no gradient or no group whose rewards
                            differ
    no difference           it holds 0
    no verdict              no interval is known

    Args:
      lines: of metrics.jsonl.
      counts: of the first and the last evaluation; None where there are no two.
    """
    train = [line for line in lines if line["phase"] == "train"]
    evaluations = {line["step"]: line for line in lines if line["phase"] == "eval"}
    idle = [line for line in train if line.get("grad_norm") == 0 or teaches_nothing(line)]
    nothing = bool(train) and len(idle) > _MOST * len(train)
    if counts is None:
        told = f"; so far {_why(idle, train)}" if nothing else ""
        return f"no verdict yet: it takes two evaluations, there are {len(evaluations)}{told}"
    first, last = min(evaluations), max(evaluations)
    compared = _compare(evaluations[first], evaluations[last], *counts)
    if compared is None:
        return (
            f"no verdict: the evaluations have no {_PASS} with a standard error, and no judged "
            "attempt in the archive"
        )
    before, after, low, high, how = compared
    known = math.isfinite(low)
    interval = f"95% interval {100 * low:+.1f} to {100 * high:+.1f}, {how}" if known else how
    numbers = (
        f"pass@1 {before:.1%} at step {first}, {after:.1%} at step {last}, difference "
        f"{100 * (after - before):+.1f} points ({interval})"
    )
    if low > 0:
        return f"learned: {numbers}"
    if high < 0:
        return f"collapsed: {numbers}"
    if nothing:
        return f"nothing to learn from: {_why(idle, train)}; {numbers}"
    return f"{'no difference' if known else 'no verdict'}: {numbers}"


def on_corrections(counts: Counts) -> str:
    """One line: the accuracy after corrections of the policy's own attempts beside that of the
    attempts.

    Args:
      counts: of the last evaluation, with corrections.
    """
    (of,) = _of_each_problem(counts.own)  # [problems, quoted attempt right, correction right]
    after, before, corrections = of[:, :, 1].sum(axis=1), of[:, 1].sum(axis=1), of.sum(axis=(1, 2))
    rates = (f"{right.sum() / corrections.sum():.1%}" for right in (after, before))
    worth = _points((after, corrections), (before, corrections))
    return f"corrections: right after a correction {', before it '.join(rates)}: {worth}"


def on_wrong_attempts(
    evaluations: tuple[Mapping[str, Any], Mapping[str, Any]], counts: tuple[Counts, Counts]
) -> str:
    """One line: the share mended of the own attempts that were wrong at the first evaluation, then
    and at the last, which are the same; where these were not followed, of those that were wrong at
    each, of ever harder problems. Shares that are mended stand beside what another attempt is
    worth. "" where an evaluation has no correction of a wrong attempt.

    Args:
      evaluations: the first and the last, lines of metrics.jsonl.
      counts: of these two.
    """
    before, after = counts
    (first, last), (steps, now) = evaluations, [e["step"] for e in evaluations]
    # A run whose first evaluation is of an older version has not followed its wrong attempts.
    followed = _MENDED_FIRST in first and bool(after.first)
    old, new = map(_mended, _of_each_problem(before.own, after.first if followed else after.own))
    if not old[1].any() or not new[1].any():
        return ""
    wrong = old[1].sum()
    if not followed:
        parts = [f"mended {_share(old)} of {wrong}, then {_share(new)} of {new[1].sum()}"]
    else:
        parts = [
            f"of {wrong} at step {steps}, mended then {_share(old)}, at step {now} {_share(new)}"
        ]
    parts[0] += f": {_points(new, old)}"
    another = _ANOTHER_FIRST if followed else _ANOTHER
    if another in first and another in last:
        parts.append(
            f"another attempt is right in {first[another]:.1%}, then in {last[another]:.1%}"
        )
    (left,) = map(_mended, _of_each_problem(after.own))
    if followed and left[1].any():
        parts.append(f"of {left[1].sum()} at step {now}, mended {_share(left)}")
        if _ANOTHER in last:
            parts.append(f"another attempt is right in {last[_ANOTHER]:.1%}")
    return "wrong attempts: " + "; ".join(parts)


def _of_each_problem(*sides: Corrections) -> list[np.ndarray]:
    """[problems, quoted attempt right, correction right] of each side, in one order."""
    problems = sorted(set().union(*sides))
    none = np.zeros((2, 2), int)
    return [np.array([of.get(i, none) for i in problems]) for of in sides]


def _mended(corrections: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """([problems] wrong attempts that were corrected, [problems] all of them)."""
    return corrections[:, 0, 1], corrections[:, 0].sum(axis=1)


def _share(of: tuple[np.ndarray, np.ndarray]) -> str:
    return f"{of[0].sum() / of[1].sum():.1%}"


def _points(a: tuple[np.ndarray, np.ndarray], b: tuple[np.ndarray, np.ndarray]) -> str:
    """Share a minus share b, with its interval over the problems that have a case."""
    has = (a[1] + b[1]) > 0
    low, high = share_difference((a[0][has], a[1][has]), (b[0][has], b[1][has]))
    difference = a[0].sum() / a[1].sum() - b[0].sum() / b[1].sum()
    return (
        f"{100 * difference:+.1f} points (95% interval {100 * low:+.1f} to {100 * high:+.1f}, "
        "over problems)"
    )


def _why(idle: Sequence[Mapping[str, Any]], train: Sequence[Mapping[str, Any]]) -> str:
    """How many steps taught nothing, and what was found in most of them."""
    marks = collections.Counter(
        finding.mark.rstrip("%0123456789").strip() for line in idle for finding in findings(line)
    )
    common = [mark for mark, count in marks.items() if count > _MOST * len(idle)]
    causes = f" ({', '.join(common)})" if common else ""
    return f"{len(idle)} of {len(train)} steps had nothing to learn from{causes}"


def _compare(
    first: Mapping[str, Any], last: Mapping[str, Any], before: Counts, after: Counts
) -> tuple[float, float, float, float, str] | None:
    """pass@1 before and after, the interval of the difference, and how that was computed.

    Args:
      first, last: the evaluations' metrics.
      before, after: and their attempts.
    """
    rates = [{i: np.mean(of) for i, of in side.rights().items()} for side in (before, after)]
    if shared := sorted(rates[0].keys() & rates[1].keys()):
        old, new = (np.array([[side[i] for i in shared]]) for side in rates)
        d = paired_difference(new, old)
        how = f"paired over {len(shared)} problems"
        return float(old.mean()), float(new.mean()), d.low, d.high, how
    if not all({_PASS, _STDERR} <= line.keys() for line in (first, last)):
        return None
    gain, errors = last[_PASS] - first[_PASS], (first[_STDERR], last[_STDERR])
    low, high = normal_interval(gain, *errors)
    how = "from standard errors"
    if not math.isfinite(low):
        how = "without an interval, as both standard errors are 0 and no attempts are archived"
    return first[_PASS], last[_PASS], low, high, how
