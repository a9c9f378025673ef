"""How the losses of single tokens become one number per stream.

A stream's loss is sum over its tokens of weight x loss, over a normaliser:

    token_mean      every completion token counts the same: weight 1, over the number of tokens.
                    DAPO (Yu et al. 2025, arXiv 2503.14476, eq. 8).
    sequence_mean   every completion counts the same: weight 1 / |o_i|, over the number of
                    completions. GRPO (Shao et al. 2024, arXiv 2402.03300, eq. 3).
    constant        no length enters: weight 1, over (number of completions) x (token limit).
                    Dr. GRPO (Liu et al. 2025, arXiv 2503.20783, section 3.2).

The weights are computed from a microbatch, the normaliser on the host from all completions of the
minibatch: so it does not depend on how rows are split, and counts completions that were left out of
the packing because their gradient is zero.

Packed rows hold several sequences: quantities of one sequence are sums by segment id.
"""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from cipo_jax.types import CipoError

AGGREGATIONS = ("token_mean", "sequence_mean", "constant")


@dataclasses.dataclass(frozen=True)
class Aggregation:
    """See the module docstring.

    Attributes:
      kind: one of `AGGREGATIONS`.
      max_tokens: the token limit of a completion; used by "constant" alone.

    Raises:
      CipoError: an unknown kind, or "constant" without a token limit.
    """

    kind: str = "token_mean"
    max_tokens: int = 0

    def __post_init__(self) -> None:
        if self.kind not in AGGREGATIONS:
            raise CipoError(f"aggregation: got {self.kind!r}, wanted one of {AGGREGATIONS}")
        if self.kind == "constant" and self.max_tokens < 1:
            raise CipoError(
                f"aggregation max_tokens: got {self.max_tokens}, wanted the longest completion's "
                "length, by which 'constant' divides"
            )

    def normaliser(self, lengths: Sequence[int]) -> float:
        """What a stream's weighted sum is divided by, from the lengths of all its completions."""
        if self.kind == "token_mean":
            return float(sum(lengths))
        return float(len(lengths) * (1 if self.kind == "sequence_mean" else self.max_tokens))

    def token_weights(self, loss_mask: jax.Array, segments: jax.Array) -> jax.Array:
        """[R, T] float32: the weight of each token's loss, 0 off the completions.

        Args:
          loss_mask: [R, T] float32, 1 on completion tokens.
          segments: [R, T] int32, 0 is padding.
        """
        return _sequence_shares(loss_mask, segments) if self.kind == "sequence_mean" else loss_mask


TOKEN_MEAN = Aggregation("token_mean")


def segment_sums(values: jax.Array, segments: jax.Array) -> jax.Array:
    """For each token, the sum of `values` [R, T] float32 over its segment; segments [R, T] int32,
    from 0 to at most T."""

    def of_row(values: jax.Array, segments: jax.Array) -> jax.Array:
        # Every segment has a token, so T + 1 bounds their number at any packing.
        return jax.ops.segment_sum(values, segments, num_segments=len(values) + 1)[segments]

    return jax.vmap(of_row)(values, segments)


def _sequence_shares(loss_mask: jax.Array, segments: jax.Array) -> jax.Array:
    """[R, T]: 1 / |o_i| on the tokens of completion i."""
    return loss_mask / jnp.maximum(segment_sums(loss_mask, segments), 1.0)


def segment_means(values: jax.Array, loss_mask: jax.Array, segments: jax.Array) -> jax.Array:
    """[R, T]: the mean of `values` over the completion tokens of each token's sequence."""
    total = segment_sums(jnp.where(loss_mask > 0, values, 0.0), segments)
    return total / jnp.maximum(segment_sums(loss_mask, segments), 1.0)
