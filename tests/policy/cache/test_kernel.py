"""What the TPU kernel is asked to compute, by the library's own reference of it: the kernel itself
cannot run here, neither compiled nor interpreted."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas.ops.tpu import ragged_paged_attention as kernels

from cipo_jax.policy import attention
from cipo_jax.policy.cache import attention as paged

PAGES, PAGE_SIZE, K, N, H, W = 24, 4, 2, 4, 128, 5
OPTIONS = [(None, None), (3, None), (None, 2.0), (6, 5.0)]


@pytest.fixture(autouse=True)
def reference_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    def kernel(*args: Any, num_kv_pages_per_block: int, num_queries_per_block: int, **kw: Any):
        assert 0 < num_kv_pages_per_block <= args[3].shape[1] and num_queries_per_block > 0
        return kernels.ref_ragged_paged_attention(*args, **kw)

    monkeypatch.setattr(kernels, "ragged_paged_attention", kernel)


def arrays(rows: int, tokens: int) -> tuple[jax.Array, jax.Array, np.ndarray]:
    """Queries, pages, and a table in which no page occurs twice."""
    random = np.random.default_rng(rows + tokens)
    q = random.standard_normal((rows, tokens, N, H)).astype(np.float32)
    flat = random.standard_normal((PAGES, PAGE_SIZE, 2 * K, H)).astype(np.float32)
    table = random.permutation(PAGES)[: rows * W].reshape(rows, W).astype(np.int32)
    return jnp.asarray(q), jnp.asarray(flat), table


def expected(
    q: jax.Array, flat: jax.Array, table: np.ndarray, first: np.ndarray, **options: Any
) -> jax.Array:
    """`attention.attend` over the pages laid out row by row."""
    kv = flat[table].reshape(len(table), -1, 2 * K, H)
    at = np.broadcast_to(np.arange(kv.shape[1]), (len(table), kv.shape[1]))
    positions = first[:, None] + np.arange(q.shape[1])
    ones = np.ones_like
    return attention.attend(
        q, kv[:, :, 0::2], kv[:, :, 1::2], positions, ones(positions), at, ones(at), **options
    )


@pytest.mark.parametrize(("window", "soft_cap"), OPTIONS)
def test_decode_asks_for_the_pages_of_each_row(window: int | None, soft_cap: float | None) -> None:
    q, flat, table = arrays(rows=4, tokens=1)
    first = np.array([0, 3, 9, 19])  # a first token, the end of a page, the last place
    options: Any = {"scale": H**-0.5, "window": window, "soft_cap": soft_cap}
    got = paged._kernel(q, flat, jnp.asarray(table), jnp.asarray(first), **options)
    wanted = expected(q, flat, table, first, **options)
    np.testing.assert_allclose(got, wanted, atol=2e-5)


@pytest.mark.parametrize(("window", "soft_cap"), OPTIONS)
def test_prefill_asks_for_context_and_own_tokens(
    window: int | None, soft_cap: float | None
) -> None:
    q, flat, table = arrays(rows=3, tokens=6)
    first = np.array([0, 4, 16])  # of the last row only four of six tokens have a place
    options: Any = {"scale": H**-0.5, "window": window, "soft_cap": soft_cap}
    got = paged._kernel(q, flat, jnp.asarray(table), jnp.asarray(first), **options)
    wanted = expected(q, flat, table, first, **options)
    np.testing.assert_allclose(got[:2], wanted[:2], atol=2e-5)
    np.testing.assert_allclose(got[2, :4], wanted[2, :4], atol=2e-5)


def test_narrow_heads_are_padded() -> None:
    q, flat, table = arrays(rows=3, tokens=1)
    q, narrow = q[..., :64], flat[..., :64]
    first = np.array([0, 4, 16])
    options: Any = {"scale": 64**-0.5, "window": None, "soft_cap": None}
    padded = flat.at[..., 64:].set(0)
    got = paged._kernel(q, padded, jnp.asarray(table), jnp.asarray(first), **options)
    assert got.shape == q.shape
    kv = narrow[table].reshape(3, -1, 2 * K, 64)
    at = np.broadcast_to(np.arange(kv.shape[1]), kv.shape[:2])
    ones, now = np.ones_like, first[:, None]
    wanted = attention.attend(
        q, kv[:, :, 0::2], kv[:, :, 1::2], now, ones(now), at, ones(at), **options
    )
    np.testing.assert_allclose(got, wanted, atol=2e-5)


def test_layers_choose_their_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a pattern of windows, the kernel of the layer's own window runs."""
    # The reference reads row counts as numbers, so it can't be traced by the switch: name it.
    monkeypatch.setattr(
        paged, "_kernel", lambda q, *_, window, **__: jnp.full_like(q, window if window else -1)
    )
    q, flat, table = arrays(rows=2, tokens=1)
    new = jnp.zeros((2, 1, K, H))
    cache = paged.PagedCache(pages=(flat[None],), table=jnp.asarray(table), work=None)
    ones = jnp.ones((2, 1), jnp.int32)

    @functools.partial(jax.jit, static_argnames="windows")
    def run(window: jax.Array, windows: tuple[int | None, ...]) -> jax.Array:
        return paged.attend_paged(
            cache, jnp.int32(0), q, new, new, 0 * ones, ones, scale=1.0, window=window,
            windows=windows,
        )[0]  # fmt: skip

    windows = (7, None)
    for window, wanted in ((7, 7), (attention.NO_WINDOW, -1)):
        assert (run(jnp.int32(window), windows) == wanted).all()
