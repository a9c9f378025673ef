"""Which of this step's attempts are put back into correction prompts.

Difficulty-aware: problems whose pass rate lies in a medium band come first, then those nearest to
it. A share rho of the anchors are right attempts, the others wrong ones. At equal distance to the
band, problems take turns, so that anchors spread over many problems.

A slot is one group of corrections. A right anchor takes one; wrong ones may take several, and these
groups then are one.

Corrections of the same step may be put back too, by a second selection. They were sampled by the
same policy, so the step stays one of its own answers alone, and nothing is kept between steps.

Not decided here: how many anchors a step has, which attempts are eligible, the share (`replay`).
"""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class Selection:
    """The chosen attempts, k <= K of them.

    Attributes:
      problem, sample: [k] int, indices into the [N, G] attempts that were chosen from.
      right: [k] bool, whether the attempt was right.
      in_band: [k] bool, whether its problem's pass rate lies in the band.
      wrong_slots: slots that each wrong one takes.
      corrections: how many of them, the last ones, are corrections of the others.
    """

    problem: np.ndarray
    sample: np.ndarray
    right: np.ndarray
    in_band: np.ndarray
    wrong_slots: int = 1
    corrections: int = 0

    @property
    def is_correction(self) -> np.ndarray:
        """[k] bool, whether each is a correction itself."""
        return np.arange(len(self)) >= len(self) - self.corrections

    def followed_by(self, second: "Selection") -> "Selection":
        """These, and then the corrections of them that `second` has chosen."""
        return Selection(
            np.concatenate([self.problem, second.problem]),
            np.concatenate([self.sample, second.sample]),
            np.concatenate([self.right, second.right]),
            np.concatenate([self.in_band, second.in_band]),
            self.wrong_slots,
            corrections=len(second),
        )

    @property
    def slots(self) -> np.ndarray:
        """[k] int, the slots of each."""
        return np.where(self.right, 1, self.wrong_slots)

    def in_slots(self) -> list[tuple[int, int]]:
        """(problem, sample) of each slot in use, in order."""
        places = zip(self.problem.repeat(self.slots), self.sample.repeat(self.slots), strict=True)
        return [(int(i), int(j)) for i, j in places]

    def __len__(self) -> int:
        return len(self.problem)


def select_anchors(
    correct: np.ndarray,
    verified: np.ndarray,
    eligible: np.ndarray,
    count: int,
    success_share: float,
    band: tuple[float, float],
    max_per_problem: int,
    shortage: str,
    rng: np.random.Generator,
    wrong_min_pass_rate: float = 0.0,
    wrong_slots: int = 1,
    balanced: bool = False,
    pass_rate: np.ndarray | None = None,
) -> Selection:
    """Chooses anchors for up to `count` slots.

    Args:
      correct: [N, G] bool, verdicts.
      verified: [N, G] bool, which attempts have a verdict; pass rates are of these.
      eligible: [N, G] bool, which of them may be anchors at all.
      count: K, slots for anchors.
      success_share: rho, the share of the slots for right attempts; see `_right_slots`.
      band: lowest and highest pass rate that count as medium difficulty, both included.
      max_per_problem: most anchors of one problem, right and wrong together.
      shortage: if one class has too few attempts, "other" fills its slots from the other class,
        "empty" leaves them unused.
      rng: breaks ties, and rounds less than half a slot; the same state gives the same anchors.
      wrong_min_pass_rate: wrong attempts only of problems with at least this pass rate.
      wrong_slots: slots that a wrong attempt takes. What is left of them stays empty.
      balanced: no more right anchors than wrong ones.
      pass_rate: [N] of the problems; None: that of these attempts.
    """
    if pass_rate is None:
        pass_rate = (correct & verified).sum(axis=1) / np.maximum(verified.sum(axis=1), 1)
    distance = np.maximum(0.0, np.maximum(band[0] - pass_rate, pass_rate - band[1]))
    eligible = eligible & (correct | (pass_rate >= wrong_min_pass_rate)[:, None])
    used = np.zeros(len(correct), int)
    chosen: list[tuple[int, int]] = []
    successes = _right_slots(success_share * count, rng)
    if balanced:  # the others are for wrong ones
        successes = min(successes, count // (1 + wrong_slots))
    wanted_of = {0: (count - successes) // wrong_slots, 1: successes}
    queues = {right: _candidates(correct == right, eligible, distance, rng) for right in (0, 1)}

    def take(right: int, wanted: int) -> int:
        """Moves up to `wanted` attempts of a class to `chosen`; returns how many were missing."""
        waiting = []
        for i, j in queues[right]:
            if wanted and used[i] < max_per_problem:
                chosen.append((i, j))
                used[i] += 1
                wanted -= 1
            else:
                waiting.append((i, j))
        queues[right] = waiting
        return wanted

    def spare(right: int) -> int:
        """How many more attempts of a class the caps allow than are wanted of it."""
        per_problem = (eligible & (correct == right)).sum(axis=1)
        return int(np.minimum(per_problem, max_per_problem).sum()) - wanted_of[right]

    # The scarcer class chooses first: the other could use up the caps of the few problems with it.
    missing = {right: take(right, wanted_of[right]) for right in sorted(wanted_of, key=spare)}
    if shortage == "other":
        take(1, missing[0] * wrong_slots)
        take(0, missing[1] // wrong_slots)

    problem, sample = np.array(chosen, int).reshape(-1, 2).T
    right = correct[problem, sample]
    if balanced:
        kept = ~right | (np.cumsum(right) <= (~right).sum())
        problem, sample, right = problem[kept], sample[kept], right[kept]
    return Selection(problem, sample, right, distance[problem] == 0, wrong_slots)


def _right_slots(wanted: float, rng: np.random.Generator) -> int:
    """The slots for right attempts: `wanted`, rounded. Where that would never give one, there is
    one with the probability that keeps the mean: without right anchors retention is not known, and
    the controller would never change rho again."""
    return int(rng.random() < wanted) if 0 < wanted <= 0.5 else round(wanted)


def _candidates(
    of_class: np.ndarray, eligible: np.ndarray, distance: np.ndarray, rng: np.random.Generator
) -> list[tuple[int, int]]:
    """(problem, sample) of every eligible attempt of a class, in order of preference."""
    candidates = []
    for i, order in enumerate(rng.random(len(of_class))):
        samples = rng.permutation(np.flatnonzero(of_class[i] & eligible[i]))
        candidates += [(distance[i], turn, order, i, int(j)) for turn, j in enumerate(samples)]
    return [(i, j) for *_, i, j in sorted(candidates)]
