"""The controller of rho, the share of right attempts among the anchors.

When retention is below its target, the policy breaks right answers that it is asked to correct.
Then more right attempts are replayed:

    rho <- clip(rho * (1 + w1 (tau - ret) + w2 max(0, ret_prev - ret) + w3 min(n_below, 3)),
                rho_min, rho_max)

with n_below the number of consecutive steps with retention below tau, this one included (ours: we
do not know whether the paper counts the present step). `rewards` computes retention.

tau is a constant, or what a fresh attempt at the same problems reaches (ours). A policy that solves
half of them keeps half of its right answers if it ignores them: below a constant of 0.8 that
looks like damage, and the controller answers with more right anchors, which teach to copy.
"""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class ReplayState:
    """What the controller remembers between steps; part of every checkpoint.

    Attributes:
      rho: share of right attempts among the next step's anchors.
      previous_retention: of the last step that had right anchors; None before the first.
      below: consecutive steps with retention below the target.
    """

    rho: float
    previous_retention: float | None = None
    below: int = 0


@dataclasses.dataclass(frozen=True)
class Retention:
    """Of one step.

    Attributes:
      value: accuracy of the corrections whose anchor was right; None without any.
      target: tau, what it is compared with; None where that is not known.
    """

    value: float | None
    target: float | None

    @property
    def is_held(self) -> bool:
        """Whether it is known to be at its target, or above."""
        return self.value is not None and self.target is not None and self.value >= self.target


def fresh_rate(
    correct: np.ndarray,
    verified: np.ndarray,
    problem: np.ndarray,
    weights: np.ndarray,
    is_correction: np.ndarray,
) -> float | None:
    """The pass rate of the other attempts at the problems of right anchors: what a fresh attempt at
    them reaches. The anchor itself is left out, since it was chosen for being right; one that is a
    correction is none of these attempts.

    Args:
      correct, verified: [N, G] bool, of the base stream.
      problem: [k] int, the right anchors' rows of these.
      weights: [k], how much each counts: its corrections with a verdict.
      is_correction: [k] bool, which are corrections themselves.

    Returns:
      The weighted mean; None if no anchor counts or none has other attempts with a verdict.
    """
    itself = (~is_correction).astype(int)
    others = verified.sum(axis=1)[problem] - itself
    rights = (correct & verified).sum(axis=1)[problem] - itself
    counted = np.where(others > 0, weights, 0)
    if not counted.sum():
        return None
    return float((counted * rights / np.maximum(others, 1)).sum() / counted.sum())


def update_replay(
    state: ReplayState,
    retention: Retention,
    *,
    minimum: float,
    maximum: float,
    gap_weight: float,
    drop_weight: float,
    streak_weight: float,
) -> ReplayState:
    """The next state, given this step's retention; unchanged without right anchors, or without a
    target.

    Args:
      minimum, maximum: bounds of rho.
      gap_weight, drop_weight, streak_weight: w1, w2, w3.
    """
    value, target = retention.value, retention.target
    if value is None or target is None:
        return state
    below = state.below + 1 if value < target else 0
    drop = max(0.0, (state.previous_retention or 0.0) - value)
    factor = 1 + gap_weight * (target - value) + drop_weight * drop + streak_weight * min(below, 3)
    rho = min(max(state.rho * factor, minimum), maximum)
    return ReplayState(rho=rho, previous_retention=value, below=below)
