"""How much of the correction stream's gradient right anchors may have.

What their corrections are rewarded for is mostly repeating the anchor. Where the corrections of
wrong anchors fail as whole groups, these have no advantages, and right anchors alone move the
policy: towards copying. Which limits apply is decided by `correction.right_limits`.

The weight of a class of anchors is the sum of |advantage| x completion tokens over its corrections
(with a mean over sequences, of |advantage|). It is known on the host before the update. It is no
gradient: that has each token's log-prob in it, and parts of it cancel.
"""

import dataclasses
from collections.abc import Collection, Sequence

import numpy as np

from cipo_jax.rl.packing import TrainSequence
from cipo_jax.types import CORRECTION


def class_weights(
    sequences: Sequence[TrainSequence], anchor_right: np.ndarray, aggregation: str
) -> tuple[float, float]:
    """The weights of (wrong, right) anchors.

    Args:
      sequences: only trained ones of the correction stream are read, and their `group` is the place
        of their anchor in `anchor_right`.
      anchor_right: [K] bool.
      aggregation: `algorithm.aggregation`.
    """
    weights = [0.0, 0.0]
    for s in sequences:
        if s.stream == CORRECTION and s.trained:
            tokens = 1 if aggregation == "sequence_mean" else len(s.completion)
            weights[bool(anchor_right[s.group])] += abs(s.advantage) * tokens
    return weights[0], weights[1]


def limit_right(
    corrections: Sequence[TrainSequence],
    anchor_right: np.ndarray,
    limits: Collection[str],
    aggregation: str,
    retention_is_held: bool,
) -> list[TrainSequence]:
    """The corrections, those of right anchors with advantages as the limits allow.

    "weight" scales them down to the weight of the wrong anchors, to 0 if these have none.
    "retention" makes them 0 while retention is held: right anchors then are a constraint alone.
    They stay in the loss's normaliser, as do groups whose rewards are all equal: so the step that
    wrong anchors make does not depend on these limits.

    Args:
      corrections, anchor_right, aggregation: as in `class_weights`.
      limits: of `correction.right_limits`.
      retention_is_held: `replay.Retention.is_held`.
    """
    scale = 1.0
    if "weight" in limits:
        wrong, right = class_weights(corrections, anchor_right, aggregation)
        scale = min(1.0, wrong / right) if right else 1.0
    if "retention" in limits and retention_is_held:
        scale = 0.0
    if scale == 1.0:
        return list(corrections)
    return [
        dataclasses.replace(s, advantage=scale * s.advantage) if anchor_right[s.group] else s
        for s in corrections
    ]
