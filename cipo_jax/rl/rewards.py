"""Rewards: what a verdict earns, risk-averse shaping of the correction stream, and retention.

Only the policy gradient uses rewards. Whether an attempt is right is its verdict's outcome, which
pass rates, anchors, transitions and retention use. How rewards become advantages is decided in
`advantages`.
"""

from collections.abc import Sequence

import numpy as np

from cipo_jax.config.keys import Verifier
from cipo_jax.types import Attempt, Outcome, Verdict


def reward_of(verdict: Verdict, verifier: Verifier) -> float:
    """The reward of the verdict's outcome; with partial credit, its score is the share of the way
    from there to the reward of CORRECT."""
    earned = {
        Outcome.CORRECT: verifier.reward_correct,
        Outcome.WRONG: verifier.reward_wrong,
        Outcome.NO_ANSWER: verifier.reward_no_answer,
        Outcome.TIMEOUT: verifier.reward_timeout,
        Outcome.ERROR: verifier.reward_error,
    }[verdict.outcome]
    if verifier.partial_credit and verdict.score is not None:
        return earned + verdict.score * (verifier.reward_correct - earned)
    return earned


def reward_array(attempts: Sequence[Attempt], group_size: int, verifier: Verifier) -> np.ndarray:
    """[N, G] float64, the reward of each attempt ([N * G], group-major)."""
    rewards = [reward_of(a.verdict, verifier) for a in attempts]
    return np.array(rewards, np.float64).reshape(-1, group_size)


def shaped_rewards(
    rewards: np.ndarray, correct: np.ndarray, anchor_right: np.ndarray, lambda_risk: float
) -> np.ndarray:
    """R' = R - lambda_risk * 1[anchor was right, correction is not]: breaking a right answer costs
    extra. With rewards of 1 and 0 this is the paper's 1[anchor was right and R = 0].

    Args:
      rewards: [N, G] float, R of the G corrections of each of N anchors.
      correct: [N, G] bool, their verdicts. These, not rewards, say what is right: a wrong program
        that passes most tests has broken a right one all the same.
      anchor_right: [N] bool.
      lambda_risk: in units of the reward.

    Returns:
      [N, G] float64.
    """
    return np.asarray(rewards, np.float64) - lambda_risk * (anchor_right[:, None] & ~correct)


def retention(correct: np.ndarray, anchor_right: np.ndarray) -> float | None:
    """Accuracy of the corrections whose anchor was right; None if no anchor was. Arguments as in
    `shaped_rewards`."""
    return float(correct[anchor_right].mean()) if anchor_right.any() else None
