"""Decoding on GPUs that no kernel serves: all rows at once, some columns of the table at a time.

Every step launches a dozen kernels, whatever it reads, so steps are large. As many columns are
taken as make `STEP_BYTES` of keys and values, which are copied; the number of steps follows the
longest live row. Sums are those of matrix products, without atomic additions, whose order would
differ from run to run.
"""

from typing import Any

import jax
import jax.numpy as jnp

from cipo_jax.policy import attention
from cipo_jax.policy.cache.pages import Pages, page_size_of

STEP_BYTES = 256 << 20


def attend_columns(
    q: jax.Array,
    flat: Pages,
    first_page: jax.Array,
    table: jax.Array,
    lengths: jax.Array,
    *,
    window: jax.Array | int | None,
    scale: float,
    soft_cap: float | None,
) -> jax.Array:
    """Attention of one token a row to the row's pages, from the layout of two arrays; arguments
    and result as of `gpu_kernel.attend_pages`."""
    (B, N, H), page_size, K = q.shape, page_size_of(flat), flat[0].shape[1]
    grouped = q.reshape(B, K, N // K, H)
    row_bytes = B * sum(x[0].size * x.dtype.itemsize for x in flat)  # of one column
    columns = min(table.shape[1], max(1, STEP_BYTES // row_bytes))
    table = jnp.pad(table, ((0, 0), (0, -table.shape[1] % columns)))
    as_float32: Any = {"preferred_element_type": jnp.float32}
    # Position of the first token that a row sees.
    oldest = jnp.maximum(lengths - (attention.NO_WINDOW if window is None else window), 0)

    def step(i: jax.Array, carry: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        top, total, mixed = carry  # [B, K, g], [B, K, g], [B, K, g, H]
        pages = first_page + jax.lax.dynamic_slice_in_dim(table, i * columns, columns, axis=1)
        keys, values = (x[pages] for x in flat)  # [B, n, K, H, page_size] and transposed
        scores = jnp.einsum("bkgh,bnkhp->bkgnp", grouped, keys, **as_float32)
        scores = attention.soft_capped(scores * scale, soft_cap)
        at = i * columns * page_size + jnp.arange(columns * page_size).reshape(columns, page_size)
        seen = (at < lengths[:, None, None]) & (at >= oldest[:, None, None])
        seen = seen[:, None, None]
        scores = jnp.where(seen, scores, attention.MASKED)
        new_top = jnp.maximum(top, scores.max(axis=(-2, -1)))
        weights = jnp.exp(scores - new_top[..., None, None]) * seen
        shrink = jnp.exp(top - new_top)
        mix = jnp.einsum("bkgnp,bnkph->bkgh", weights.astype(values.dtype), values, **as_float32)
        total = total * shrink + weights.sum(axis=(-2, -1))
        return new_top, total, mixed * shrink[..., None] + mix

    zeros = jnp.zeros((B, K, N // K), jnp.float32)
    start = (zeros + attention.MASKED, zeros, jnp.zeros(grouped.shape, jnp.float32))
    tokens = columns * page_size
    begin = jnp.min(oldest, where=lengths > 0, initial=attention.NO_WINDOW) // tokens
    end = (jnp.max(lengths) + tokens - 1) // tokens
    _, total, mixed = jax.lax.fori_loop(begin, end, step, start)
    out = mixed / jnp.maximum(total, 1e-30)[..., None]
    return out.reshape(B, N, H).astype(q.dtype)
