"""How the pages of the key/value cache lie in memory: made, copied, written and read.

Kernels, TPU's and CUDA's, read one array in which the heads of keys and values alternate; elsewhere
keys and values are two arrays, keys with the tokens last, as a matrix product of queries with them
reads them. XLA:CPU multiplies such keys several times faster than others.
"""

from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax.experimental.layout import Layout, with_layout_constraint
from jax.sharding import PartitionSpec as P

from cipo_jax.policy.attention_kernels import platform, triton_reads_pages
from cipo_jax.policy.sharding import ROWS, Rules, constrain, spec

# TPU's kernel takes heads of a multiple of this width; others are padded. This costs memory, but
# without the kernel a step copies the cache more than once.
LANES = 128

# (keys and values [L, P, page_size, 2K, H],) for kernels, H padded for TPU's, or
# (keys [L, P, K, H, page_size], values [L, P, K, page_size, H]).
Pages: TypeAlias = tuple[jax.Array, ...]

# Number of arrays in a layout -> for each, which dimension of a page counts tokens, logical axes.
_TOKEN_DIMENSION = {1: (0,), 2: (2, 1)}
_AXES = {
    1: (("layers", "batch", None, "kv_heads", "head_dim"),),
    2: (
        ("layers", "batch", "kv_heads", "head_dim", None),
        ("layers", "batch", "kv_heads", None, "head_dim"),
    ),
}


def empty_pages(
    L: int,
    num_pages: int,
    page_size: int,
    K: int,
    H: int,
    dtype: str,
    rules: Rules = (),
    device: Any = None,
) -> Pages:
    """Zeros, in the layout for the devices of the ambient mesh; `device`: one of them, by default
    this machine's first."""
    devices = platform()
    if devices == "tpu" or devices == "gpu" and triton_reads_pages(device or jax.devices()[0]):
        width = stored_width(H, devices)
        shapes: tuple[tuple[int, ...], ...] = ((L, num_pages, page_size, 2 * K, width),)
    else:
        shapes = (L, num_pages, K, H, page_size), (L, num_pages, K, page_size, H)
    arrays = zip(shapes, _AXES[len(shapes)], strict=True)
    return tuple(constrain(jnp.zeros(shape, dtype), rules, axes) for shape, axes in arrays)


def read_by_kernels(pages: Pages) -> bool:
    """Whether the layout is that for kernels."""
    return len(pages) == 1


def stored_width(H: int, platform: str) -> int:
    """The width of a head in the cache, padding included."""
    return -(-H // LANES) * LANES if platform == "tpu" else H


def page_specs(pages: Any, rules: Rules) -> tuple[P, ...]:
    """The PartitionSpec of each array."""
    return tuple(spec(rules, axes) for axes in _AXES[len(pages)])


def per_shard(function: Any, rules: Rules, in_specs: Any, out_specs: Any) -> Any:
    """`function` on each device's own rows, pages and heads."""
    if not rules:
        return function
    return jax.shard_map(function, in_specs=in_specs, out_specs=out_specs, check_vma=False)


def copy_pages(
    pages: Pages, source: jax.Array, target: jax.Array, count: jax.Array, rules: Rules = ()
) -> Pages:
    """Copies page `source[i]` to `target[i]` in all layers, for i < count; per row shard, `source`
    and `target` are [n] int32, `count` [1] int32."""

    def copy(pages: Pages, source: jax.Array, target: jax.Array, count: jax.Array) -> Pages:
        # One at a time: a gather of all would hold them twice.
        def one(i: jax.Array, pages: Pages) -> Pages:
            def within(x: jax.Array) -> jax.Array:
                page = jax.lax.dynamic_slice_in_dim(x, source[i], 1, axis=1)
                return jax.lax.dynamic_update_slice_in_dim(x, page, target[i], axis=1)

            return jax.tree.map(within, pages)

        return jax.lax.fori_loop(0, count[0], one, pages)

    rows = P(ROWS)
    pool = page_specs(pages, rules) if rules else None
    return per_shard(copy, rules, (pool, rows, rows, rows), pool)(pages, source, target, count)


# The following take the pages of all layers one after the other: arrays [L P, ...].


def all_layers(pages: Pages) -> Pages:
    """[L, P, ...] -> [L P, ...]."""
    return _row_major(tuple(x.reshape(-1, *x.shape[2:]) for x in pages))


def by_layer(flat: Pages, L: int) -> Pages:
    """The inverse of `all_layers`."""
    return _row_major(tuple(x.reshape(L, -1, *x.shape[1:]) for x in flat))


def _row_major(pages: Pages) -> Pages:
    """The same arrays, in the layout in which programs take and return them. The compiler is free
    to choose another between reshapes of a dimension of 1, as with one head of keys, and would then
    copy the pool to it and back."""
    if len(pages) == 1:
        return pages  # the kernel decides
    return tuple(with_layout_constraint(x, Layout(tuple(range(x.ndim)))) for x in pages)


def page_size_of(flat: Pages) -> int:
    return flat[0].shape[1 + _TOKEN_DIMENSION[len(flat)][0]]


def write_tokens(
    flat: Pages,
    k: jax.Array,
    v: jax.Array,
    table: jax.Array,
    positions: jax.Array,
    segments: jax.Array,
) -> Pages:
    """Puts each row's one token, k and v [B, 1, K, H], into its place in the pages that `table`
    [B, W] names. Positions, segments: [B, 1] int32; segment 0 is not written."""
    page_size = page_size_of(flat)
    page = _pages_at(table, positions // page_size)[:, 0]
    at = positions[:, 0] % page_size
    if len(page) == 1 and len(flat) == 2:
        return _write_one(flat, k, v, page[0], at[0], segments[0, 0])
    page = jnp.where(segments[:, 0] > 0, page, len(flat[0]))  # out of range: not written

    def write(x: jax.Array, token: jax.Array, dimension: int) -> jax.Array:
        place = (page, *(slice(None),) * dimension, at)
        return x.at[place].set(token[:, 0], mode="drop")

    return _map(write, flat, k, v)


def _write_one(
    flat: Pages, k: jax.Array, v: jax.Array, page: jax.Array, at: jax.Array, count: jax.Array
) -> Pages:
    """Puts one row's token into place `at` of a page, `count` (0 or 1) times. XLA:CPU turns a
    scatter of one token into something that copies the whole pool."""

    def one(_: jax.Array, flat: Pages) -> Pages:
        def write(x: jax.Array, token: jax.Array, dimension: int) -> jax.Array:
            start = [jnp.zeros_like(page)] * x.ndim
            start[0], start[1 + dimension] = page, at
            return jax.lax.dynamic_update_slice(
                x, jnp.expand_dims(token[:, 0], 1 + dimension), start
            )

        return _map(write, flat, k, v)

    return jax.lax.fori_loop(0, count, one, flat)


def write_pages(
    flat: Pages,
    k: jax.Array,
    v: jax.Array,
    table: jax.Array,
    positions: jax.Array,
    segments: jax.Array,
    *,
    at_once: bool = False,
) -> Pages:
    """Puts each row's tokens, k and v [B, T, K, H], into its pages; the first token begins a page.
    One page after the other, unless `at_once`: for a scatter, the TPU compiler copies the pool to
    another layout and back. Later tokens overwrite what is written behind a row's last one."""
    B, T = positions.shape
    page_size = page_size_of(flat)
    count = -(-T // page_size)
    at = jnp.arange(count, dtype=jnp.int32)[None]
    page = _pages_at(table, positions[:, :1] // page_size + at).reshape(-1)
    tokens = jnp.sum(segments > 0, axis=1, keepdims=True)
    used = (at * page_size < tokens).reshape(-1)

    def as_pages(_: jax.Array, tokens: jax.Array, dimension: int) -> jax.Array:
        whole = jnp.pad(tokens, ((0, 0), (0, count * page_size - T), (0, 0), (0, 0)))
        paged = whole.reshape(B * count, page_size, *tokens.shape[2:])
        return jnp.moveaxis(paged, 1, 1 + dimension)

    new = _map(as_pages, flat, k, v)
    if at_once:
        page = jnp.where(used, page, len(flat[0]))  # out of range: not written
        return jax.tree.map(lambda x, new: x.at[page].set(new, mode="drop"), flat, new)
    order = jnp.argsort(~used)

    def write(i: jax.Array, flat: Pages) -> Pages:
        which = order[i]

        def within(x: jax.Array, new: jax.Array) -> jax.Array:
            return jax.lax.dynamic_update_slice_in_dim(x, new[which][None], page[which], axis=0)

        return jax.tree.map(within, flat, new)

    # A number of turns that the compiler does not know: it would unroll a loop of one, and copy the
    # pool.
    return jax.lax.fori_loop(0, jnp.sum(used), write, flat)


def read_rows(flat: Pages, table: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The keys and values [B, n page_size, K, H] of the pages that `table` [B, n] names."""

    def read(x: jax.Array, dimension: int) -> jax.Array:
        tokens = jnp.moveaxis(x[table], 2 + dimension, 2)  # [B, n, page_size, K or 2K, H]
        return tokens.reshape(len(table), -1, *tokens.shape[3:])

    keys, *values = map(read, flat, _TOKEN_DIMENSION[len(flat)])
    return (keys, values[0]) if values else (keys[:, :, 0::2], keys[:, :, 1::2])


def _pages_at(table: jax.Array, column: jax.Array) -> jax.Array:
    """The pages in each row's columns [B, n]; the table's last ones for columns beyond it."""
    return jnp.take_along_axis(table, jnp.minimum(column, table.shape[1] - 1), axis=1)


def _map(function: Any, flat: Pages, k: jax.Array, v: jax.Array) -> Pages:
    """`function(array, its tokens in the cache's dtype, dimension that counts tokens)` of each
    array, where the tokens of the kernel's array are keys and values, alternating and padded."""
    tokens: tuple[jax.Array, ...] = (k, v)
    if len(flat) == 1:  # [..., K, H] twice -> [..., 2K, width]
        alternating = jnp.stack([k, v], axis=-2).reshape(*k.shape[:-2], -1, k.shape[-1])
        tokens = (padded(alternating, flat[0].shape[-1]),)
    arrays = zip(flat, tokens, _TOKEN_DIMENSION[len(flat)], strict=True)
    return tuple(function(x, token.astype(x.dtype), dimension) for x, token, dimension in arrays)


def padded(heads: jax.Array, width: int) -> jax.Array:
    """[..., H] -> [..., width], with zeros."""
    return jnp.pad(heads, [(0, 0)] * (heads.ndim - 1) + [(0, width - heads.shape[-1])])
