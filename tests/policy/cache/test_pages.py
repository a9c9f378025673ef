"""How pages lie in memory: both layouts against the same tokens written in plain loops."""

import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cipo_jax.policy import attention_kernels
from cipo_jax.policy.cache import pages as page_arrays

L, PAGES, SIZE, K = 2, 12, 4, 2
LAYOUTS = [1, 2]  # arrays


def zeros(layout: int, monkeypatch: pytest.MonkeyPatch, head_dim: int = 128) -> page_arrays.Pages:
    monkeypatch.setattr(page_arrays, "platform", lambda: "tpu" if layout == 1 else "cpu")
    return page_arrays.empty_pages(L, PAGES, SIZE, K, head_dim, "float32")


def random_pages(layout: int, monkeypatch: pytest.MonkeyPatch) -> page_arrays.Pages:
    random = np.random.default_rng(0)
    empty = zeros(layout, monkeypatch)
    return tuple(jnp.asarray(random.standard_normal(x.shape), x.dtype) for x in empty)


def token(pages: Any, layer: int, page: int, at: int) -> tuple[np.ndarray, np.ndarray]:
    """The key and value [K, H] at a place."""
    if len(pages) == 1:
        both = np.asarray(pages[0])[layer, page, at]
        return both[0::2], both[1::2]
    return np.asarray(pages[0])[layer, page, :, :, at], np.asarray(pages[1])[layer, page, :, at]


def test_the_layout_follows_the_devices_and_the_width(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [x.shape for x in zeros(1, monkeypatch)] == [(L, PAGES, SIZE, 2 * K, 128)]
    wide = [(L, PAGES, K, 128, SIZE), (L, PAGES, K, SIZE, 128)]
    assert [x.shape for x in zeros(2, monkeypatch)] == wide
    for head_dim, width in ((64, 128), (96, 128), (192, 256)):
        [narrow] = zeros(1, monkeypatch, head_dim)
        assert narrow.shape == (L, PAGES, SIZE, 2 * K, width)


@pytest.mark.parametrize(
    ("capability", "arrays"), [("9.0", 1), ("8.0", 1), ("12.0", 1), ("7.5", 2), ("gfx942", 2)]
)
def test_on_gpus_the_layout_follows_the_compute_capability(
    capability: str, arrays: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(page_arrays, "platform", lambda: "gpu")
    attention_kernels._log_once.cache_clear()
    card = types.SimpleNamespace(compute_capability=capability, device_kind="A card")
    for _ in range(2):
        pages = page_arrays.empty_pages(L, PAGES, SIZE, K, 96, "float32", device=card)
    assert len(pages) == arrays
    if arrays == 1:
        assert pages[0].shape == (L, PAGES, SIZE, 2 * K, 96)  # not padded
    [record] = caplog.records
    assert "A card" in record.message
    assert (f"compute capability is {capability}" in record.message) == (arrays == 2)


def test_narrow_heads_are_padded_with_zeros_for_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    k, v = np.random.default_rng(1).standard_normal((2, 1, 3, K, 96)).astype(np.float32)
    positions = np.arange(3, dtype=np.int32)[None]
    empty = page_arrays.all_layers(zeros(1, monkeypatch, head_dim=96))
    table = np.array([[5]], np.int32)
    after = page_arrays.write_pages(empty, k, v, table, positions, np.ones((1, 3), np.int32))
    for t in range(3):
        for got, wanted in zip(token([x[None] for x in after], 0, 5, t), (k, v), strict=True):
            np.testing.assert_array_equal(got[:, :96], wanted[0, t])
            assert not got[:, 96:].any()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_tokens_get_to_their_places(layout: int, monkeypatch: pytest.MonkeyPatch) -> None:
    before = page_arrays.all_layers(random_pages(layout, monkeypatch))
    assert page_arrays.page_size_of(before) == SIZE
    k, v = np.random.default_rng(1).standard_normal((2, 3, 1, K, 128)).astype(np.float32)
    table = np.array([[3, 15], [0, 1], [22, 5]], np.int32)  # over both layers
    positions, segments = np.array([[6], [2], [7]], np.int32), np.array([[1], [0], [1]], np.int32)
    after = page_arrays.write_tokens(before, k, v, table, positions, segments)
    wanted = {(15, 2): 0, (5, 3): 2}  # the second row is not written
    for page in range(L * PAGES):
        for at in range(SIZE):
            row = wanted.get((page, at))
            got = token([x[None] for x in after], 0, page, at)
            old = token([x[None] for x in before], 0, page, at)
            new = old if row is None else (k[row, 0], v[row, 0])
            np.testing.assert_array_equal(got, new)


@pytest.mark.parametrize("at_once", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_whole_pages_are_written_and_others_kept(
    layout: int, at_once: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of 6, 0 and 4 tokens in pages of 4, the first after a page that it has already."""
    before = page_arrays.all_layers(random_pages(layout, monkeypatch))
    lengths, begin, T = [6, 0, 4], [4, 0, 0], 6
    table = np.array([[7, 3, 15], [0, 1, 2], [22, 5, 6]], np.int32)
    k, v = np.random.default_rng(1).standard_normal((2, 3, T, K, 128)).astype(np.float32)
    positions = (np.array(begin)[:, None] + np.arange(T)).astype(np.int32)
    segments = (np.arange(T) < np.array(lengths)[:, None]).astype(np.int32)
    after = page_arrays.write_pages(before, k, v, table, positions, segments, at_once=at_once)
    behind = {(15, 2), (15, 3)}
    new = {
        (int(table[row, (begin[row] + t) // SIZE]), (begin[row] + t) % SIZE): (row, t)
        for row in range(3)
        for t in range(lengths[row])
    }
    assert len(new) == 10
    for page in range(L * PAGES):
        for at in range(SIZE):
            if (page, at) in behind:
                continue
            got = token([x[None] for x in after], 0, page, at)
            wanted = token([x[None] for x in before], 0, page, at)
            if (page, at) in new:
                row, t = new[page, at]
                wanted = k[row, t], v[row, t]
            np.testing.assert_array_equal(got, wanted)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_rows_are_read_token_by_token(layout: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pages = random_pages(layout, monkeypatch)
    table = np.array([[3, 5], [7, 0]], np.int32)
    keys, values = page_arrays.read_rows(tuple(x[0] for x in pages), table)
    assert keys.shape == values.shape == (2, 2 * SIZE, K, 128)
    for row in range(2):
        for t in range(2 * SIZE):
            k, v = token(pages, 0, table[row, t // SIZE], t % SIZE)
            np.testing.assert_array_equal(keys[row, t], k)
            np.testing.assert_array_equal(values[row, t], v)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_copies(layout: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pages = random_pages(layout, monkeypatch)
    source, target = np.array([3, 5, 0], np.int32), np.array([7, 8, 9], np.int32)
    got = jax.jit(page_arrays.copy_pages)(pages, source, target, np.array([2], np.int32))
    for new, old in zip(got, pages, strict=True):
        wanted = np.asarray(old).copy()
        wanted[:, [7, 8]] = wanted[:, [3, 5]]
        np.testing.assert_array_equal(new, wanted)
