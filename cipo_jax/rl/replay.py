"""The controller of rho, the share of right attempts among the anchors.

When retention is below its target, the policy breaks right answers that it is asked to correct.
Then more right attempts are replayed:

    rho <- clip(rho * (1 + w1 (tau - ret) + w2 max(0, ret_prev - ret) + w3 min(n_below, 3)),
                rho_min, rho_max)

with n_below the number of consecutive steps with retention below tau, this one included (ours: we
do not know whether the paper counts the present step). `rewards` computes retention.
"""

import dataclasses


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


def update_replay(
    state: ReplayState,
    retention: float | None,
    *,
    target: float,
    minimum: float,
    maximum: float,
    gap_weight: float,
    drop_weight: float,
    streak_weight: float,
) -> ReplayState:
    """The next state, given this step's retention; unchanged without right anchors (None).

    Args:
      retention: accuracy of the corrections whose anchor was right.
      target: tau.
      minimum, maximum: bounds of rho.
      gap_weight, drop_weight, streak_weight: w1, w2, w3.
    """
    if retention is None:
        return state
    below = state.below + 1 if retention < target else 0
    drop = max(0.0, (state.previous_retention or 0.0) - retention)
    factor = (
        1 + gap_weight * (target - retention) + drop_weight * drop + streak_weight * min(below, 3)
    )
    rho = min(max(state.rho * factor, minimum), maximum)
    return ReplayState(rho=rho, previous_retention=retention, below=below)
