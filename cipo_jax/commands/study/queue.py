"""Which run of a study is next, and on which cores, when several run at a time.

Decides that a run waits for those it needs, and is given up when one of them has failed. What the
runs are, and what each needs, is decided in `plan.py`; how one is done, in `run.py`.
"""

import os
import threading
from collections.abc import Sequence

from cipo_jax.commands.study.plan import PlannedRun, Study, needs
from cipo_jax.types import CipoError


class Queue:
    """The runs that are left, for several threads. Next is the first in the plan's order whose
    needs are done.

    Attributes:
      waiting, taken, done, failed: runs; each is in one of the four.
    """

    def __init__(self, study: Study, runs: Sequence[PlannedRun]) -> None:
        self.waiting, self.taken = list(runs), list[PlannedRun]()
        self.done, self.failed = list[PlannedRun](), list[PlannedRun]()
        self._study = study
        self._changed = threading.Condition()
        self._closed = False
        self._total = len(runs)

    @property
    def progress(self) -> str:
        return f"{len(self.done)} of {self._total} runs done, {len(self.failed)} failed"

    def take(self) -> PlannedRun | None:
        """Waits for a run that can be done now; None when no run is left, or after `close`."""
        with self._changed:
            while self.waiting and not self._closed:
                for run in list(self.waiting):
                    failed = [need for need in needs(self._study, run) if need in self.failed]
                    if failed:
                        reason = f"it needs {failed[0].name}, which failed"
                        print(f"study  {run.name}: not run, since {reason}")
                        self.waiting.remove(run)
                        self.failed.append(run)
                for run in self.waiting:
                    if all(need in self.done for need in needs(self._study, run)):
                        self.waiting.remove(run)
                        self.taken.append(run)
                        return run
                if self.waiting:
                    self._changed.wait()
            return None

    def finish(self, run: PlannedRun, good: bool) -> None:
        """Ends a run that was taken; `good` if it succeeded."""
        with self._changed:
            self.taken.remove(run)
            (self.done if good else self.failed).append(run)
            self._changed.notify_all()

    def close(self) -> None:
        """Starts no further runs."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()


def shares_of_cores(jobs: int) -> list[set[int]]:
    """The cores of each of `jobs` runs at a time; an empty set stands for all cores, where one run
    has the machine or the system cannot pin processes.

    Raises:
      CipoError: `jobs` is not between 1 and the number of cores.
    """
    can_pin = hasattr(os, "sched_getaffinity")
    cores = sorted(os.sched_getaffinity(0)) if can_pin else list(range(os.cpu_count() or 1))
    if not 1 <= jobs <= len(cores):
        raise CipoError(f"--jobs: got {jobs}, wanted 1 to {len(cores)}, a core for each run")
    if jobs == 1 or not can_pin:
        return [set() for _ in range(jobs)]
    return [set(cores[i::jobs]) for i in range(jobs)]
