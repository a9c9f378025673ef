"""Pages against the reference: writes, prefill after a context, the work list of decode. Tests see
pages token by token, [L, PAGES, SIZE, 2K, H], as `split` and `joined` translate them."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cipo_jax.policy import attention
from cipo_jax.policy.cache import attention as paged
from cipo_jax.policy.cache import pages as page_arrays

L, PAGES, SIZE, K, N, H, W = 2, 40, 4, 2, 6, 8, 6  # W pages of SIZE tokens a row at most
B = 5
LENGTHS = np.array([1, 4, 5, 23, 9])  # tokens of each row, the new one included
LAYER = 1
SCALE = 0.4


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def table() -> np.ndarray:
    """[B, W]: no two rows share a page and no row's pages lie side by side."""
    return np.random.default_rng(1).permutation(PAGES)[: B * W].reshape(B, W).astype(np.int32)


def contents() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Keys and values [B, W * SIZE, K, H] of all positions, and pages that hold them, with noise
    where a row has no token."""
    k, v = random(B, W * SIZE, K, H, seed=2), random(B, W * SIZE, K, H, seed=3)
    pages = 100 * random(L, PAGES, SIZE, 2 * K, H, seed=4)
    for row in range(B):
        for at in range(LENGTHS[row] - 1):
            page = pages[LAYER, table()[row, at // SIZE], at % SIZE]
            page[0::2], page[1::2] = k[row, at], v[row, at]
    return k, v, pages


def split(pages: Any) -> page_arrays.Pages:
    """Keys [L, PAGES, K, H, SIZE] and values [L, PAGES, K, SIZE, H]."""
    k, v = jnp.asarray(pages[..., 0::2, :]), jnp.asarray(pages[..., 1::2, :])
    return jnp.moveaxis(k, 2, 4), jnp.moveaxis(v, 2, 3)


def joined(pages: page_arrays.Pages) -> jax.Array:
    """The inverse of `split`."""
    k, v = jnp.moveaxis(pages[0], 4, 2), jnp.moveaxis(pages[1], 3, 2)
    return jnp.stack([k, v], axis=4).reshape(*k.shape[:3], 2 * K, H)


def work_list(spare: int = 0) -> paged.WorkList:
    """The rows' pages in order, `spare` more of each row than it has tokens for, then padding that
    must not be read."""
    entries = [
        (row, table()[row, w], w * SIZE)
        for row in range(B)
        for w in range(min(W, -(-LENGTHS[row] // SIZE) + spare))
    ]
    row, page, first = (
        np.array([*column, *[bad] * (2 * B * W - len(entries))], np.int32)
        for column, bad in zip(zip(*entries, strict=True), (0, 0, 0), strict=True)
    )
    return paged.WorkList(row, page, first, np.array([len(entries)], np.int32))


@functools.partial(jax.jit, static_argnames=("scale", "soft_cap", "window", "context_pages"))
def attend(pages, layer, q, k, v, positions, segments, tables, work, **options) -> Any:
    context_pages = options.pop("context_pages", 0)
    cache = paged.PagedCache(split(pages), tables, work, context_pages)
    out, cache = paged.attend_paged(cache, layer, q, k, v, positions, segments, **options)
    return out, joined(cache.pages)


OPTIONS: list[dict[str, Any]] = [{}, {"window": 3}, {"soft_cap": 1.5}, {"window": 6, "soft_cap": 2}]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("block", [3, 128])
def test_decode_equals_the_reference(
    options: dict, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that span several blocks of the work list, and several in one."""
    monkeypatch.setattr(paged, "WORK_BLOCK", block)
    attend.clear_cache()  # type: ignore[attr-defined]
    k, v, pages = contents()
    q = 3 * random(B, 1, N, H, seed=5)
    now = (LENGTHS - 1)[:, None].astype(np.int32)
    at = np.arange(B)[:, None]
    ones = np.ones((B, 1), np.int32)
    got, _ = attend(
        pages, LAYER, q, k[at, now], v[at, now], now, ones, table(), work_list(1),
        scale=SCALE, **options,
    )  # fmt: skip
    everywhere = np.broadcast_to(np.arange(W * SIZE, dtype=np.int32), (B, W * SIZE))
    known = (everywhere < LENGTHS[:, None]).astype(np.int32)
    wanted = attention.attend(q, k, v, now, ones, everywhere, known, scale=SCALE, **options)
    assert np.abs(wanted).max() > 1
    np.testing.assert_allclose(got, wanted, rtol=0, atol=2e-6)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_prefill_sees_its_context_and_itself(options: dict) -> None:
    """Stretches of up to 6 tokens, more than a page, after the whole pages that each row has; none
    in one row, and in another only as many as its table still holds."""
    k, v, pages = contents()
    T, new = 6, np.array([6, 5, 0, 4, 2])
    begin = (LENGTHS - 1) // SIZE * SIZE
    column = np.arange(T)[None]
    positions = (begin[:, None] + column).astype(np.int32)
    segments = (column < new[:, None]).astype(np.int32)
    at = np.arange(B)[:, None]
    q = 3 * random(B, T, N, H, seed=5)
    k_new = k[at, np.minimum(positions, W * SIZE - 1)]
    v_new = v[at, np.minimum(positions, W * SIZE - 1)]
    got, after = attend(
        pages, LAYER, q, k_new, v_new, positions, segments, table(), None,
        scale=SCALE, context_pages=W, **options,
    )  # fmt: skip
    everywhere = np.broadcast_to(np.arange(W * SIZE, dtype=np.int32), (B, W * SIZE))
    known = (everywhere < (begin + new)[:, None]).astype(np.int32)
    wanted = attention.attend(
        q, k, v, positions, segments, everywhere, known, scale=SCALE, **options
    )
    real = segments > 0
    np.testing.assert_allclose(np.asarray(got)[real], wanted[real], rtol=0, atol=2e-6)

    # Written: the new tokens of this layer; besides, only what lies behind a row's last one.
    expected, behind = pages.copy(), np.zeros(pages.shape[:3], bool)
    for row in range(B):
        end = begin[row] + new[row]
        for position in range(begin[row], -(-end // SIZE) * SIZE if new[row] else begin[row]):
            place = (LAYER, table()[row, position // SIZE], position % SIZE)
            if position < end:
                expected[place][0::2], expected[place][1::2] = k[row, position], v[row, position]
            else:
                behind[place] = True
    np.testing.assert_array_equal(np.asarray(after)[~behind], expected[~behind])


def test_rows_that_are_not_live_write_nothing() -> None:
    k, v, pages = contents()
    q, now = random(B, 1, N, H), (LENGTHS - 1)[:, None].astype(np.int32)
    live = np.array([1, 0, 1, 0, 0], np.int32)[:, None]
    at = np.arange(B)[:, None]
    _, after = attend(
        pages, LAYER, q, k[at, now], v[at, now], now, live, table(), work_list(), scale=SCALE
    )
    changed = (np.asarray(after) != pages).any(axis=(-1, -2))
    rows = [0, 2]
    wanted = np.zeros_like(changed)
    wanted[LAYER, table()[rows, now[rows, 0] // SIZE], now[rows, 0] % SIZE] = True
    np.testing.assert_array_equal(changed, wanted)


@pytest.mark.parametrize("window", [None, 3])
def test_window_of_the_layer_may_be_traced(window: int | None) -> None:
    k, v, pages = contents()
    q, now = 3 * random(B, 1, N, H, seed=5), (LENGTHS - 1)[:, None].astype(np.int32)
    at = np.arange(B)[:, None]
    ones = np.ones((B, 1), np.int32)
    args = (q, k[at, now], v[at, now], now, ones)
    wanted, _ = attend(pages, LAYER, *args, table(), work_list(), scale=SCALE, window=window)

    @jax.jit
    def traced(window, cache, *args):
        options = {"scale": SCALE, "window": window, "windows": (3, None)}
        return paged.attend_paged(cache, LAYER, *args, **options)[0]

    size = jnp.asarray(attention.window_size(window), jnp.int32)
    got = traced(size, paged.PagedCache(split(pages), table(), work_list()), *args)
    np.testing.assert_allclose(got, wanted, rtol=0, atol=2e-6)


def test_cost_follows_the_work_list() -> None:
    """Blocks past `count` are not read: a page of NaN there would show."""
    k, v, pages = contents()
    q, now = random(B, 1, N, H), (LENGTHS - 1)[:, None].astype(np.int32)
    unused = np.setdiff1d(np.arange(PAGES), table())[0]
    pages[:, unused] = np.nan
    work = work_list()
    page = np.array(work.page)
    page[paged.WORK_BLOCK :] = unused
    at = np.arange(B)[:, None]
    ones = np.ones((B, 1), np.int32)
    out, _ = attend(
        pages, LAYER, q, k[at, now], v[at, now], now, ones, table(), work.replace(page=page),
        scale=SCALE,
    )  # fmt: skip
    assert np.isfinite(out).all()


def test_bfloat16_pages_are_read_in_bfloat16() -> None:
    k, v, pages = contents()
    q, now = 3 * random(B, 1, N, H, seed=5), (LENGTHS - 1)[:, None].astype(np.int32)
    at = np.arange(B)[:, None]
    ones = np.ones((B, 1), np.int32)
    args = (LAYER, q, k[at, now], v[at, now], now, ones, table(), work_list())
    exact, _ = attend(pages, *args, scale=SCALE)
    rounded, after = attend(jnp.asarray(pages, jnp.bfloat16), *args, scale=SCALE)
    assert after.dtype == jnp.bfloat16 and rounded.dtype == exact.dtype == jnp.float32
    difference = np.abs(np.asarray(rounded) - np.asarray(exact)).max()
    assert 1e-4 < difference < 0.05
