"""One layer of decode attention on the CPU: what the layout of keys and values costs.

    taskset -c 0 python benchmarks/attention_layouts.py
    taskset -c 0 python benchmarks/attention_layouts.py --shape=M --page=32

One token for each of 64 rows of 144 tokens. The first line is what the sampler does
(`policy/paged.py`); the others do the same sums over other layouts, and are checked against it.

    gather      only the copy of the live pages that the walk begins with
    dense       rows' keys and values lie together, in the cache's layout [T, 2K, H]
    dense KT    likewise, keys as [K, H, T], values as [K, T, H]
    pages KT    the walk over all pages at once, keys as [K, H, page], values as [K, page, H]

CPU-milliseconds, median and least over the repeats, and the ratio to the walk.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cipo_jax.policy import paged

SHAPES = {"S": (4, 2, 32), "M": (6, 2, 64)}  # heads, kv heads, head_dim
ROWS, LENGTH = 64, 144
LAST = LENGTH - 3  # position of the token that is fed


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shape", choices=SHAPES, default="S")
    parser.add_argument("--page", type=int, default=16, help="tokens of a page")
    parser.add_argument("--repeats", type=int, default=9)
    options = parser.parse_args(argv)
    programs = contenders(options.shape, options.page)
    compiled = {name: jax.jit(f) for name, (f, _) in programs.items()}
    wanted = None
    for name, (_, arguments) in programs.items():
        result = jax.block_until_ready(compiled[name](*arguments))
        if name == "walk":
            wanted = result
        elif name != "gather":
            np.testing.assert_allclose(result, wanted, atol=1e-5)
    spent: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(options.repeats):
        for name, (_, arguments) in programs.items():
            began = time.process_time()
            for _ in range(20):
                result = compiled[name](*arguments)
            jax.block_until_ready(result)
            spent[name].append((time.process_time() - began) / 20)
    walk = statistics.median(spent["walk"])
    print(f"{options.shape}, pages of {options.page}: {'CPU ms':>10} {'least':>8} {'walk is':>8}")
    for name, seconds in spent.items():
        middle = statistics.median(seconds)
        print(f"  {name:16} {1e3 * middle:14.2f} {1e3 * min(seconds):8.2f} {walk / middle:7.2f}x")


def contenders(shape: str, page: int) -> dict[str, tuple[Callable[..., jax.Array], Any]]:
    """{name: (function, arguments)}."""
    N, K, H = SHAPES[shape]
    scale, W = H**-0.5, -(-LENGTH // page)
    rng = np.random.default_rng(0)
    pages = 2 * ROWS * W
    flat = jnp.asarray(rng.normal(size=(pages, page, 2 * K, H)), jnp.float32)
    q = jnp.asarray(rng.normal(size=(ROWS, N, H)), jnp.float32)
    place = jnp.asarray(rng.permutation(pages)[: ROWS * W], jnp.int32)
    row = jnp.asarray(np.repeat(np.arange(ROWS), W), jnp.int32)
    first = jnp.asarray(np.tile(np.arange(W), ROWS) * page, jnp.int32)
    work = paged.WorkList(row, place, first, jnp.asarray([ROWS * W], jnp.int32))
    positions = jnp.full((ROWS,), LAST, jnp.int32)
    together = flat[place].reshape(ROWS, W * page, 2 * K, H)

    def walk(q: jax.Array, flat: jax.Array, work: paged.WorkList) -> jax.Array:
        options: Any = {"scale": scale, "window": None, "soft_cap": None}
        return paged._walk(q, flat, jnp.int32(0), work, positions, **options)

    def softmax_over_tokens(scores: jax.Array) -> jax.Array:
        seen = jnp.arange(scores.shape[-1]) <= LAST
        return jax.nn.softmax(jnp.where(seen, scores * scale, -1e30), axis=-1)

    def dense(q: jax.Array, kv: jax.Array) -> jax.Array:
        scores = jnp.einsum("bkgh,btkh->bkgt", q.reshape(ROWS, K, -1, H), kv[:, :, 0::2])
        out = jnp.einsum("bkgt,btkh->bkgh", softmax_over_tokens(scores), kv[:, :, 1::2])
        return out.reshape(q.shape)

    def dense_transposed(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        scores = jnp.einsum("bkgh,bkht->bkgt", q.reshape(ROWS, K, -1, H), k)
        return jnp.einsum("bkgt,bkth->bkgh", softmax_over_tokens(scores), v).reshape(q.shape)

    def pages_transposed(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        grouped = q.reshape(ROWS, K, -1, H)
        scores = jnp.einsum("nkgh,nkhp->nkgp", grouped[row], k[place]) * scale
        seen = (first[:, None] + jnp.arange(page) <= LAST)[:, None, None]
        scores = jnp.where(seen, scores, -1e30)
        top = jnp.full(grouped.shape[:3], -1e30).at[row].max(scores.max(axis=-1))
        weights = jnp.exp(scores - top[row][..., None]) * seen
        total = jnp.zeros_like(top).at[row].add(weights.sum(axis=-1))
        values = jnp.einsum("nkgp,nkph->nkgh", weights, v[place])
        mixed = jnp.zeros_like(grouped).at[row].add(values)
        return (mixed / total[..., None]).reshape(q.shape)

    def split(kv: jax.Array) -> tuple[jax.Array, jax.Array]:
        """[..., T, 2K, H] -> [..., K, H, T], [..., K, T, H]."""
        k, v = kv[..., 0::2, :], kv[..., 1::2, :]
        return jnp.moveaxis(k, -3, -1).copy(), jnp.moveaxis(v, -3, -2).copy()

    return {
        "walk": (walk, (q, flat, work)),
        "gather": (lambda flat, place: flat[place], (flat, place)),
        "dense": (dense, (q, together)),
        "dense KT": (dense_transposed, (q, *split(together))),
        "pages KT": (pages_transposed, (q, *split(flat))),
    }


if __name__ == "__main__":
    main()
