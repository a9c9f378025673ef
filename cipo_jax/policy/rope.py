"""Rotary position embeddings: frequencies, their stretching to longer contexts, the rotation.

Decides the numbers of every supported rope type. Which layers use which base follows from `config`;
`huggingface/rope` reads them from a config.json.
"""

import math

import jax
import jax.numpy as jnp

from cipo_jax.policy.config import ModelConfig, RopeScaling


def frequencies(head_dim: int, theta: float, scaling: RopeScaling | None = None) -> jax.Array:
    """[H / 2] float32 rotary frequencies in radians per position.

    Raises:
      ValueError: a kind of scaling that is not known.
    """
    exponent = jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim
    plain = 1.0 / theta**exponent
    if scaling is None:
        return plain
    stretched = plain / scaling.factor
    if scaling.kind == "linear":
        return stretched
    if scaling.kind == "llama3":
        turns = scaling.original_max_positions * plain / (2 * jnp.pi)
        span = scaling.high_freq_factor - scaling.low_freq_factor
        keep = jnp.clip((turns - scaling.low_freq_factor) / span, 0.0, 1.0)
    elif scaling.kind == "yarn":
        first, last = _yarn_transition(head_dim, theta, scaling)
        keep = 1 - jnp.clip((jnp.arange(head_dim // 2) - first) / (last - first), 0.0, 1.0)
    else:
        raise ValueError(f"rope scaling {scaling.kind!r} is not known: linear, llama3, yarn")
    return plain * keep + stretched * (1 - keep)


def _yarn_transition(head_dim: int, theta: float, scaling: RopeScaling) -> tuple[float, float]:
    """The indices of frequencies between which yarn goes from kept to stretched."""

    def index(turns: float) -> float:
        """Of the frequency with that many turns within the original context."""
        wave = scaling.original_max_positions / (turns * 2 * math.pi)
        return head_dim * math.log(wave) / (2 * math.log(theta))

    first, last = index(scaling.beta_fast), index(scaling.beta_slow)
    if scaling.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, head_dim - 1)
    return first, last if last != first else first + 0.001


def tables(config: ModelConfig, positions: jax.Array) -> tuple[jax.Array, jax.Array]:
    """cos and sin of the angles at `positions` [B, T], for every base in use.

    Returns:
      [n, B, T, H / 2] float32 each: n = 1, or 2 where layers with a window have their own base
      (index 1).
    """
    scaling = config.rope_scaling
    all_frequencies = [frequencies(config.head_dim, config.rope_theta, scaling)]
    lengths = [scaling.attention_factor if scaling else 1.0]
    if config.local_rope_theta is not None:
        all_frequencies.append(frequencies(config.head_dim, config.local_rope_theta))
        lengths.append(1.0)
    angles = positions[..., None].astype(jnp.float32) * jnp.stack(all_frequencies)[:, None, None]
    length = jnp.asarray(lengths, jnp.float32)[:, None, None, None]
    return length * jnp.cos(angles), length * jnp.sin(angles)


def rotate(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    """Rotates x [B, T, N, H], in halves layout, by cos and sin [B, T, H / 2]; in float32."""
    cos, sin = cos[:, :, None], sin[:, :, None]
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    halves = [first * cos - second * sin, second * cos + first * sin]
    return jnp.concatenate(halves, axis=-1).astype(x.dtype)
