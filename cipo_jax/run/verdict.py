"""Whether a run has learned anything, and to correct itself, in two sentences, from its directory.

The first and the last evaluation are compared on the same problems (from the archive, paired; else
by their standard errors). As in the evaluations, attempts without a verdict are left out. Decided
here: what counts as learned, as no difference, as nothing to learn from and as collapsed. Formulas
are in `statistics.py`.
"""

import collections
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cipo_jax.run.comparison import is_judged, stream_of
from cipo_jax.run.records.archive import read_attempts
from cipo_jax.run.records.metrics_file import read_metrics
from cipo_jax.run.statistics import paired_difference, share_difference
from cipo_jax.run.watch.learning import findings, teaches_nothing
from cipo_jax.types import Outcome

_PASS = "eval/pass@1"
_MOST = 0.5  # of the steps
_Z = 1.96  # of a 95% interval, where there are only standard errors


def verdicts(workdir: Path) -> list[str]:
    """What a run has learned, and, where corrections are evaluated, what they are worth.

    Raises:
      CipoError: metrics or archive are damaged.
    """
    return [line for line in (verdict(workdir), on_corrections(workdir)) if line]


def verdict(workdir: Path) -> str:
    """One line, beginning with "learned", "no difference", "nothing to learn from", "collapsed" or
    "no verdict yet".

    learned                 the 95% interval of the difference in pass@1 is above 0
    collapsed               it is below 0
    nothing to learn from   it holds 0, and most steps had no gradient or no group whose rewards
                            differ
    no difference           it holds 0

    Raises:
      CipoError: metrics or archive are damaged.
    """
    lines = read_metrics(workdir)
    train = [line for line in lines if line["phase"] == "train"]
    evaluations = {line["step"]: line for line in lines if line["phase"] == "eval"}
    idle = [line for line in train if line.get("grad_norm") == 0 or teaches_nothing(line)]
    nothing = bool(train) and len(idle) > _MOST * len(train)
    steps = sorted(evaluations)
    if len(steps) < 2:
        told = f"; so far {_why(idle, train)}" if nothing else ""
        return f"no verdict yet: it takes two evaluations, there are {len(steps)}{told}"
    compared = _compare(workdir, evaluations[steps[0]], evaluations[steps[-1]])
    if compared is None:
        return f"no verdict: the evaluations have no {_PASS}, and no judged attempt in the archive"
    before, after, low, high, how = compared
    numbers = (
        f"pass@1 {before:.1%} at step {steps[0]}, {after:.1%} at step {steps[-1]}, difference "
        f"{100 * (after - before):+.1f} points (95% interval {100 * low:+.1f} to "
        f"{100 * high:+.1f}, {how})"
    )
    if low > 0:
        return f"learned: {numbers}"
    if high < 0:
        return f"collapsed: {numbers}"
    if nothing:
        return f"nothing to learn from: {_why(idle, train)}; {numbers}"
    return f"no difference: {numbers}"


def on_corrections(workdir: Path) -> str:
    """One line on corrections of the policy's own attempts, from the archive: the share of wrong
    attempts mended in the first and in the last evaluation, and the accuracy of the last one's
    corrections beside that of the attempts they correct. "" where one of the two has none.

    Raises:
      CipoError: metrics or archive are damaged.
    """
    steps = [line["step"] for line in read_metrics(workdir) if line["phase"] == "eval"]
    # step -> problem -> [corrections, their attempts right, they right, attempts wrong, mended]
    counts: dict[int, dict[str, np.ndarray]] = {}
    for attempt in read_attempts(workdir, "eval", {min(steps), max(steps)} if steps else ()):
        if stream_of(attempt) == "own" and is_judged(attempt):
            before = attempt["anchor"]["outcome"] == Outcome.CORRECT
            after = attempt["outcome"] == Outcome.CORRECT
            of_problem = counts.setdefault(attempt["step"], {})
            one = np.array([1, before, after, not before, after and not before])
            of_problem[attempt["problem_id"]] = of_problem.get(attempt["problem_id"], 0) + one
    if len(counts) < 2:
        return ""
    problems = sorted(set().union(*counts.values()))
    first, last = (
        np.array([counts[step].get(i, np.zeros(5, int)) for i in problems]).T
        for step in sorted(counts)
    )
    parts = []
    if first[3].any() and last[3].any():
        mended = _points((last[4], last[3]), (first[4], first[3]))
        shares = (f"{of[4].sum() / of[3].sum():.1%} of {of[3].sum()}" for of in (first, last))
        parts.append(f"wrong attempts mended {', then '.join(shares)}: {mended}")
    rates = (f"{last[i].sum() / last[0].sum():.1%}" for i in (2, 1))
    worth = _points((last[2], last[0]), (last[1], last[0]))
    parts.append(f"right after a correction {', before it '.join(rates)}: {worth}")
    return "corrections: " + "; ".join(parts)


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
    workdir: Path, first: Mapping[str, Any], last: Mapping[str, Any]
) -> tuple[float, float, float, float, str] | None:
    """pass@1 before and after, the interval of the difference, and how that was computed."""
    places = first["step"], last["step"]
    right: dict[int, dict[str, list[bool]]] = {step: {} for step in places}
    for attempt in read_attempts(workdir, "eval", places):
        if attempt["anchor"] is None and is_judged(attempt):
            outcomes = right[attempt["step"]].setdefault(attempt["problem_id"], [])
            outcomes.append(attempt["outcome"] == Outcome.CORRECT)
    if shared := sorted(right[places[0]].keys() & right[places[1]].keys()):
        before, after = (np.array([[np.mean(right[s][i]) for i in shared]]) for s in places)
        d = paired_difference(after, before)
        how = f"paired over {len(shared)} problems"
        return float(before.mean()), float(after.mean()), d.low, d.high, how
    if _PASS not in first or _PASS not in last:
        return None
    gain = last[_PASS] - first[_PASS]
    errors = [line.get(f"{_PASS}_stderr", 0.0) for line in (first, last)]
    half = _Z * float(np.hypot(*errors))
    return first[_PASS], last[_PASS], gain - half, gain + half, "from standard errors"
