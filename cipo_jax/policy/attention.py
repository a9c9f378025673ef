"""Causal grouped-query attention over rows that may hold several sequences.

The portable reference, in plain XLA. A token sees the tokens of its own segment at or before its
own position, as far back as the window reaches; segment 0 is padding. Packed and padded training
rows follow this rule, and so do prompts that are prefilled after cached tokens. It may see a second
segment in the same way: the prompt that its completion shares with others. Queries are taken
in blocks, so that the scores [B, N, T, S] of a long row never exist in full.

Not decided here: whether a kernel computes the same instead (`attention_kernels`), and how a decode
step attends to a cache (`cache/attention`).
"""

from typing import Any

import jax
import jax.numpy as jnp

QUERY_BLOCK = 1024
# Of rows that attend to themselves: tokens of the smallest block, and how many blocks at most.
COLUMN_BLOCK, COLUMN_BLOCKS = 128, 8
# Under this name attention outputs can be kept for the backward pass, see `model.REMAT_POLICIES`.
SAVED_NAME = "attention"
NO_WINDOW = 1 << 30  # wider than any row
# Finite, so that a row with nothing to see (padding) yields numbers, not NaN.
MASKED = -1e30


def window_size(window: int | None) -> int:
    """The window as a number."""
    return NO_WINDOW if window is None else window


def soft_capped(x: jax.Array, cap: float | None) -> jax.Array:
    """x squashed smoothly into (-cap, cap)."""
    return x if cap is None else cap * jnp.tanh(x / cap)


def visible(
    q_positions: jax.Array,
    q_segments: jax.Array,
    k_positions: jax.Array,
    k_segments: jax.Array,
    window: int | jax.Array | None = None,
    q_prefixes: jax.Array | None = None,
) -> jax.Array:
    """[B, T, S] bool: which keys each query may attend to, from [B, T] and [B, S] int32."""
    same = q_segments[:, :, None] == k_segments[:, None, :]
    if q_prefixes is not None:
        same |= q_prefixes[:, :, None] == k_segments[:, None, :]
    distance = q_positions[:, :, None] - k_positions[:, None, :]
    seen = same & (distance >= 0) & (k_segments[:, None, :] > 0)
    return seen if window is None else seen & (distance < window)


def attend(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    q_positions: jax.Array,
    q_segments: jax.Array,
    k_positions: jax.Array,
    k_segments: jax.Array,
    *,
    scale: float,
    window: int | jax.Array | None = None,
    soft_cap: float | None = None,
    q_prefixes: jax.Array | None = None,
) -> jax.Array:
    """Attention output.

    Args:
      q: [B, T, N, H] queries, N a multiple of K.
      k, v: [B, S, K, H] keys and values.
      q_positions, q_segments: [B, T] int32.
      k_positions, k_segments: [B, S] int32.
      scale: scores are multiplied by it.
      window: how many positions a query sees, its own included; a number or [] int32. None: all.
      soft_cap: see `soft_capped`; applied to the scaled scores.
      q_prefixes: [B, T] int32, a second segment that each query sees; None: none.

    Returns:
      [B, T, N, H] in q's dtype; scores and softmax are float32. Padding (segment 0) sees nothing
      and has no meaningful output.
    """

    def block(args: tuple[jax.Array, jax.Array, jax.Array, jax.Array | None]) -> jax.Array:
        q, positions, segments, prefixes = args
        (B, T, N, H), K = q.shape, k.shape[2]
        mask = visible(positions, segments, k_positions, k_segments, window, prefixes)
        grouped = q.reshape(B, T, K, N // K, H)
        scores = jnp.einsum("btkgh,bskh->bkgts", grouped, k, preferred_element_type=jnp.float32)
        scores = jnp.where(mask[:, None, None], soft_capped(scores * scale, soft_cap), MASKED)
        weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
        return jnp.einsum("bkgts,bskh->btkgh", weights, v).reshape(B, T, N, H)

    T = q.shape[1]
    if T <= QUERY_BLOCK:
        return block((q, q_positions, q_segments, q_prefixes))
    queries = (q, q_positions, q_segments, q_prefixes)
    blocks = jax.tree.map(lambda x: split_tokens(x, QUERY_BLOCK), queries)
    return join_tokens(jax.lax.map(jax.checkpoint(block), blocks), T)


def attend_to_earlier(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    positions: jax.Array,
    segments: jax.Array,
    *,
    q_prefixes: jax.Array | None = None,
    **options: Any,
) -> jax.Array:
    """`attend` of rows to themselves, where a token sees nothing in later columns: the tokens of a
    segment lie side by side with positions that count up, and a shared prompt before what sees it.

    Queries are taken in blocks, each with the keys up to its end: about half of the work of a long
    row, on arrays that stay in a core's cache.
    """
    T = q.shape[1]
    size = max(COLUMN_BLOCK, -(-T // COLUMN_BLOCKS))
    if size > QUERY_BLOCK:  # each block would be cut again
        size = T
    outputs = []
    for begin in range(0, T, size):
        end = min(begin + size, T)
        queries = tuple(x[:, begin:end] for x in (q, positions, segments))
        keys = tuple(x[:, :end] for x in (k, v, positions, segments))
        prefixes = None if q_prefixes is None else q_prefixes[:, begin:end]
        outputs.append(
            attend(queries[0], *keys[:2], *queries[1:], *keys[2:], q_prefixes=prefixes, **options)
        )
    return outputs[0] if len(outputs) == 1 else jnp.concatenate(outputs, axis=1)


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
