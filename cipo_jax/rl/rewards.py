"""Rewards: what a verdict earns, risk-averse shaping of the correction stream, and retention.

Only the policy gradient uses rewards. Whether an attempt is right is its verdict's outcome, which
pass rates, anchors, transitions and retention use. How rewards become advantages is decided in
`advantages`.

A verdict says nothing about the completion if the verifier failed, or if its outcome is one of
`verifier.left_out`: it counts in no pass rate and no retention. An outcome of `left_out`, as
failures are by default, takes no part in advantages either.
"""

from collections.abc import Sequence

import numpy as np

from cipo_jax.config.keys import Verifier
from cipo_jax.types import Attempt, Outcome, Verdict


def reward_of(verdict: Verdict, verifier: Verifier) -> float:
    """The reward of the verdict's outcome; with partial credit, its score is the share of the way
    from there to the reward of CORRECT."""
    earned = outcome_reward(verdict, verifier)
    if verifier.partial_credit and verdict.score is not None:
        return earned + verdict.score * (verifier.reward_correct - earned)
    return earned


def outcome_reward(verdict: Verdict, verifier: Verifier) -> float:
    """What the bare outcome earns, without partial credit."""
    return {
        Outcome.CORRECT: verifier.reward_correct,
        Outcome.WRONG: verifier.reward_wrong,
        Outcome.NO_ANSWER: verifier.reward_no_answer,
        Outcome.TIMEOUT: verifier.reward_timeout,
        Outcome.ERROR: verifier.reward_error,
    }[verdict.outcome]


def is_known(verdict: Verdict, verifier: Verifier) -> bool:
    """Whether the verdict says anything about the completion."""
    return verdict.judged and verdict.outcome.value not in verifier.left_out


def is_counted(attempt: Attempt, verifier: Verifier, overlong: str) -> bool:
    """Whether an attempt takes part in its group's advantages, and so in the gradient.

    Args:
      overlong: `algorithm.overlong`.
    """
    masked = overlong == "mask" and not attempt.completion.finished
    return attempt.verdict.outcome.value not in verifier.left_out and not masked


def is_informative(group: Sequence[Attempt], verifier: Verifier, overlong: str) -> bool:
    """Whether the rewards of the attempts that take part in a group's advantages differ: else it
    has none, a penalty for length aside. `overlong` as in `is_counted`."""
    counted = (a.verdict for a in group if is_counted(a, verifier, overlong))
    return len({reward_of(verdict, verifier) for verdict in counted}) > 1


def reward_array(attempts: Sequence[Attempt], group_size: int, verifier: Verifier) -> np.ndarray:
    """[N, G] float64, the reward of each attempt ([N * G], group-major)."""
    rewards = [reward_of(a.verdict, verifier) for a in attempts]
    return np.array(rewards, np.float64).reshape(-1, group_size)


def correct_array(attempts: Sequence[Attempt], group_size: int) -> np.ndarray:
    """[N, G] bool, whether each attempt is correct."""
    return np.array([a.correct for a in attempts], bool).reshape(-1, group_size)


def verified_array(
    attempts: Sequence[Attempt], group_size: int, verifier: Verifier | None = None
) -> np.ndarray:
    """[N, G] bool, whether the verdict says anything about the attempt: those that the verifier
    failed on do not, and, of a training `verifier`, those that it leaves out."""
    known = [a.judged if verifier is None else is_known(a.verdict, verifier) for a in attempts]
    return np.array(known, bool).reshape(-1, group_size)


def shaped_rewards(
    rewards: np.ndarray,
    correct: np.ndarray,
    anchor_right: np.ndarray,
    lambda_risk: float,
    verified: np.ndarray | None = None,
) -> np.ndarray:
    """R' = R - lambda_risk * 1[anchor was right, correction is not]: breaking a right answer costs
    extra. With rewards of 1 and 0 this is the paper's 1[anchor was right and R = 0].

    Args:
      rewards: [N, G] float, R of the G corrections of each of N anchors.
      correct: [N, G] bool, their verdicts. These, not rewards, say what is right: a wrong program
        that passes most tests has broken a right one all the same.
      anchor_right: [N] bool.
      lambda_risk: in units of the reward.
      verified: [N, G] bool, where there is a verdict; None: everywhere. Without a verdict nothing
        is known to be broken.

    Returns:
      [N, G] float64.
    """
    broken = anchor_right[:, None] & ~correct
    if verified is not None:
        broken &= verified
    return np.asarray(rewards, np.float64) - lambda_risk * broken


def retention(
    correct: np.ndarray, anchor_right: np.ndarray, verified: np.ndarray | None = None
) -> float | None:
    """Accuracy of the corrections whose anchor was right; None if there are none with a verdict.

    Args:
      correct: [N, G] bool, verdicts of the G corrections of each of N anchors.
      anchor_right: [N] bool.
      verified: [N, G] bool, where there is a verdict; None: everywhere.
    """
    known = np.ones_like(correct) if verified is None else verified
    counted = known & anchor_right[:, None]
    return float(correct[counted].mean()) if counted.any() else None


def pass_rates(correct: np.ndarray, verified: np.ndarray) -> np.ndarray:
    """[N] float64, the share of right attempts among those with a verdict; NaN for a group that has
    none.

    Args:
      correct, verified: [N, G] bool.
    """
    known = verified.sum(axis=1)
    rights = (correct & verified).sum(axis=1)
    return np.where(known > 0, rights / np.maximum(known, 1), np.nan)
