"""The key/value cache: pages that rows share, and attention that reads only what is live.

All layers' keys and values lie in one pool of pages. A page holds `page_size` consecutive positions
of one sequence; a row names its pages in a table, so rows of different lengths waste at most a page
each, and rows with a common prefix can name the same pages. Which page belongs to whom is the
caller's business (`sampling/pages.py`); here is only how pages are written and attended to.

Two shapes of call exist. Prefill feeds T tokens a row, which attend to one another and to the
pages before them. Decode feeds one token a row and walks a *work list* of the (row, page) pairs
that are live, so that its cost follows the live tokens and not the longest row. On TPU, decode
uses JAX's ragged paged attention kernel instead.

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
from cipo_jax.policy.sharding import ROWS, Rules, constrain, spec

PAGES_AXES = ("layers", "batch", None, "kv_heads", "head_dim")


@struct.dataclass
class WorkList:
    """The live (row, page) pairs of a decode step, n slots per row shard, padded at the end.

    Attributes:
      row: [n] int32, the row, counted within its shard.
      page: [n] int32, the page.
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
      pages: [L, P, page_size, 2K, H]; heads alternate between key and value.
      table: [B, W] int32; `table[b, w]` holds positions w * page_size ... of row b.
      work: what a decode step reads; None in prefill.
      context_pages: prefill: how many leading table columns may hold tokens before this call's.
    """

    pages: jax.Array
    table: jax.Array
    work: WorkList | None = None
    context_pages: int = struct.field(pytree_node=False, default=0)


def empty_pages(
    num_layers: int,
    num_pages: int,
    page_size: int,
    num_kv_heads: int,
    head_dim: int,
    dtype: str,
    rules: Rules = (),
) -> jax.Array:
    """[L, P, page_size, 2K, H] zeros."""
    shape = (num_layers, num_pages, page_size, 2 * num_kv_heads, head_dim)
    return constrain(jnp.zeros(shape, dtype), rules, PAGES_AXES)


def copy_pages(
    pages: jax.Array, source: jax.Array, target: jax.Array, count: jax.Array, rules: Rules = ()
) -> jax.Array:
    """Copies page `source[i]` to `target[i]` in all layers, for i < count.

    Args:
      source, target: [n] int32 per row shard.
      count: [1] int32 per row shard.
    """

    def copy(pages: jax.Array, source: jax.Array, target: jax.Array, count: jax.Array) -> jax.Array:
        # One at a time: a gather of all would hold them twice.
        def one(i: jax.Array, pages: jax.Array) -> jax.Array:
            page = jax.lax.dynamic_slice_in_dim(pages, source[i], 1, axis=1)
            return jax.lax.dynamic_update_slice_in_dim(pages, page, target[i], axis=1)

        return jax.lax.fori_loop(0, count[0], one, pages)

    rows = P(ROWS)
    pool = spec(rules, PAGES_AXES) if rules else None
    return _per_shard(copy, rules, (pool, rows, rows, rows), pool)(pages, source, target, count)


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
    kv = jnp.stack([k, v], axis=3)  # [B, T, K, 2, H]
    kv = kv.reshape(*k.shape[:2], -1, k.shape[-1]).astype(cache.pages.dtype)
    attend = functools.partial(
        _attend_shard,
        context_pages=cache.context_pages,
        scale=scale,
        windows=windows or ((None,) if window is None else (int(window),)),
        soft_cap=soft_cap,
        kernel=platform() == "tpu" and not kernel_refuses(q),
    )
    if not rules:
        shard = attend
    else:
        heads = dict(rules)["kv_heads"]  # queries follow: a shard needs the keys of its queries
        pool, rows, by_head = (
            spec(rules, PAGES_AXES),
            P(ROWS),
            P(ROWS, None, heads, None),
        )
        as_rows: Any = (rows, rows, rows, rows)
        work = None if cache.work is None else WorkList(*as_rows)
        window_spec = None if window is None else P()
        shard = _per_shard(
            attend,
            rules,
            (pool, P(), by_head, by_head, rows, rows, rows, work, window_spec),
            (by_head, pool),
        )
    if window is not None:
        window = jnp.asarray(window, jnp.int32)
    out, pages = shard(
        cache.pages, layer, q, kv, cache.table, positions, segments, cache.work, window
    )
    return out, dataclasses.replace(cache, pages=pages)


def _per_shard(function: Any, rules: Rules, in_specs: Any, out_specs: Any) -> Any:
    """`function` on each device's own rows, pages and heads."""
    if not rules:
        return function
    return jax.shard_map(function, in_specs=in_specs, out_specs=out_specs, check_vma=False)


def _attend_shard(
    pages: jax.Array,
    layer: jax.Array,
    q: jax.Array,
    kv: jax.Array,
    table: jax.Array,
    positions: jax.Array,
    segments: jax.Array,
    work: WorkList | None,
    window: jax.Array | None,
    *,
    context_pages: int,
    scale: float,
    windows: Sequence[int | None],
    soft_cap: float | None,
    kernel: bool,
) -> tuple[jax.Array, jax.Array]:
    L, num_pages, page_size = pages.shape[:3]
    flat = pages.reshape(L * num_pages, *pages.shape[2:])
    first_page = layer * num_pages

    write = _write_tokens if work is not None else _write_pages
    flat = write(flat, kv, first_page + table, positions, segments)

    if kernel:
        branches = [
            functools.partial(_kernel, scale=scale, window=w, soft_cap=soft_cap) for w in windows
        ]
        sizes = jnp.asarray([attention.window_size(w) for w in windows], jnp.int32)
        which = 0 if window is None else jnp.argmax(sizes == window)
        out = jax.lax.switch(which, branches, q, flat, first_page + table, positions[:, 0])
    elif work is not None:
        options: Any = {"scale": scale, "window": window, "soft_cap": soft_cap}
        out = _walk(q[:, 0], flat, first_page, work, positions[:, 0], **options)[:, None]
    else:
        keys, values = kv[:, :, 0::2], kv[:, :, 1::2]
        k_positions, k_segments = positions, segments
        if context_pages:
            before = flat[first_page + table[:, :context_pages]]  # [B, C, page_size, 2K, H]
            before = before.reshape(len(before), -1, *before.shape[3:])
            at = jnp.arange(before.shape[1], dtype=jnp.int32)[None]
            known = at < positions[:, :1]  # tokens before this call's first
            keys = jnp.concatenate([before[:, :, 0::2], keys], axis=1)
            values = jnp.concatenate([before[:, :, 1::2], values], axis=1)
            k_positions = jnp.concatenate([jnp.broadcast_to(at, known.shape), positions], axis=1)
            k_segments = jnp.concatenate([known.astype(jnp.int32), segments], axis=1)
        out = attention.attend(
            q,
            keys,
            values,
            positions,
            segments,
            k_positions,
            k_segments,
            scale=scale,
            window=window,
            soft_cap=soft_cap,
        )
    return out.astype(q.dtype), flat.reshape(pages.shape)


def _write_tokens(
    flat: jax.Array, kv: jax.Array, table: jax.Array, positions: jax.Array, segments: jax.Array
) -> jax.Array:
    """Puts each row's one token [B, 1, 2K, H] into its place; `table` [B, W] names pages of
    `flat`."""
    page_size = flat.shape[1]
    column = jnp.minimum(positions // page_size, table.shape[1] - 1)
    page = jnp.take_along_axis(table, column, axis=1)
    page = jnp.where(segments > 0, page, len(flat))  # out of range: not written
    return flat.at[page, positions % page_size].set(kv, mode="drop")


def _write_pages(
    flat: jax.Array, kv: jax.Array, table: jax.Array, positions: jax.Array, segments: jax.Array
) -> jax.Array:
    """Puts each row's tokens [B, T, 2K, H] into its pages, of which the first begins with the row's
    first token. One page after the other: as a scatter, the TPU compiler copies the pool into
    another layout and back. What lies behind a row's last token is overwritten by later ones.
    """
    B, T = positions.shape
    page_size = flat.shape[1]
    count = -(-T // page_size)
    kv = jnp.pad(kv, ((0, 0), (0, count * page_size - T), (0, 0), (0, 0)))
    at = jnp.arange(count, dtype=jnp.int32)[None]
    column = jnp.minimum(positions[:, :1] // page_size + at, table.shape[1] - 1)
    page = jnp.take_along_axis(table, column, axis=1)
    tokens = jnp.sum(segments > 0, axis=1, keepdims=True)
    used = (at * page_size < tokens).reshape(-1)
    kv, page = kv.reshape(B * count, page_size, *kv.shape[2:]), page.reshape(-1)
    order = jnp.argsort(~used)

    def write(i: jax.Array, flat: jax.Array) -> jax.Array:
        which = order[i]
        return jax.lax.dynamic_update_slice_in_dim(flat, kv[which][None], page[which], axis=0)

    # As many turns as there is to write: a loop known to have one would be dissolved, and the pool
    # copied.
    return jax.lax.fori_loop(0, jnp.sum(used), write, flat)


# (row, page) pairs taken at once. A step's fixed cost is spread over them; on TPU the kernel is
# used instead.
WORK_BLOCK = 32


def _walk(
    q: jax.Array,
    flat: jax.Array,
    first_page: jax.Array,
    work: WorkList,
    positions: jax.Array,
    *,
    scale: float,
    window: jax.Array | None,
    soft_cap: float | None,
) -> jax.Array:
    """[B, N, H] attention of one token a row over its pages, by the work list.

    A running softmax per row: every block of pairs adds its scores' exponentials and weighted
    values, rescaled to the largest score seen so far.
    """
    B, N, H = q.shape
    page_size, K = flat.shape[1], flat.shape[2] // 2
    block = min(WORK_BLOCK, len(work.row))
    grouped = q.reshape(B, K, N // K, H)

    def take(x: jax.Array, i: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice_in_dim(x, i * block, block)

    def step(i: jax.Array, carry: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        top, total, mixed = carry  # [B, K, g], [B, K, g], [B, K, g, H]
        row, page, first = take(work.row, i), take(work.page, i), take(work.first, i)
        used = i * block + jnp.arange(block) < work.count[0]
        kv = flat[first_page + page]  # [n, page_size, 2K, H]
        scores = jnp.einsum(
            "nkgh,npkh->nkgp", grouped[row], kv[:, :, 0::2], preferred_element_type=jnp.float32
        )
        scores = scores * scale
        if soft_cap is not None:
            scores = soft_cap * jnp.tanh(scores / soft_cap)
        at = first[:, None] + jnp.arange(page_size)
        now = positions[row][:, None]
        seen = (at <= now) & used[:, None]
        if window is not None:
            seen &= at > now - window
        scores = jnp.where(seen[:, None, None], scores, attention.MASKED)
        to = jnp.where(used, row, B)
        new_top = top.at[to].max(scores.max(axis=-1), mode="drop")
        weights = jnp.exp(scores - new_top[row][..., None]) * seen[:, None, None]
        values = jnp.einsum(
            "nkgp,npkh->nkgh",
            weights.astype(kv.dtype),
            kv[:, :, 1::2],
            preferred_element_type=jnp.float32,
        )
        shrink = jnp.exp(top - new_top)
        total = (total * shrink).at[to].add(weights.sum(axis=-1), mode="drop")
        mixed = (mixed * shrink[..., None]).at[to].add(values, mode="drop")
        return new_top, total, mixed

    g = N // K
    zeros = jnp.zeros((B, K, g), jnp.float32)
    start = (zeros + attention.MASKED, zeros, jnp.zeros((B, K, g, H), jnp.float32))
    blocks = (work.count[0] + block - 1) // block
    _, total, mixed = jax.lax.fori_loop(0, blocks, step, start)
    out = mixed / jnp.maximum(total, 1e-30)[..., None]
    return out.reshape(B, N, H).astype(q.dtype)


# Tokens of keys and values that the kernel loads at once, and queries it takes together. Its own
# table of block sizes asks for the device at hand, which a program compiled ahead does not have.
KERNEL_TOKENS, KERNEL_QUERIES = 512, 32


def kernel_refuses(q: jax.Array) -> str:
    """Why the TPU kernel can't take these queries [B, T, N, H]; "" if it can."""
    return "" if q.shape[3] % 128 == 0 else f"head_dim is {q.shape[3]}, no multiple of 128"


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
      q: [B, T, N, H]; a row's padding, at its end, gets numbers without meaning.
      table: [B, W] pages of `flat`, which hold the rows' own tokens already.
      first: [B] int32, position of each row's first token.
    """
    # Late: other devices than TPUs need not wait for the import.
    from jax.experimental.pallas.ops.tpu import ragged_paged_attention as kernels

    B, T, N, H = q.shape
    page_size = flat.shape[1]
    if T > 1:  # padding may lie beyond the table
        table = jnp.pad(table, ((0, 0), (0, -(-T // page_size))))
    out = kernels.ragged_paged_attention(
        q.reshape(B * T, N, H),
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
    return out.reshape(B, T, N, H)
