"""Attention to the key/value cache, which reads only what is live.

Two shapes of call exist. Prefill feeds T tokens a row, which attend to one another and to the
pages before them. Decode feeds one token a row and walks a *work list* of the (row, page) pairs
that are live, so that its cost follows the live tokens and not the longest row. Kernels do both by
the table: JAX's ragged paged attention on TPU, our own on CUDA GPUs (`gpu_kernel`). On GPUs without
them, decode reads by the table in a few large steps (`columns`).

Under a mesh, pages are split with the rows (each group of devices that holds some rows has its own
pages, numbered from 0) and heads with the tensor axis.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax.sharding import PartitionSpec as P

from cipo_jax.policy import attention
from cipo_jax.policy.attention_kernels import platform
from cipo_jax.policy.cache.columns import attend_columns
from cipo_jax.policy.cache.pages import (
    Pages,
    all_layers,
    by_layer,
    padded,
    page_size_of,
    page_specs,
    per_shard,
    read_rows,
    write_pages,
    write_tokens,
)
from cipo_jax.policy.sharding import ROWS, Rules


@struct.dataclass
class WorkList:
    """The live (row, page) pairs of a decode step, n slots per row shard, padded at the end.

    Attributes:
      row: [n] int32, counted within its shard.
      page: [n] int32.
      first: [n] int32, position of the page's first token.
      count: [1] int32, how many of the n are in use.
    """

    row: jax.Array
    page: jax.Array
    first: jax.Array
    count: jax.Array


@struct.dataclass
class PagedCache:
    """Keys and values, and how the rows of this call use them.

    Attributes:
      table: [B, W] int32; `table[b, w]` holds positions w * page_size ... of row b.
      work: what a decode step reads; None in prefill. Kernels and GPUs do not read it.
      context_pages: prefill: how many leading table columns may hold tokens before this call's.
        Kernels, which read what is there, do without it.
    """

    pages: Pages
    table: jax.Array
    work: WorkList | None = None
    context_pages: int = struct.field(pytree_node=False, default=0)


def attend_paged(
    cache: PagedCache,
    layer: jax.Array,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    positions: jax.Array,
    segments: jax.Array,
    *,
    scale: float,
    window: int | jax.Array | None = None,
    windows: Sequence[int | None] = (),
    soft_cap: float | None = None,
    rules: Rules = (),
) -> tuple[jax.Array, PagedCache]:
    """Writes the keys and values of this call's tokens, then attends.

    Args:
      layer: [] int32.
      q: [B, T, N, H]; k, v: [B, T, K, H], rotated.
      positions, segments: [B, T] int32; segment 0 is padding, at the end of a row. The positions
        of its other tokens are consecutive and, in prefill, begin a page.
      scale, window, windows, soft_cap: as in `attention_kernels.attend_rows`.

    Returns:
      [B, T, N, H] in q's dtype; the cache with the new tokens.
    """
    attend = functools.partial(
        _attend_shard,
        gpu=platform() == "gpu",
        context_pages=cache.context_pages,
        scale=scale,
        windows=windows or ((None,) if window is None else (int(window),)),
        soft_cap=soft_cap,
    )
    shard: Any = attend
    if rules:
        heads = dict(rules)["kv_heads"]  # queries follow: a shard needs the keys of its queries
        pool, rows = page_specs(cache.pages, rules), P(ROWS)
        by_head = P(ROWS, None, heads, None)
        as_rows: Any = (rows, rows, rows, rows)
        work = None if cache.work is None else WorkList(*as_rows)
        new = (by_head, by_head, by_head)
        in_specs = (pool, P(), *new, rows, rows, rows, work, None if window is None else P())
        shard = per_shard(attend, rules, in_specs, (by_head, pool))
    if window is not None:
        window = jnp.asarray(window, jnp.int32)
    out, pages = shard(
        cache.pages, layer, q, k, v, cache.table, positions, segments, cache.work, window
    )
    return out, dataclasses.replace(cache, pages=pages)


def _attend_shard(
    pages: Pages,
    layer: jax.Array,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    table: jax.Array,
    positions: jax.Array,
    segments: jax.Array,
    work: WorkList | None,
    window: jax.Array | None,
    *,
    gpu: bool,
    context_pages: int,
    scale: float,
    windows: Sequence[int | None],
    soft_cap: float | None,
) -> tuple[jax.Array, Pages]:
    flat = all_layers(pages)
    first_page = layer * pages[0].shape[1]

    write = functools.partial(write_pages, at_once=gpu) if work is None else write_tokens
    flat = write(flat, k, v, first_page + table, positions, segments)

    options: Any = {"scale": scale, "window": window, "soft_cap": soft_cap}
    if gpu and len(flat) == 1:
        # Late, because only GPUs need this slow import.
        from cipo_jax.policy.cache import gpu_kernel

        if work is None:
            rows = positions[:, 0], jnp.sum(segments > 0, axis=1, dtype=jnp.int32)
            out = gpu_kernel.attend_stretch(q, flat, first_page, table, *rows, **options)
        else:
            lengths = _live_lengths(positions, segments)
            out = gpu_kernel.attend_pages(q[:, 0], flat, first_page, table, lengths, **options)
            out = out[:, None]
    elif gpu and work is not None:
        lengths = _live_lengths(positions, segments)
        out = attend_columns(q[:, 0], flat, first_page, table, lengths, **options)[:, None]
    elif len(flat) == 1:  # TPU's kernel
        branches = [functools.partial(_kernel, **{**options, "window": w}) for w in windows]
        sizes = jnp.asarray([attention.window_size(w) for w in windows], jnp.int32)
        which = 0 if window is None else jnp.argmax(sizes == window)
        out = jax.lax.switch(which, branches, q, *flat, first_page + table, positions[:, 0])
    elif work is not None:
        out = _walk(q[:, 0], flat, first_page, work, positions[:, 0], **options)[:, None]
    else:
        keys, values = (x.astype(flat[0].dtype) for x in (k, v))
        k_positions, k_segments = positions, segments
        if context_pages:
            before = read_rows(flat, first_page + table[:, :context_pages])
            at = jnp.arange(before[0].shape[1], dtype=jnp.int32)[None]
            known = at < positions[:, :1]  # tokens before this call's first
            keys = jnp.concatenate([before[0], keys], axis=1)
            values = jnp.concatenate([before[1], values], axis=1)
            k_positions = jnp.concatenate([jnp.broadcast_to(at, known.shape), positions], axis=1)
            k_segments = jnp.concatenate([known.astype(jnp.int32), segments], axis=1)
        queries = (positions, segments)
        out = attention.attend(q, keys, values, *queries, k_positions, k_segments, **options)
    return out.astype(q.dtype), by_layer(flat, len(pages[0]))


def _live_lengths(positions: jax.Array, segments: jax.Array) -> jax.Array:
    """[B] tokens of each row, its one new token [B, 1] included; 0 where that is padding."""
    return jnp.where(segments[:, 0] > 0, positions[:, 0] + 1, 0)


# (row, page) pairs of one step of `_walk`, over which its fixed cost is spread.
WORK_BLOCK = 32


def _walk(
    q: jax.Array,
    flat: Pages,
    first_page: jax.Array,
    work: WorkList,
    positions: jax.Array,
    *,
    scale: float,
    window: jax.Array | None,
    soft_cap: float | None,
) -> jax.Array:
    """[B, N, H] attention of one token a row to its pages, by the work list.

    A running softmax per row: every block of pairs adds its scores' exponentials and weighted
    values, rescaled to the largest score so far."""
    B, N, H = q.shape
    page_size, K = page_size_of(flat), flat[0].shape[1]
    block = min(WORK_BLOCK, len(work.row))
    grouped = q.reshape(B, K, N // K, H)
    as_float32: Any = {"preferred_element_type": jnp.float32}

    def take(x: jax.Array, i: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice_in_dim(x, i * block, block)

    def step(i: jax.Array, carry: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        top, total, mixed = carry  # [B, K, g], [B, K, g], [B, K, g, H]
        row, page, first = take(work.row, i), take(work.page, i), take(work.first, i)
        used = i * block + jnp.arange(block) < work.count[0]
        keys, values = (x[first_page + page] for x in flat)  # [n, K, H, page_size] and transposed
        scores = jnp.einsum("nkgh,nkhp->nkgp", grouped[row], keys, **as_float32)
        scores = attention.soft_capped(scores * scale, soft_cap)
        at = first[:, None] + jnp.arange(page_size)
        now = positions[row][:, None]
        seen = (at <= now) & used[:, None]
        if window is not None:
            seen &= at > now - window
        scores = jnp.where(seen[:, None, None], scores, attention.MASKED)
        to = jnp.where(used, row, B)
        new_top = top.at[to].max(scores.max(axis=-1), mode="drop")
        weights = jnp.exp(scores - new_top[row][..., None]) * seen[:, None, None]
        mix = jnp.einsum("nkgp,nkph->nkgh", weights.astype(values.dtype), values, **as_float32)
        shrink = jnp.exp(top - new_top)
        total = (total * shrink).at[to].add(weights.sum(axis=-1), mode="drop")
        mixed = (mixed * shrink[..., None]).at[to].add(mix, mode="drop")
        return new_top, total, mixed

    zeros = jnp.zeros((B, K, N // K), jnp.float32)
    start = (zeros + attention.MASKED, zeros, jnp.zeros(grouped.shape, jnp.float32))
    blocks = (work.count[0] + block - 1) // block
    _, total, mixed = jax.lax.fori_loop(0, blocks, step, start)
    out = mixed / jnp.maximum(total, 1e-30)[..., None]
    return out.reshape(B, N, H).astype(q.dtype)


# Tokens of keys and values that the kernel loads at once, and queries it takes together. Its own
# table of block sizes needs the device itself, which a program compiled ahead does not have.
KERNEL_TOKENS, KERNEL_QUERIES = 512, 32


def _kernel(
    q: jax.Array,
    flat: jax.Array,
    table: jax.Array,
    first: jax.Array,
    *,
    scale: float,
    window: int | None,
    soft_cap: float | None,
) -> jax.Array:
    """Attention of T tokens a row to the row's pages, by JAX's ragged paged attention for TPU.

    Args:
      q: [B, T, N, H]; the padding at a row's end gets meaningless numbers.
      flat: [L P, page_size, 2K, H or wider, with zeros].
      table: [B, W] pages of `flat`, which hold the rows' own tokens already.
      first: [B] int32, position of each row's first token.
    """
    # Late, because only TPUs need this slow import.
    from jax.experimental.pallas.ops.tpu import ragged_paged_attention as kernels

    B, T, N, H = q.shape
    page_size = flat.shape[1]
    if T > 1:  # padding may lie beyond the table
        table = jnp.pad(table, ((0, 0), (0, -(-T // page_size))))
    out = kernels.ragged_paged_attention(
        padded(q.reshape(B * T, N, H), flat.shape[-1]),
        flat,
        first + T,
        table,
        T * jnp.arange(B + 1, dtype=jnp.int32),
        jnp.full((1,), B, jnp.int32),
        sm_scale=scale,
        sliding_window=window,
        soft_cap=soft_cap,
        num_kv_pages_per_block=min(table.shape[1], max(1, KERNEL_TOKENS // page_size)),
        num_queries_per_block=min(B * T, KERNEL_QUERIES),
    )
    return out[..., :H].reshape(B, T, N, H)
