"""Rewards of the correction stream: risk-averse shaping and retention."""

import numpy as np


def shaped_rewards(
    rewards: np.ndarray, correct: np.ndarray, anchor_right: np.ndarray, lambda_risk: float
) -> np.ndarray:
    """R' = R - lambda_risk * 1[anchor was right, correction is not]: breaking a right answer costs
    extra. With rewards of 1 and 0 this is the paper's 1[anchor was right and R = 0].

    Args:
      rewards: [K, G_c] float, R of the corrections of each anchor.
      correct: [K, G_c] bool, their verdicts. It, not the reward, says what is right: a wrong
        program that passes most tests has broken a right one all the same.
      anchor_right: [K] bool.
      lambda_risk: in units of the reward.

    Returns:
      [K, G_c] float64.
    """
    broken = anchor_right[:, None] & ~correct
    return np.asarray(rewards, np.float64) - lambda_risk * broken


def retention(correct: np.ndarray, anchor_right: np.ndarray) -> float | None:
    """Accuracy of the corrections whose anchor was right; None if no anchor was.

    Args:
      correct: [K, G_c] bool, verdicts of the corrections of each anchor.
      anchor_right: [K] bool.
    """
    if not anchor_right.any():
        return None
    return float(correct[anchor_right].mean())
