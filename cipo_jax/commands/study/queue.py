"""Which run of a study is next, and on which cores, when several are under way at a time.

Decided here: the order that runs which build on others leave. What the runs are is decided in
`plan.py`, how one is carried out in `run.py`.
"""

import dataclasses
import os
import threading
from collections.abc import Sequence

from cipo_jax.commands.study.plan import COLD, Run, Study, builds_on
from cipo_jax.types import CipoError


class Queue:
    """The runs that are left, for several threads: next is the first in the plan's order whose cold
    start and reference are done.

    Attributes:
      waiting, done, failed: runs; those under way are in none of them.
    """

    def __init__(self, study: Study, runs: Sequence[Run]) -> None:
        self.waiting, self.done, self.failed = list(runs), list[Run](), list[Run]()
        self._study = study
        self._changed = threading.Condition()
        self._closed = False

    def take(self) -> Run | None:
        """Waits for a run that can be done now; None: there is none any more."""
        with self._changed:
            while self.waiting and not self._closed:
                self._give_up_hopeless()
                for run in self.waiting:
                    if all(need in self.done for need in self._needs(run)):
                        self.waiting.remove(run)
                        return run
                if self.waiting:
                    self._changed.wait()
            return None

    def finish(self, run: Run, good: bool) -> None:
        with self._changed:
            (self.done if good else self.failed).append(run)
            self._changed.notify_all()

    def close(self) -> None:
        """No further runs are given out."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _needs(self, run: Run) -> list[Run]:
        needs = [m for m in (COLD, self._study.reference) if builds_on(self._study, run, m)]
        return [
            dataclasses.replace(run, method=m, directory=run.directory.with_name(f"{m}-{run.seed}"))
            for m in needs
        ]

    def _give_up_hopeless(self) -> None:
        for run in list(self.waiting):
            missing = [need for need in self._needs(run) if need in self.failed]
            if missing:
                print(f"study  {run.name}: not run, it builds on {missing[0].name}, which failed")
                self.waiting.remove(run)
                self.failed.append(run)


def shares_of_cores(jobs: int) -> list[set[int]]:
    """The cores of each of so many runs at a time; empty sets: all of them, where one run has the
    machine or the system cannot pin processes.

    Raises:
      CipoError: no such number of runs is possible here.
    """
    can_pin = hasattr(os, "sched_getaffinity")
    cores = sorted(os.sched_getaffinity(0)) if can_pin else list(range(os.cpu_count() or 1))
    if not 1 <= jobs <= len(cores):
        raise CipoError(f"--jobs: got {jobs}, wanted 1 to {len(cores)}, a core for each run")
    if jobs == 1 or not can_pin:
        return [set() for _ in range(jobs)]
    return [set(cores[i::jobs]) for i in range(jobs)]
