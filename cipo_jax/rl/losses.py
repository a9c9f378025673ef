"""Per-token objectives. They return values per token; `train_step` sums and normalises them."""

import jax
import jax.numpy as jnp


def clipped_surrogate(
    logprobs: jax.Array,
    old_logprobs: jax.Array,
    advantages: jax.Array,
    clip_low: float,
    clip_high: float,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """PPO's clipped objective, as a loss (to be minimised).

    -min(w A, clip(w, 1 - clip_low, 1 + clip_high) A), with the token-level importance ratio
    w = exp(logprobs - old_logprobs).

    Args:
      logprobs, old_logprobs, advantages: one shape, float32.

    Returns:
      loss per token; the ratio w; whether clipping is active (so that the gradient is zero).
    """
    ratio = jnp.exp(logprobs - old_logprobs)
    clipped = jnp.clip(ratio, 1 - clip_low, 1 + clip_high)
    plain_loss, clipped_loss = -ratio * advantages, -clipped * advantages
    return jnp.maximum(plain_loss, clipped_loss), ratio, clipped_loss > plain_loss


def kl_k3(logprobs: jax.Array, ref_logprobs: jax.Array) -> jax.Array:
    """Schulman's k3 estimate of KL(policy || reference) per token: r - 1 - log r, r = ref / policy;
    unbiased under samples of the policy, never negative."""
    log_ratio = ref_logprobs - logprobs
    return jnp.expm1(log_ratio) - log_ratio
