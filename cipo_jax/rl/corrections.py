"""Rewards of the correction stream: risk-averse shaping and retention."""

import numpy as np


def shaped_rewards(correct: np.ndarray, anchor_right: np.ndarray, lambda_risk: float) -> np.ndarray:
    """R' = R - lambda_risk * 1[anchor was right and R = 0]: breaking a right answer costs extra.

    Args:
      correct: [K, G_c] bool, verdicts of the corrections of each anchor.
      anchor_right: [K] bool.

    Returns:
      [K, G_c] float64.
    """
    broken = anchor_right[:, None] & ~correct
    return correct.astype(np.float64) - lambda_risk * broken


def retention(correct: np.ndarray, anchor_right: np.ndarray) -> float | None:
    """Accuracy of the corrections whose anchor was right; None if no anchor was.

    Args: as in `shaped_rewards`.
    """
    if not anchor_right.any():
        return None
    return float(correct[anchor_right].mean())
