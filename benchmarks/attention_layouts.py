"""One layer of decode attention on the CPU: what the layout of keys and values costs.

    taskset -c 0 python benchmarks/attention_layouts.py
    taskset -c 0 python benchmarks/attention_layouts.py --shape=M --page=32 --lengths=tailed

Each of 64 rows decodes one token. Rows have 144 tokens ("equal"), 36 ("quarter"), or 64 and a
lognormal number more, median 120, sigma 0.9, 1024 at most ("tailed"). The first line is what the
sampler does (`policy/cache/attention.py`). The others compute the same over other layouts, and are
checked against it.

    walk over one   pages of one array, [page, 2K, H], the layout of the TPU kernel
    dense           keys and values of a row lie together, padded to the longest row, as [T, 2K, H]
    dense KT        the same with keys as [K, H, T], values as [K, T, H]
    slots KT        such rows with room for the longest, read by 8 rows and 128 tokens at a time
    groups of pages the sampler's pages; 8 rows, ordered by length, take a page each at a time
    groups of 16    the same with 16 rows

The last three read as far as the longest of their rows. Layers follow one another in one program,
because a result in fresh memory would cost more than the layer. Printed are CPU-milliseconds
(median and lowest over the repeats) and the ratio to the walk.
"""

import argparse
import functools
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cipo_jax.policy.cache import attention as paged

SHAPES = {"S": (4, 2, 32), "M": (6, 2, 64)}  # heads, kv heads, head_dim
ROWS, LONGEST, LAYERS = 64, 1088, 40
SLOT_BLOCK = 128
MASKED = -1e30


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shape", choices=SHAPES, default="S")
    parser.add_argument("--page", type=int, default=32, help="tokens of a page")
    parser.add_argument("--lengths", choices=("equal", "quarter", "tailed"), default="equal")
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args(argv)
    programs = contenders(options.shape, options.page, row_lengths(options.lengths))
    compiled, wanted = {}, None
    for name, (layer, arguments) in programs.items():
        result = jax.jit(layer)(*arguments)
        wanted = result if wanted is None else wanted
        np.testing.assert_allclose(result, wanted, atol=2e-5, err_msg=name)
        compiled[name] = jax.jit(functools.partial(many_layers, layer)).lower(*arguments).compile()
        jax.block_until_ready(compiled[name](*arguments))
    spent: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(options.repeats):
        for name, (_, arguments) in programs.items():
            began = time.process_time()
            jax.block_until_ready(compiled[name](*arguments))
            spent[name].append((time.process_time() - began) / LAYERS)
    walk = statistics.median(spent["walk"])
    print(f"{options.shape}, {options.lengths}, pages of {options.page}:")
    print(f"  {'':16} {'CPU ms':>8} {'least':>8} {'walk is':>8}")
    for name, seconds in spent.items():
        middle = statistics.median(seconds)
        print(f"  {name:16} {1e3 * middle:8.2f} {1e3 * min(seconds):8.2f} {walk / middle:7.2f}x")


def row_lengths(kind: str) -> np.ndarray:
    """[ROWS] tokens of each row, descending."""
    if kind != "tailed":
        return np.full(ROWS, 144 if kind == "equal" else 36)
    tail = np.random.default_rng(3).lognormal(np.log(120), 0.9, ROWS)
    return np.sort(64 + np.clip(tail, 1, LONGEST - 64).astype(int))[::-1]


def many_layers(layer: Callable[..., jax.Array], q: jax.Array, *rest: Any) -> jax.Array:
    """Each layer's queries depend on the result before it."""
    return jax.lax.fori_loop(0, LAYERS, lambda _, q: q + 1e-6 * layer(q, *rest), q)


def contenders(
    shape: str, page: int, lengths: np.ndarray
) -> dict[str, tuple[Callable[..., jax.Array], Any]]:
    """{name: (layer, arguments)}."""
    N, K, H = SHAPES[shape]
    scale, W = H**-0.5, -(-LONGEST // page)
    rng = np.random.default_rng(0)
    q = jnp.asarray(rng.normal(size=(ROWS, N, H)), jnp.float32)
    positions = jnp.asarray(lengths - 1, jnp.int32)

    # Pages of the rows, scattered over a pool of twice as many, token by token.
    counts = -(-lengths // page)
    pages = 2 * int(counts.sum())
    flat = rng.normal(size=(pages, page, 2 * K, H)).astype(np.float32)
    place = rng.permutation(pages)[: counts.sum()].astype(np.int32)
    row = np.repeat(np.arange(ROWS), counts).astype(np.int32)
    column = np.concatenate([np.arange(n) for n in counts]).astype(np.int32)
    table = np.zeros((ROWS, W), np.int32)
    table[row, column] = place
    size = -(-len(row) // paged.WORK_BLOCK) * paged.WORK_BLOCK
    padded = [jnp.asarray(np.pad(x, (0, size - len(x)))) for x in (row, place, column * page)]
    work = paged.WorkList(*padded, jnp.asarray([len(row)], jnp.int32))

    def together(tokens: int) -> np.ndarray:
        """[ROWS, tokens, 2K, H] of the same."""
        kv = flat[table].reshape(ROWS, W * page, 2 * K, H)
        return np.pad(kv[:, :tokens], ((0, 0), (0, max(0, tokens - W * page)), (0, 0), (0, 0)))

    def split(kv: np.ndarray) -> tuple[jax.Array, jax.Array]:
        """[..., T, 2K, H] -> [..., K, H, T], [..., K, T, H]."""
        k, v = kv[..., 0::2, :], kv[..., 1::2, :]
        return jnp.asarray(np.moveaxis(k, -3, -1)), jnp.asarray(np.moveaxis(v, -3, -2))

    def walk(q: jax.Array, k: jax.Array, v: jax.Array, work: paged.WorkList) -> jax.Array:
        options: Any = {"scale": scale, "window": None, "soft_cap": None}
        return paged._walk(q, (k, v), jnp.int32(0), work, positions, **options)

    def walk_over_one(q: jax.Array, flat: jax.Array, work: paged.WorkList) -> jax.Array:
        block = paged.WORK_BLOCK

        def step(i: jax.Array, carry: Any) -> Any:
            top, total, mixed = carry
            row, place, first = (
                jax.lax.dynamic_slice_in_dim(x, i * block, block)
                for x in (work.row, work.page, work.first)
            )
            used = i * block + jnp.arange(block) < work.count[0]
            kv = flat[place]
            scores = jnp.einsum("nkgh,npkh->nkgp", q.reshape(ROWS, K, -1, H)[row], kv[:, :, 0::2])
            seen = (first[:, None] + jnp.arange(page) <= positions[row][:, None]) & used[:, None]
            scores = jnp.where(seen[:, None, None], scores * scale, MASKED)
            to = jnp.where(used, row, ROWS)
            new_top = top.at[to].max(scores.max(axis=-1), mode="drop")
            weights = jnp.exp(scores - new_top[row][..., None]) * seen[:, None, None]
            mix = jnp.einsum("nkgp,npkh->nkgh", weights, kv[:, :, 1::2])
            shrink = jnp.exp(top - new_top)
            total = (total * shrink).at[to].add(weights.sum(axis=-1), mode="drop")
            return new_top, total, (mixed * shrink[..., None]).at[to].add(mix, mode="drop")

        zeros = jnp.zeros((ROWS, K, N // K))
        start = (zeros + MASKED, zeros, jnp.zeros((*zeros.shape, H)))
        blocks = (work.count[0] + block - 1) // block
        _, total, mixed = jax.lax.fori_loop(0, blocks, step, start)
        return (mixed / total[..., None]).reshape(q.shape)

    def softmax_over_tokens(scores: jax.Array) -> jax.Array:
        seen = jnp.arange(scores.shape[-1]) <= positions[:, None, None, None]
        return jax.nn.softmax(jnp.where(seen, scores * scale, MASKED), axis=-1)

    def dense(q: jax.Array, kv: jax.Array) -> jax.Array:
        scores = jnp.einsum("bkgh,btkh->bkgt", q.reshape(ROWS, K, -1, H), kv[:, :, 0::2])
        out = jnp.einsum("bkgt,btkh->bkgh", softmax_over_tokens(scores), kv[:, :, 1::2])
        return out.reshape(q.shape)

    def dense_transposed(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        scores = jnp.einsum("bkgh,bkht->bkgt", q.reshape(ROWS, K, -1, H), k)
        return jnp.einsum("bkgt,bkth->bkgh", softmax_over_tokens(scores), v).reshape(q.shape)

    def by_groups(
        read: Callable[..., tuple[jax.Array, jax.Array]], block: int, group: int
    ) -> Callable[..., jax.Array]:
        """Groups of rows take `block` tokens at a time, to the group's longest row; `read(group,
        step, rows of the table, k, v)` gives the keys and values."""

        def attend_group(xs: Any, k: jax.Array, v: jax.Array) -> jax.Array:
            index, q, last, table = xs

            def step(i: jax.Array, carry: Any) -> Any:
                top, total, mixed = carry
                keys, values = read(index, i, table, k, v)
                scores = jnp.einsum("nkgh,nkhp->nkgp", q, keys) * scale
                seen = i * block + jnp.arange(block) <= last[:, None]
                scores = jnp.where(seen[:, None, None], scores, MASKED)
                new_top = jnp.maximum(top, scores.max(axis=-1))
                weights = jnp.exp(scores - new_top[..., None])
                mix = jnp.einsum("nkgp,nkph->nkgh", weights, values)
                shrink = jnp.exp(top - new_top)
                total = total * shrink + weights.sum(axis=-1)
                return new_top, total, mixed * shrink[..., None] + mix

            top = jnp.full(q.shape[:3], MASKED)
            start = (top, jnp.zeros_like(top), jnp.zeros_like(q))
            _, total, mixed = jax.lax.fori_loop(0, last.max() // block + 1, step, start)
            return mixed / total[..., None]

        def attend(q: jax.Array, table: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
            parts = (q.reshape(ROWS, K, -1, H), positions, table)
            groups = [x.reshape(-1, group, *x.shape[1:]) for x in parts]
            xs = (jnp.arange(ROWS // group), *groups)
            return jax.lax.map(lambda xs: attend_group(xs, k, v), xs).reshape(q.shape)

        return attend

    def slices(index: Any, i: Any, _: Any, k: jax.Array, v: jax.Array) -> Any:
        at, n = i * SLOT_BLOCK, SLOT_BLOCK
        keys = jax.lax.dynamic_slice(k, (index * 8, 0, 0, at), (8, K, H, n))
        return keys, jax.lax.dynamic_slice(v, (index * 8, 0, at, 0), (8, K, n, H))

    def gathered(_: Any, i: Any, table: jax.Array, k: jax.Array, v: jax.Array) -> Any:
        pages = jax.lax.dynamic_index_in_dim(table, i, axis=1, keepdims=False)
        get = [x.at[pages].get(mode="promise_in_bounds") for x in (k, v)]
        return tuple(get)

    close = jnp.asarray(together(int(lengths.max())))
    roomy = together(-(-LONGEST // SLOT_BLOCK) * SLOT_BLOCK)
    table = jnp.asarray(table)
    return {
        "walk": (walk, (q, *split(flat), work)),
        "walk over one": (walk_over_one, (q, jnp.asarray(flat), work)),
        "dense": (dense, (q, close)),
        "dense KT": (dense_transposed, (q, *split(np.asarray(close)))),
        "slots KT": (by_groups(slices, SLOT_BLOCK, 8), (q, table, *split(roomy))),
        "groups of pages": (by_groups(gathered, page, 8), (q, table, *split(flat))),
        "groups of 16": (by_groups(gathered, page, 16), (q, table, *split(flat))),
    }


if __name__ == "__main__":
    main()
