"""Sampling on CUDA GPUs by kernels that read the pages of each row where they lie.

`attend_stretch`, for prefill: a program takes a block of a stretch's tokens and loops over the
blocks of keys that they see, the stretch's own and those before it alike.

`attend_pages`, for decoding: a row's keys are read in parts, by as many programs, so that a few
long rows use the whole card; a second, small kernel combines the parts.
The parts and the order of sums depend only on the number of tokens that the row sees, on the width
of its heads and on the cache's dtype. So the same keys give the same bits, whatever the other rows
are, on which pages the keys lie and how large those are; another kind of card, or of compiler, may
give other ones. Nothing is added atomically: a run repeats itself on one card.

Compared with the reference in interpret mode, and compiled for H100, A100 and L4; not timed.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from cipo_jax.policy import attention, attention_kernels
from cipo_jax.policy.cache.pages import Pages
from cipo_jax.policy.triton_attention import (
    add_block,
    keys_of,
    nothing_added,
    power_of_two,
    product,
    query_blocks,
)

# A part has at least so many tokens, which pays for its result; a row has at most so many parts.
PART_TOKENS, PARTS = 256, 16
# Bytes of keys that a turn of a part's loop loads at most, and as many of values.
BLOCK_BYTES = 16 << 10
# A matrix product has at least so many rows on tensor cores.
QUERIES = 16


def attend_pages(
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
    """Attention of one token a row to the row's pages, on one device's arrays.

    Args:
      q: [B, N, H].
      flat: the one array [L P, page_size, 2K, H], keys and values alternating.
      first_page: [] int32, added to the pages of `table`.
      table: [B, W] int32; `table[b, w]` holds positions w * page_size ... of row b.
      lengths: [B] int32, tokens that a row has, its new one included; 0: the row is not read.
      window: how many of them, at most, the new one sees; None: all.

    Returns:
      [B, N, H] in q's dtype; 0 for rows of length 0.
    """
    [pool] = flat
    (B, N, H), K = q.shape, pool.shape[2] // 2
    group = N // K
    block = _block(H, pool.dtype.itemsize)
    scalars = _scalars(first_page, window)
    rows: Any = {"block": block, "part_blocks": max(1, PART_TOKENS // block)}
    read = functools.partial(_read_part, scale=scale, soft_cap=soft_cap, **rows)
    of_part = (B, K, PARTS, group)
    shapes = ((*of_part, H), of_part, of_part)
    parts = pl.pallas_call(
        read,
        # Programs start in the order of the first number, then the second: heads side by side read
        # neighbouring memory, and parts that no row has come last.
        grid=(K, B, PARTS),
        out_shape=[jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes],
        **_options(num_warps=4, num_stages=3),
    )(q.reshape(B, K, group, H), pool, table, lengths, scalars)
    return pl.pallas_call(
        functools.partial(_combine_parts, **rows),
        grid=(N, B),
        out_shape=jax.ShapeDtypeStruct(q.shape, q.dtype),
        **_options(num_warps=4, num_stages=1),
    )(*parts, lengths, scalars)


def attend_stretch(
    q: jax.Array,
    flat: Pages,
    first_page: jax.Array,
    table: jax.Array,
    positions: jax.Array,
    lengths: jax.Array,
    *,
    window: jax.Array | int | None,
    scale: float,
    soft_cap: float | None,
) -> jax.Array:
    """Attention of a stretch of each row's tokens to the row's pages, which hold its own keys and
    values already; arguments as of `attend_pages`, except for:

    Args:
      q: [B, T, N, H].
      positions: [B] int32, of each stretch's first token.
      lengths: [B] int32, tokens of each stretch.

    Returns:
      [B, T, N, H] in q's dtype; 0 behind a stretch's last token.
    """
    [pool] = flat
    B, T, N, H = q.shape
    most, _ = query_blocks(H, jnp.promote_types(q.dtype, pool.dtype).itemsize)
    queries = min(most, max(16, power_of_two(T)))
    # Keys of a block, whatever T is, so that T does not change the order of sums.
    sizes = (queries, keys_of(most))
    return pl.pallas_call(
        functools.partial(_read_stretch, scale=scale, soft_cap=soft_cap, sizes=sizes),
        grid=(pl.cdiv(T, queries), N, B),
        out_shape=jax.ShapeDtypeStruct(q.shape, q.dtype),
        **_options(num_warps=8 if queries > 64 else 4, num_stages=2),
    )(q, pool, table, positions, lengths, _scalars(first_page, window))


def _scalars(first_page: jax.Array, window: jax.Array | int | None) -> jax.Array:
    """[2] int32: what the kernels take besides arrays."""
    seen = attention.NO_WINDOW if window is None else window
    return jnp.stack([jnp.asarray(x, jnp.int32) for x in (first_page, seen)])


def _options(num_warps: int, num_stages: int) -> dict[str, Any]:
    return {
        "compiler_params": triton.CompilerParams(num_warps=num_warps, num_stages=num_stages),
        "interpret": attention_kernels.INTERPRET,
    }


def _block(H: int, itemsize: int) -> int:
    """Tokens that a turn of a part's loop takes."""
    return min(128, max(16, BLOCK_BYTES // (power_of_two(H) * itemsize)))


def _row_parts(
    length: jax.Array, window: jax.Array, *, block: int, part_blocks: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(first, per_part, parts): a row's first block that is read, blocks of a part, parts."""
    first = jnp.maximum(length - window, 0) // block
    blocks = (length + block - 1) // block - first
    per_part = jnp.maximum(part_blocks, (blocks + PARTS - 1) // PARTS)
    return first, per_part, (blocks + per_part - 1) // per_part


def _load_tokens(
    pool_ref: Any, table_ref: Any, scalars_ref: Any, row: Any, head: Any, at: jax.Array, live: Any
) -> tuple[jax.Array, jax.Array]:
    """Keys and values [tokens, H padded with zeros] of a head at the positions `at` of a row; 0
    where they are not `live`."""
    page_size, H = pool_ref.shape[1], pool_ref.shape[3]
    dims = jnp.arange(power_of_two(H))
    page = triton.load(table_ref.at[row, at // page_size], mask=live, other=0) + scalars_ref[0]
    mask = live[:, None] & (dims < H)[None, :]

    def load(alternate: Any) -> jax.Array:
        place = (page[:, None], (at % page_size)[:, None], alternate, dims[None, :])
        return triton.load(pool_ref.at[place], mask=mask, other=0.0)

    return load(2 * head), load(2 * head + 1)


def _read_stretch(
    q_ref: Any,  # [B, T, N, H]
    pool_ref: Any,  # [L P, page_size, 2K, H]
    table_ref: Any,  # [B, W]
    positions_ref: Any,  # [B]
    lengths_ref: Any,  # [B]
    scalars_ref: Any,  # [2]: first page, window
    out_ref: Any,  # [B, T, N, H]
    *,
    scale: float,
    soft_cap: float | None,
    sizes: tuple[int, int],
) -> None:
    queries, keys = sizes
    begin, query_head, row = pl.program_id(0) * queries, pl.program_id(1), pl.program_id(2)
    T, N, H = q_ref.shape[1:]
    head = query_head // (N // (pool_ref.shape[2] // 2))
    first, length, window = positions_ref[row], lengths_ref[row], scalars_ref[1]
    column, dims = begin + jnp.arange(queries), jnp.arange(power_of_two(H))
    now = first + column
    place = (row, column[:, None], query_head, dims[None, :])
    mask = (column < T)[:, None] & (dims < H)[None, :]
    q = triton.load(q_ref.at[place], mask=mask, other=0.0)
    dtype = jnp.promote_types(q.dtype, pool_ref.dtype)
    end = first + jnp.minimum(begin + queries, length)

    def turn(i: jax.Array, carry: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        at = i * keys + jnp.arange(keys)
        live = at < end
        k, v = _load_tokens(pool_ref, table_ref, scalars_ref, row, head, at, live)
        distance = now[:, None] - at[None, :]
        seen = live[None, :] & (distance >= 0) & (distance < window) & (column < length)[:, None]
        scores = product(q.astype(dtype), k.astype(dtype), trans_b=True)
        return add_block(carry, attention.soft_capped(scores * scale, soft_cap), seen, v)

    oldest = jnp.maximum(first + begin - (window - 1), 0)
    blocks = (oldest // keys, (end + keys - 1) // keys)
    _, total, mixed = jax.lax.fori_loop(*blocks, turn, nothing_added(q))
    out = mixed / jnp.maximum(total, 1e-30)[:, None]
    triton.store(out_ref.at[place], out.astype(out_ref.dtype), mask=mask)


def _read_part(
    q_ref: Any,  # [B, K, group, H]
    pool_ref: Any,  # [L P, page_size, 2K, H]
    table_ref: Any,  # [B, W]
    lengths_ref: Any,  # [B]
    scalars_ref: Any,  # [2]: first page, window
    mixed_ref: Any,  # [B, K, PARTS, group, H]: values, by the exponentials of scores
    top_ref: Any,  # [B, K, PARTS, group]: the largest score
    total_ref: Any,  # [B, K, PARTS, group]: sum of the exponentials of scores less the largest
    *,
    scale: float,
    soft_cap: float | None,
    block: int,
    part_blocks: int,
) -> None:
    head, row, part = pl.program_id(0), pl.program_id(1), pl.program_id(2)
    group, H = q_ref.shape[2:]
    length, window = lengths_ref[row], scalars_ref[1]
    first, per_part, parts = _row_parts(length, window, block=block, part_blocks=part_blocks)

    @pl.when(part < parts)
    def _() -> None:
        queries = jnp.arange(max(QUERIES, power_of_two(group)))
        dims = jnp.arange(power_of_two(H))
        of_group = queries < group
        place = (row, head, queries[:, None], dims[None, :])
        mask = of_group[:, None] & (dims < H)[None, :]
        q = triton.load(q_ref.at[place], mask=mask, other=0.0)
        dtype = jnp.promote_types(q.dtype, pool_ref.dtype)

        def turn(i: jax.Array, carry: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
            at = i * block + jnp.arange(block)
            seen = (at < length) & (at >= length - window)
            keys, values = _load_tokens(pool_ref, table_ref, scalars_ref, row, head, at, seen)
            scores = product(q.astype(dtype), keys.astype(dtype), trans_b=True)
            scores = attention.soft_capped(scores * scale, soft_cap)
            return add_block(carry, scores, seen[None, :], values)

        begin = first + part * per_part
        end = jnp.minimum(begin + per_part, (length + block - 1) // block)
        top, total, mixed = jax.lax.fori_loop(begin, end, turn, nothing_added(q))
        by_query = (row, head, part, queries)
        triton.store(top_ref.at[by_query], top, mask=of_group)
        triton.store(total_ref.at[by_query], total, mask=of_group)
        by_dim = (row, head, part, queries[:, None], dims[None, :])
        triton.store(mixed_ref.at[by_dim], mixed, mask=mask)


def _combine_parts(
    mixed_ref: Any,  # these three as `_read_part` leaves them
    top_ref: Any,
    total_ref: Any,
    lengths_ref: Any,
    scalars_ref: Any,
    out_ref: Any,  # [B, N, H]
    *,
    block: int,
    part_blocks: int,
) -> None:
    query, row = pl.program_id(0), pl.program_id(1)
    group, H = mixed_ref.shape[3:]
    head, member = query // group, query % group
    length, window = lengths_ref[row], scalars_ref[1]
    *_, parts = _row_parts(length, window, block=block, part_blocks=part_blocks)
    part, dims = jnp.arange(PARTS), jnp.arange(power_of_two(H))
    used = part < parts  # the others were not written
    by_part = (row, head, part, member)
    tops = triton.load(top_ref.at[by_part], mask=used, other=attention.MASKED)
    totals = triton.load(total_ref.at[by_part], mask=used, other=0.0)
    by_dim = (row, head, part[:, None], member, dims[None, :])
    mask = used[:, None] & (dims < H)[None, :]
    mixed = triton.load(mixed_ref.at[by_dim], mask=mask, other=0.0)
    weights = jnp.where(used, jnp.exp(tops - jnp.max(tops)), 0.0)
    total = jnp.sum(totals * weights)
    out = jnp.sum(mixed * weights[:, None], axis=0) / jnp.maximum(total, 1e-30)
    triton.store(out_ref.at[row, query, dims], out.astype(out_ref.dtype), mask=dims < H)
