"""Sampling on GPUs without one: Triton's kernels, interpreted, and the portable steps over columns,
against the reference."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cipo_jax.policy import attention, attention_kernels, sharding, triton_attention
from cipo_jax.policy.cache import attention as paged
from cipo_jax.policy.cache import columns, gpu_kernel
from cipo_jax.policy.cache import pages as page_arrays

B, TOKENS = 3, 72  # rows, and tokens of each at most
FIRST_PAGE = 2
# N, K, H, page_size, soft_cap: one key/value head, a head each, a width that is no power of two and
# a group that is none, pages that are none and that are larger than a block.
SHAPES = [(4, 1, 16, 8, None), (2, 2, 12, 12, 2.0), (6, 2, 8, 24, None)]


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Interpreted, with blocks of 16 tokens, so that 72 tokens have three parts of two blocks, and
    steps over two or three columns."""
    monkeypatch.setattr(attention_kernels, "INTERPRET", True)
    monkeypatch.setattr(gpu_kernel, "BLOCK_BYTES", 16)
    monkeypatch.setattr(gpu_kernel, "PART_TOKENS", 16)
    monkeypatch.setattr(gpu_kernel, "PARTS", 4)
    monkeypatch.setattr(triton_attention, "FORWARD_BYTES", 16)
    monkeypatch.setattr(columns, "STEP_BYTES", 20_000)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def in_pages(keys: np.ndarray, values: np.ndarray, page_size: int, seed: int = 0) -> Any:
    """The pool [P, page_size, 2K, H] of keys and values [B, TOKENS, K, H], and the table; NaN on
    all other pages."""
    K, H, W = *keys.shape[2:], TOKENS // page_size
    both = np.stack([keys, values], axis=3).reshape(len(keys), W, page_size, 2 * K, H)
    pages = len(keys) * W + 4
    table = np.random.default_rng(seed).permutation(pages)[: len(keys) * W]
    pool = np.full((FIRST_PAGE + pages, page_size, 2 * K, H), np.nan, np.float32)
    pool[FIRST_PAGE + table] = both.reshape(-1, *both.shape[2:])
    return pool, table.reshape(len(keys), W).astype(np.int32)


def two_arrays(pool: Any) -> page_arrays.Pages:
    """The same [..., P, page_size, 2K, H] in the layout of two arrays."""
    return jnp.moveaxis(pool[..., 0::2, :], -3, -1), jnp.moveaxis(pool[..., 1::2, :], -3, -2)


@functools.cache
def program(form: str, soft_cap: float | None) -> Any:
    """Compiled once a shape; lengths and the window are traced."""

    @jax.jit
    def attend(q, pool, table, lengths, window):
        options: Any = {"window": window, "scale": 0.4, "soft_cap": soft_cap}
        if form == "kernel":
            return gpu_kernel.attend_pages(q, (pool,), FIRST_PAGE, table, lengths, **options)
        return columns.attend_columns(q, two_arrays(pool), FIRST_PAGE, table, lengths, **options)

    return attend


def reference(q, keys, values, lengths, window, soft_cap) -> np.ndarray:
    at = np.broadcast_to(np.arange(keys.shape[1]), keys.shape[:2])
    now = lengths[:, None] - 1
    live = (lengths > 0).astype(np.int32)[:, None]
    options: Any = {"window": window, "scale": 0.4, "soft_cap": soft_cap}
    out = attention.attend(q[:, None], keys, values, now, live, at, np.ones_like(at), **options)
    return np.where(lengths[:, None, None] > 0, out[:, 0], 0)


@pytest.mark.parametrize("form", ["kernel", "columns"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_the_reference(form: str, shape: tuple) -> None:
    N, K, H, page_size, soft_cap = shape
    q, keys, values = 3 * normal(B, N, H), normal(B, TOKENS, K, H, seed=1), normal(B, TOKENS, K, H)
    pool, table = in_pages(keys, values, page_size)
    if form == "columns":  # it multiplies what it must not see by 0
        pool = np.nan_to_num(pool)

    @settings(max_examples=12, derandomize=True, deadline=None, database=None)
    @given(
        lengths=st.lists(st.integers(0, TOKENS), min_size=B, max_size=B),
        window=st.one_of(st.integers(1, TOKENS), st.just(attention.NO_WINDOW)),
    )
    @example(lengths=[TOKENS, 41, 9], window=30)
    def check(lengths: list[int], window: int) -> None:
        of_rows = np.array(lengths, np.int32)
        got = program(form, soft_cap)(q, pool, table, of_rows, np.int32(window))
        wanted = reference(q, keys, values, of_rows, window, soft_cap)
        np.testing.assert_allclose(got, wanted, rtol=0, atol=3e-6)

    check()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_stretch_equals_the_reference(shape: tuple) -> None:
    """Up to 40 tokens in three blocks of queries, after up to 32 others; 0 behind the last."""
    N, K, H, page_size, soft_cap = shape
    T = 40
    q, keys, values = (
        3 * normal(B, T, N, H),
        normal(B, TOKENS, K, H, seed=1),
        normal(B, TOKENS, K, H),
    )
    pool, table = in_pages(keys, values, page_size)
    everywhere = np.broadcast_to(np.arange(TOKENS), (B, TOKENS))
    options: Any = {"scale": 0.4, "soft_cap": soft_cap}

    @jax.jit
    def run(first, lengths, window):
        rows = (first, lengths)
        kernel = gpu_kernel.attend_stretch
        return kernel(q, (pool,), FIRST_PAGE, table, *rows, window=window, **options)

    @settings(max_examples=8, derandomize=True, deadline=None, database=None)
    @given(
        first=st.lists(st.integers(0, TOKENS - T), min_size=B, max_size=B),
        lengths=st.lists(st.integers(0, T), min_size=B, max_size=B),
        window=st.one_of(st.integers(1, TOKENS), st.just(attention.NO_WINDOW)),
    )
    @example(first=[0, 17, 32], lengths=[40, 23, 5], window=7)
    def check(first: list[int], lengths: list[int], window: int) -> None:
        column = np.arange(T, dtype=np.int32)
        positions = np.array(first, np.int32)[:, None] + column
        own = (column < np.array(lengths)[:, None]).astype(np.int32)
        got = run(positions[:, 0], np.array(lengths, np.int32), np.int32(window))
        ones = np.ones_like(everywhere)
        wanted = attention.attend(
            q, keys, values, positions, own, everywhere, ones, window=window, **options
        )
        wanted = np.where(own[..., None, None] > 0, wanted, 0)
        np.testing.assert_allclose(got, wanted, rtol=0, atol=3e-6)

    check()


def test_bits_depend_on_the_row_alone() -> None:
    """Not on the other rows, on how many there are, on the pages or on their size."""
    N, K, H, page_size, soft_cap = SHAPES[2]
    q, keys, values = 3 * normal(B, N, H), normal(B, TOKENS, K, H, seed=1), normal(B, TOKENS, K, H)
    lengths, run = np.array([9, 70, 41], np.int32), program("kernel", soft_cap)
    pool, table = in_pages(keys, values, page_size)
    together = np.asarray(run(q, pool, table, lengths, np.int32(60)))
    row = np.s_[1:2]
    pool, table = in_pages(keys[row], values[row], page_size // 2, seed=1)
    alone = run(q[row], pool, table, lengths[row], np.int32(60))
    np.testing.assert_array_equal(alone, together[row])


def test_bfloat16_is_read_and_written() -> None:
    q, keys, values = (
        3 * normal(B, 4, 16),
        normal(B, TOKENS, 2, 16, seed=1),
        normal(B, TOKENS, 2, 16),
    )
    lengths = np.array([70, 41, 9], np.int32)
    pool, table = in_pages(keys, values, 12)
    wanted = reference(q, keys, values, lengths, None, None)
    low = jnp.asarray(q, jnp.bfloat16), jnp.asarray(pool, jnp.bfloat16)
    got = program("kernel", None)(*low, table, lengths, np.int32(TOKENS))
    assert got.dtype == jnp.bfloat16
    difference = np.abs(np.asarray(got, np.float32) - wanted).max()
    assert 1e-4 < difference < 0.05


@pytest.mark.parametrize(("form", "sizes"), [("kernel", (1, 2, 2)), ("columns", None)])
def test_a_decode_step_writes_then_reads(
    form: str, sizes: tuple | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four rows in two layers, one of them not live; on the mesh, rows and heads are split and each
    half of the rows has pages of its own."""
    monkeypatch.setattr(paged, "platform", lambda: "gpu")
    rows, L, layer, page_size = 4, 2, 1, 24
    N, K, H = 4, 2, 16
    q, new = 3 * normal(rows, 1, N, H), normal(2, rows, 1, K, H, seed=5)
    keys, values = normal(rows, TOKENS, K, H, seed=1), normal(rows, TOKENS, K, H, seed=2)
    lengths = np.array([50, 1, 0, 25], np.int32)
    shards = 2 if sizes else 1
    per_shard = [
        in_pages(keys[part], values[part], page_size)
        for part in np.array_split(np.arange(rows), shards)
    ]
    pool = np.concatenate([np.nan_to_num(p[FIRST_PAGE:]) for p, _ in per_shard])
    table = np.concatenate([t for _, t in per_shard])
    one = jnp.stack([jnp.zeros_like(pool), pool])
    pages = (one,) if form == "kernel" else two_arrays(one)
    assert pages[0].shape[0] == L
    work = paged.WorkList(*np.zeros((3, shards), np.int32), np.zeros(shards, np.int32))
    live = (lengths > 0).astype(np.int32)[:, None]
    now = np.maximum(lengths - 1, 0)[:, None].astype(np.int32)

    def step(pages, q, k, v, now, live):
        cache = paged.PagedCache(pages, table, work)
        options: Any = {"scale": 0.4, "window": 30, "rules": rules}
        out, cache = paged.attend_paged(cache, jnp.int32(layer), q, k, v, now, live, **options)
        return out, cache.pages

    if sizes:
        mesh = sharding.make_mesh(*sizes, devices=jax.devices()[: int(np.prod(sizes))])
        axes = {"embed": 8, "heads": N, "kv_heads": K, "mlp": 8, "vocab": 8}
        rules: Any = sharding.logical_rules(mesh, axes)
        with jax.set_mesh(mesh):
            out, after = jax.jit(step)(pages, q, *new, now, live)
    else:
        rules = ()
        out, after = jax.jit(step)(pages, q, *new, now, live)
    for row in np.flatnonzero(lengths):
        keys[row, now[row, 0]], values[row, now[row, 0]] = new[:, row, 0]
    wanted = reference(q[:, 0], keys, values, lengths, 30, None)
    np.testing.assert_allclose(out[:, 0], wanted, rtol=0, atol=3e-6)
    changed = sum(
        int((np.asarray(a) != np.asarray(b)).sum()) for a, b in zip(after, pages, strict=True)
    )
    assert changed == 3 * 2 * K * H  # keys and values of three tokens


@pytest.mark.parametrize("form", ["kernel", "columns"])
def test_a_prefill_writes_and_attends_to_what_is_before(
    form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page of 24 tokens behind the first one, of which the second row has 10."""
    monkeypatch.setattr(paged, "platform", lambda: "gpu")
    rows, page_size, N, K, H, before = 2, 24, 4, 2, 16, 24
    q, new = 3 * normal(rows, page_size, N, H), normal(2, rows, page_size, K, H, seed=5)
    keys, values = normal(rows, TOKENS, K, H, seed=1), normal(rows, TOKENS, K, H, seed=2)
    pool, table = in_pages(keys, values, page_size)
    one = np.nan_to_num(pool[None, FIRST_PAGE:])
    pages = (jnp.asarray(one),) if form == "kernel" else two_arrays(one)
    positions = np.broadcast_to(before + np.arange(page_size, dtype=np.int32), (rows, page_size))
    segments = (np.arange(page_size) < np.array([[24], [10]])).astype(np.int32)

    @jax.jit
    def run(pages):
        cache = paged.PagedCache(pages, table, context_pages=1)
        options: Any = {"scale": 0.4, "window": 30, "soft_cap": 5.0}
        return paged.attend_paged(cache, jnp.int32(0), q, *new, positions, segments, **options)[0]

    keys[:, before : 2 * before], values[:, before : 2 * before] = new
    end = 2 * before
    at = np.broadcast_to(np.arange(end), (rows, end))
    known = np.concatenate([np.ones((rows, before), np.int32), segments], axis=1)
    options: Any = {"window": 30, "scale": 0.4, "soft_cap": 5.0}
    wanted = attention.attend(
        q, keys[:, :end], values[:, :end], positions, segments, at, known, **options
    )
    real = segments > 0
    np.testing.assert_allclose(run(pages)[real], wanted[real], rtol=0, atol=3e-6)


def test_lowers_for_cuda_as_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """At full size, without a loop over pages: two for decoding, one for a stretch."""
    monkeypatch.undo()
    Sh = jax.ShapeDtypeStruct

    def attend(q, pool, table, lengths, first, window):
        options: Any = {"window": window, "scale": 0.1, "soft_cap": 50.0}
        return gpu_kernel.attend_pages(q, (pool,), first, table, lengths, **options)

    integer = Sh((), jnp.int32)
    args = (
        Sh((64, 32, 96), jnp.bfloat16), Sh((9000, 48, 16, 96), jnp.bfloat16),
        Sh((64, 300), jnp.int32), Sh((64,), jnp.int32), integer, integer,
    )  # fmt: skip

    def stretch(q, pool, table, lengths, first, window):
        options: Any = {"window": window, "scale": 0.1, "soft_cap": 50.0}
        rows = (lengths, lengths)
        return gpu_kernel.attend_stretch(q, (pool,), first, table, *rows, **options)

    for function, q, kernels in (
        (attend, args[0], 2),
        (stretch, Sh((64, 512, 32, 96), jnp.bfloat16), 1),
    ):
        text = jax.export.export(
            jax.jit(function),
            platforms=["cuda"],
            disabled_checks=[jax.export.DisabledSafetyCheck.custom_call("__gpu$xla.gpu.triton")],
        )(q, *args[1:]).mlir_module()
        assert text.count("__gpu$xla.gpu.triton") == kernels
        assert "stablehlo.while" not in text
