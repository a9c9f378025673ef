"""The problems of a step: in the source's order or by the curriculum, each at most once.

What a step does not use, it does not take: the next one goes on from there. So the order of the
problems is a function of the seed and of how many have been drawn, which is part of every
checkpoint.
"""

from collections.abc import Sequence

import numpy as np

from cipo_jax.config.keys import Rollout
from cipo_jax.data.datasets import ProblemSource
from cipo_jax.rl.difficulty import Memory, choose_learnable
from cipo_jax.types import CipoError, Problem

_ALL_KNOWN = 3000  # problems in a row, none of them new, after which a mixture counts as used up


class Draw:
    """One step's problems, taken as they are needed.

    Args:
      drawn: problems that the steps before have drawn.
      difficulty: what is known of the problems, for the curriculum "learnability".
      seed: of the curriculum's draw.

    Attributes:
      drawn: the same, with what this step has drawn so far, passed over ones included.
    """

    def __init__(
        self,
        source: ProblemSource,
        rollout: Rollout,
        difficulty: Memory,
        seed: Sequence[int],
        step: int,
        drawn: int,
    ) -> None:
        self.drawn = drawn
        self._offered, self._different = source.offer(step, drawn), source.different
        self._rollout, self._difficulty = rollout, difficulty
        self._random = np.random.default_rng(seed)
        self._taken: set[str] = set()

    def take(self, count: int) -> list[Problem]:
        """`count` problems that this step has not had; fewer if there are no more, or the step has
        had `most_problems`.

        Raises:
          CipoError: there are too few for the step's own problems.
        """
        r = self._rollout
        count = min(count, r.most_problems - len(self._taken))
        if r.curriculum == "learnability":
            candidates = self._next(count * r.curriculum_candidates)
            ids = [p.id for p in candidates]
            chosen = choose_learnable(self._difficulty, ids, count, self._random)
            taken = [candidates[i] for i in chosen]
        else:
            taken = self._next(count)
        if not self._taken:
            _refuse_fewer(count, len(taken))
        self._taken.update(p.id for p in taken)
        return taken

    def _next(self, count: int) -> list[Problem]:
        """The next different problems on offer that are not taken; others are passed over."""
        found: dict[str, Problem] = {}
        if self._different is not None:
            count = min(count, self._different - len(self._taken))
        repeated = 0  # in a row; a list has its different problems somewhere, a generator may not
        while len(found) < count and (self._different is not None or repeated < _ALL_KNOWN):
            problem = next(self._offered, None)
            if problem is None:
                break
            self.drawn += 1
            repeated += 1
            if problem.id not in self._taken and problem.id not in found:
                found[problem.id] = problem
                repeated = 0
        return list(found.values())


def check_enough(source: ProblemSource, problems_per_step: int) -> None:
    """Refuses fewer different problems than a step has.

    Raises:
      CipoError: there are fewer.
    """
    if source.different is not None:
        _refuse_fewer(problems_per_step, source.different)


def _refuse_fewer(problems_per_step: int, different: int) -> None:
    if different < problems_per_step:
        raise CipoError(
            f"config.rollout.problems_per_step: got {problems_per_step}, wanted at most "
            f"{different}, the problems that config.data.train has: a step has each at most once"
        )
