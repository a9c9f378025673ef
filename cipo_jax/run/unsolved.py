"""Training problems that no attempt has solved yet: do right attempts follow right corrections?

Read from the archived attempts of a run whose training problems recur. A visit is a step with
attempts at a problem. A problem is followed from its first visit for as long as none of its
attempts was right; at each such visit it is

    corrected       some correction of its attempts has been right, at this visit or before
    not corrected   corrections were tried, none has been right
    not put back    nothing was corrected

and what counts is its next visit: how many of its attempts are right there. Looking one visit ahead
gives all the same time. It does not make the three alike: a problem whose attempts can be corrected
is an easier one. So a difference between kinds of one run is no effect of corrections by itself;
that all unsolved problems of a run with corrections are solved sooner than those of one without is.
"""

import dataclasses
import itertools
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from cipo_jax.data.tasks.embedded import GENERATED
from cipo_jax.run.comparison import is_judged
from cipo_jax.run.records.archive import read_attempts
from cipo_jax.types import Outcome

KINDS = ("corrected", "not corrected", "not put back")


@dataclasses.dataclass
class NextVisits:
    """Of a problem without a right attempt.

    Attributes:
      visits: after which there was another one.
      solved: those whose next visit had a right attempt.
      rate: the sum over them of the share of right attempts there.
    """

    visits: int = 0
    solved: int = 0
    rate: float = 0.0


def may_recur(config: Mapping[str, Any]) -> bool:
    """Whether training problems of a config ({"section.key": value}) can come again: all but those
    of a generator that makes new ones at each step."""
    return config["data.train"] not in GENERATED or config["data.train_problems"] > 0


def next_visits(directory: Path) -> dict[str, dict[str, NextVisits]]:
    """{kind: {problem id: what followed}} of a run's archived training attempts; kinds without a
    visit that was followed by another are left out.

    Raises:
      CipoError: the archive is damaged.
    """
    return follow(read_attempts(directory, "train"))


def of_any_kind(found: Mapping[str, Mapping[str, NextVisits]]) -> dict[str, NextVisits]:
    """{problem id: what followed all its visits} of what `next_visits` gives."""
    problems: dict[str, NextVisits] = {}
    for of_kind in found.values():
        for problem, more in of_kind.items():
            of = problems.setdefault(problem, NextVisits())
            of.visits, of.solved = of.visits + more.visits, of.solved + more.solved
            of.rate += more.rate
    return problems


def follow(attempts: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, NextVisits]]:
    """As `next_visits`, of archived attempts in the order of steps."""
    # Of problems with attempts, none of them right: the kind of their last visit. Others are done.
    open_kinds: dict[str, str] = {}
    done: set[str] = set()
    found: dict[str, dict[str, NextVisits]] = {}
    for _, of_step in itertools.groupby(attempts, key=lambda attempt: attempt["step"]):
        rights: dict[str, list[bool]] = {}
        corrected: dict[str, bool] = {}
        for attempt in filter(is_judged, of_step):
            problem, right = attempt["problem_id"], attempt["outcome"] == Outcome.CORRECT
            if attempt["anchor"] is None:
                rights.setdefault(problem, []).append(right)
            else:
                corrected[problem] = corrected.get(problem, False) or right
        for problem, of in rights.items():
            if problem in done:
                continue
            kind = open_kinds.pop(problem, None)
            if kind is not None:
                after = found.setdefault(kind, {}).setdefault(problem, NextVisits())
                after.visits += 1
                after.solved += any(of)
                after.rate += sum(of) / len(of)
            if any(of):
                done.add(problem)
            else:  # the kind comes first in KINDS that has been true at any visit
                now = KINDS[{True: 0, False: 1, None: 2}[corrected.get(problem)]]
                open_kinds[problem] = min(now, kind or now, key=KINDS.index)
    return {kind: found[kind] for kind in KINDS if kind in found}
