"""Group-relative advantages, why risk shaping has norms of its own, and overlong completions.

With the rewards r_j of a group of G completions of one prompt:

    group               (r_j - mean) / (std + eps). GRPO (Shao et al. 2024, arXiv 2402.03300), and
                        the base stream of CIPO (arXiv 2605.14539).
    group_mean          r_j - mean. Dr. GRPO (Liu et al. 2025, arXiv 2503.20783): dividing by the
                        std would give very easy and very hard problems more weight.
    rloo                r_j - mean of the others = G / (G - 1) (r_j - mean): leave-one-out baseline
                        (Kool et al. 2019; Ahmadian et al. 2024, arXiv 2402.14740).
    stream              (r_j - mean) / (std of that over the whole stream + eps). REINFORCE++ with
                        the group's mean as baseline (Hu et al. 2025, arXiv 2501.03262).
    group_unshaped_std  (r_j - mean) / (max(std of the bare outcomes, floor) + eps). Ours.

For a correction stream the reward is shaped, R' = R - lambda * 1[anchor right and R = 0]. All
corrections of one anchor share the anchor's correctness, so within a group R' takes two values
whatever lambda is, and (R' - mean) / std takes the same two values for every lambda: under "group"
the penalty cancels. Every other norm keeps it: a group with a right anchor gets advantages
(1 + lambda) times as large, under "stream" relative to the other groups.

The bare outcome is what a verdict's outcome earns, without risk shaping, partial credit or a
penalty for length: these can be as small as one likes, or make up for each other, so that the std
of what is left would be no scale. The floor is the std of a group with one right completion,
sqrt(n - 1) / n of the span between right and wrong. So under "group_unshaped_std"

    |A| <= sqrt(n - 1) * (highest - lowest reward of the group) / span

for n completions; with right and wrong alone it is sqrt(n - 1), as under "group".

The reward of a completion that was cut at the token limit says little about it. DAPO (Yu et al.
2025, arXiv 2503.14476, section 3.4) offers two remedies: leaving it out of the loss (`included`),
or a penalty that grows before the limit (`overlong_penalty`).
"""

import numpy as np

from cipo_jax.config.checks import check_overlong_buffer

EPS = 1e-6

NORMS = ("group", "group_mean", "rloo", "stream", "group_unshaped_std")


def group_advantages(
    rewards: np.ndarray,
    norm: str,
    bare_outcomes: np.ndarray | None = None,
    included: np.ndarray | None = None,
    span: float = 1.0,
) -> np.ndarray:
    """Advantages of every completion in its group.

    Args:
      rewards: [N, G] float, shaped rewards of N groups.
      norm: one of `NORMS`; see the module docstring.
      bare_outcomes: [N, G] float, required by "group_unshaped_std": what the outcomes alone earn.
      included: [N, G] bool, the completions that take part; None: all. The others get 0 and do not
        enter their group's statistics (ours: a reward of 0 for being cut would lower the baseline
        and make every finished completion look good). The caller leaves them out of the batch's
        normalisers too.
      span: what a right completion earns more than a wrong one, for the floor of
        "group_unshaped_std".

    Returns:
      [N, G] float32. Exactly 0 in a group whose rewards are all equal: a tiny std would magnify
      rounding errors of the mean.
    """
    if norm not in NORMS:
        raise ValueError(f"norm {norm!r} is not one of {NORMS}")
    rewards = np.asarray(rewards, np.float64)
    included = np.ones(rewards.shape, bool) if included is None else included
    # [N, 1]; a group without included completions counts as one of advantage 0.
    counts = np.maximum(1, included.sum(axis=1, keepdims=True))
    centred = _centred(rewards, included, counts)

    if norm == "group_mean":
        advantages = centred
    elif norm == "rloo":
        advantages = centred * counts / np.maximum(1, counts - 1)
    elif norm == "stream":
        std = np.sqrt(np.sum(centred**2) / max(1, included.sum()))  # a stream may be empty
        advantages = centred / (std + EPS)
    else:
        spread, floor = centred, np.zeros(())
        if norm == "group_unshaped_std":
            if bare_outcomes is None:
                raise ValueError("norm 'group_unshaped_std' needs bare_outcomes")
            spread = _centred(np.asarray(bare_outcomes, np.float64), included, counts)
            floor = span * np.sqrt(counts - 1) / counts
        std = np.sqrt(np.sum(spread**2, axis=1, keepdims=True) / counts)
        advantages = centred / (np.maximum(std, floor) + EPS)
    return advantages.astype(np.float32)


def overlong_penalty(lengths: np.ndarray, max_tokens: int, buffer: int) -> np.ndarray:
    """DAPO's soft overlong punishment (eq. 13), to be added to the reward:

        0                                    if length <= max_tokens - buffer
        (max_tokens - buffer - length) / buffer     up to max_tokens
        -1                                   beyond

    Args:
      lengths: any shape, int, tokens of each completion.
      buffer: over how many tokens before the limit the penalty grows, 1 <= buffer <= max_tokens.

    Returns:
      lengths' shape, float64 in [-1, 0].

    Raises:
      CipoError: buffer out of range.
    """
    check_overlong_buffer(buffer, max_tokens, "overlong buffer")
    return np.clip((max_tokens - buffer - np.asarray(lengths)) / buffer, -1.0, 0.0)


def _centred(rewards: np.ndarray, included: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """[N, G]: rewards minus their group's mean; 0 where left out and where all are equal."""
    means = np.where(included, rewards, 0.0).sum(axis=1, keepdims=True) / counts
    lowest = np.min(rewards, axis=1, keepdims=True, where=included, initial=np.inf)
    highest = np.max(rewards, axis=1, keepdims=True, where=included, initial=-np.inf)
    return np.where(included & (lowest < highest), rewards - means, 0.0)
