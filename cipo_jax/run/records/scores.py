"""Which checkpoints are kept: the newest, and the best by their scores.

A checkpoint's score is in a file of its own beside its manifest, since it may become known after
the checkpoint has been finished.
"""

import json
from collections.abc import Sequence

from etils import epath
from orbax.checkpoint.checkpoint_managers import preservation_policy as policies

from cipo_jax.run.hosts.processes import Hosts
from cipo_jax.run.records.manifest import SCORE_FILE, Damaged, read_checked, write_checked


class Preservation(policies.PreservationPolicy):
    """What orbax keeps: the newest checkpoints, the best ones, and those whose score is lost.

    Attributes:
      keep, keep_best: how many of the newest and of the best.
      scores: {step: score}.
      lost: steps whose score cannot be read.
    """

    def __init__(self, keep: int, keep_best: int):
        self.keep, self.keep_best = keep, keep_best
        self.scores: dict[int, float] = {}
        self.lost: set[int] = set()

    def best(self, steps: Sequence[int]) -> list[int]:
        """The best of `steps`, at most `keep_best`, the worst of them first; of equal ones the
        newest."""
        scored = sorted((self.scores[step], step) for step in steps if step in self.scores)
        return [step for _, step in scored[-self.keep_best :]] if self.keep_best else []

    def forget(self, step: int) -> None:
        self.scores.pop(step, None)
        self.lost.discard(step)

    def read_scores(self, directory: epath.Path, hosts: Hosts) -> None:
        """Takes the scores of the checkpoints in `directory`, as the first host reads them. Called
        by all hosts."""
        scores, lost = [], []
        for place in directory.glob("step_*") if hosts.first else ():
            number = place.name.removeprefix("step_")
            if not number.isdecimal():
                continue
            try:
                score = _read_score(place)
            except (Damaged, OSError, ValueError, TypeError, AttributeError):
                lost.append(int(number))
            else:
                scores += [] if score is None else [(int(number), score)]
        scores, lost = hosts.first_says((scores, sorted(lost)))
        self.scores |= dict(scores)
        self.lost |= set(lost)
        if lost:
            print(f"{directory}: the scores of steps {lost} cannot be read; these are kept")

    def should_preserve(
        self,
        checkpoints: Sequence[policies.PolicyCheckpointInfo],
        *,
        context: policies.PreservationContext,
    ) -> list[bool]:
        del context
        steps = [checkpoint.step for checkpoint in checkpoints]
        kept = {*sorted(steps)[-self.keep :], *self.best(steps), *self.lost}
        return [step in kept for step in steps]


def write_score(place: epath.Path, score: float) -> None:
    """Gives the checkpoint in the directory `place` its score."""
    write_checked(place / SCORE_FILE, {"score": score})


def _read_score(place: epath.Path) -> float | None:
    """The score of a checkpoint; None if it has none."""
    if (file := place / SCORE_FILE).exists():
        return float(read_checked(file)["score"])
    if (file := place / "metrics" / "metrics").exists():  # of an earlier version
        score = json.loads(file.read_bytes()).get("score")
        return None if score is None else float(score)
    return None
