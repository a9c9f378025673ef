"""Group-relative advantages, and why risk shaping needs its own normalisation.

Paper (arXiv 2605.14539), base stream: A_ij = (r_ij - mean_i) / (std_i + eps), over the G
completions j of problem i.

For a correction stream the reward is shaped, R' = R - lambda * 1[anchor right and R = 0]. All
corrections of one anchor share the anchor's correctness, so within a group R' takes two values
whatever lambda is, and (R' - mean) / std takes the same two values for every lambda: the penalty
cancels. `group_unshaped_std` divides by the std of R instead, so that a group with a right anchor
gets advantages (1 + lambda) times as large; `stream` divides by the std over the whole stream.
"""

import numpy as np

EPS = 1e-6


def group_advantages(
    rewards: np.ndarray, norm: str, unshaped_rewards: np.ndarray | None = None
) -> np.ndarray:
    """Advantages of every completion in its group.

    Args:
      rewards: [N, G] float, shaped rewards.
      norm: "group", "group_unshaped_std" or "stream"; see the module docstring.
      unshaped_rewards: [N, G] float, required by "group_unshaped_std".

    Returns:
      [N, G] float32. Exactly 0 in a group whose rewards are all equal: no rounding residue of the
      mean is blown up by a vanishing std.
    """
    rewards = np.asarray(rewards, np.float64)
    centred = rewards - rewards.mean(axis=1, keepdims=True)
    centred[(rewards == rewards[:, :1]).all(axis=1)] = 0.0
    if norm == "group":
        std = rewards.std(axis=1, keepdims=True)
    elif norm == "group_unshaped_std":
        if unshaped_rewards is None:
            raise ValueError("norm 'group_unshaped_std' needs unshaped_rewards")
        std = np.asarray(unshaped_rewards, np.float64).std(axis=1, keepdims=True)
    elif norm == "stream":
        std = np.sqrt(np.sum(centred**2) / max(1, centred.size))  # a stream may be empty
    else:
        raise ValueError(f"norm {norm!r} is not one of 'group', 'group_unshaped_std', 'stream'")
    return (centred / (std + EPS)).astype(np.float32)
