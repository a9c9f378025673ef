"""Causal grouped-query attention over rows that may hold several sequences.

One portable reference in plain XLA. A token sees the tokens of its own segment at or before its
own position; segment 0 is padding. The same rule serves packed training rows, left-padded prompts
and decoding against a cache. Queries are taken in blocks, so that scores of shape
[B, N, T, S] are never held for long rows.
"""

import jax
import jax.numpy as jnp

QUERY_BLOCK = 1024
# Finite, so that a row with nothing to see (padding) yields numbers, not NaN.
MASKED = -1e30


def visible(
    q_positions: jax.Array, q_segments: jax.Array, k_positions: jax.Array, k_segments: jax.Array
) -> jax.Array:
    """[B, T, S] bool: which keys each query may attend to, from [B, T] and [B, S] int32."""
    same = q_segments[:, :, None] == k_segments[:, None, :]
    not_later = k_positions[:, None, :] <= q_positions[:, :, None]
    return same & not_later & (k_segments[:, None, :] > 0)


def attend(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    q_positions: jax.Array,
    q_segments: jax.Array,
    k_positions: jax.Array,
    k_segments: jax.Array,
) -> jax.Array:
    """Attention output.

    Args:
      q: [B, T, N, H] queries, N a multiple of K.
      k, v: [B, S, K, H] keys and values.
      q_positions, q_segments: [B, T] int32.
      k_positions, k_segments: [B, S] int32.

    Returns:
      [B, T, N, H] in q's dtype; scores and softmax are float32.
    """
    T = q.shape[1]
    if T <= QUERY_BLOCK:
        return _attend_block(q, k, v, visible(q_positions, q_segments, k_positions, k_segments))

    @jax.checkpoint
    def block(args: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        q_block, positions, segments = args
        return _attend_block(q_block, k, v, visible(positions, segments, k_positions, k_segments))

    blocks = tuple(split_tokens(x, QUERY_BLOCK) for x in (q, q_positions, q_segments))
    return join_tokens(jax.lax.map(block, blocks), T)


def split_tokens(x: jax.Array, block: int) -> jax.Array:
    """[B, T, ...] -> [ceil(T / block), B, block, ...], the last block padded with zeros."""
    B, T = x.shape[:2]
    blocks = -(-T // block)
    x = jnp.pad(x, [(0, 0), (0, blocks * block - T), *[(0, 0)] * (x.ndim - 2)])
    return jnp.moveaxis(x.reshape(B, blocks, block, *x.shape[2:]), 1, 0)


def join_tokens(x: jax.Array, T: int) -> jax.Array:
    """The inverse of `split_tokens` for T tokens."""
    blocks, B, block = x.shape[:3]
    return jnp.moveaxis(x, 0, 1).reshape(B, blocks * block, *x.shape[3:])[:, :T]


def _attend_block(q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array) -> jax.Array:
    """`attend` for one block of queries, with mask [B, T, S]."""
    B, T, N, H = q.shape
    K = k.shape[2]
    grouped = q.reshape(B, T, K, N // K, H)
    scores = jnp.einsum("btkgh,bskh->bkgts", grouped, k, preferred_element_type=jnp.float32)
    scores = jnp.where(mask[:, None, None], scores * H**-0.5, MASKED)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    return jnp.einsum("bkgts,bskh->btkgh", weights, v).reshape(B, T, N, H)
