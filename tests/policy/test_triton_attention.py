"""The kernels for CUDA GPUs against the reference, interpreted, forward and backward."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cipo_jax.policy import attention, triton_attention

B, T = 2, 72  # no multiple of a block, of 32 queries, or of 16 in the backward pass


def normal(*shape: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@functools.cache
def program(kernel: bool, window: int | None, soft_cap: float | None) -> Any:
    """Output and gradients for q, k, v, where padding has no part; segments are traced."""
    options: Any = {"scale": 0.4, "window": window, "soft_cap": soft_cap}

    def attend(q, k, v, segments):
        positions = jnp.broadcast_to(jnp.arange(T, dtype=jnp.int32), segments.shape)
        if kernel:
            args = (q, k, v, positions, segments)
            return triton_attention.triton_attention(*args, **options, interpret=True)
        return attention.attend(q, k, v, *(positions, segments) * 2, **options)

    def score(q, k, v, weights, segments):
        out = jnp.where((segments > 0)[..., None, None], attend(q, k, v, segments), 0)
        return jnp.sum(out * weights), out

    return jax.jit(jax.value_and_grad(score, argnums=(0, 1, 2), has_aux=True))


# N, K, H, window, soft_cap: a group that is no power of two, a width that is none, a window within
# a block and one across blocks.
@pytest.mark.parametrize(
    "shape", [(3, 1, 16, None, None), (4, 2, 12, 7, 2.0), (2, 2, 8, 40, None)], ids=str
)
def test_equals_the_reference(shape: tuple, monkeypatch: pytest.MonkeyPatch) -> None:
    N, K, H, *options = shape
    monkeypatch.setattr(triton_attention, "FORWARD_BYTES", 2048)
    monkeypatch.setattr(triton_attention, "BACKWARD_BYTES", 16)
    q, weights = 3 * normal(B, T, N, H, seed=1), normal(B, T, N, H, seed=2)
    k, v = normal(B, T, K, H, seed=3), normal(B, T, K, H, seed=4)
    lengths = st.lists(st.integers(1, 50), min_size=1, max_size=6)

    @settings(max_examples=6, derandomize=True, deadline=None, database=None)
    @given(lengths=st.tuples(lengths, lengths), first=st.integers(0, 1))
    def check(lengths: tuple[list[int], ...], first: int) -> None:
        """Packed rows, cut off or padded at the end; or padding first."""
        numbers = [np.repeat(np.arange(first, len(n) + first), n)[:T] for n in lengths]
        segments = np.stack([np.pad(x, (0, T - len(x))) for x in numbers]).astype(np.int32)
        args = (q, k, v, weights, segments)
        (_, out), grads = program(True, *options)(*args)
        (_, wanted), wanted_grads = program(False, *options)(*args)
        for a, b in zip((out, *grads), (wanted, *wanted_grads), strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=2e-5 * max(1, np.abs(b).max()))

    check()


def test_bounds_of_segments() -> None:
    first, after = triton_attention.segment_bounds(np.array([[0, 3, 3, 1, 0, 0]], np.int32))
    np.testing.assert_array_equal(first, [[0, 1, 1, 3, 4, 4]])
    np.testing.assert_array_equal(after, [[1, 3, 3, 4, 6, 6]])


def test_flops_are_those_of_causal_attention_and_of_parts_of_blocks() -> None:
    """Of a row of 256: two blocks of 128 queries meet 2 and 4 blocks of 64 keys; in the backward
    pass, four of 64 meet 2, 4, 6 and 8 of 32."""
    flops = functools.partial(triton_attention.most_flops, q_shape=(3, 256, 5, 128), itemsize=2)
    heads = 3 * 5 * 128 * 2
    assert flops("_attend_block") == 2 * heads * (2 + 4) * 128 * 64
    assert flops("_queries_gradient") == 3 * heads * (2 + 4 + 6 + 8) * 64 * 32
    assert flops("_keys_gradient") == 4 * heads * (2 + 4 + 6 + 8) * 64 * 32
    row = functools.partial(triton_attention.most_flops, q_shape=(1, 17536, 1, 128), itemsize=2)
    assert row("_attend_block") / (2 * 2 * 128 * 17536 * 17537 / 2) < 1.01


def test_lowers_for_cuda_without_square_arrays() -> None:
    """Rows of 18,432 tokens: three kernels, and nothing [T, T] around them."""
    T = 18_432

    def score(q, k, v, segments):
        options: Any = {"scale": 0.1, "window": 1024, "soft_cap": 50.0}
        out = triton_attention.triton_attention(q, k, v, segments, segments, **options)
        return jnp.sum(out.astype(jnp.float32))

    heads = [jax.ShapeDtypeStruct((1, T, n, 96), jnp.bfloat16) for n in (4, 2, 2)]
    row = jax.ShapeDtypeStruct((1, T), jnp.int32)
    traced = jax.jit(jax.grad(score, argnums=(0, 1, 2))).trace(*heads, row)
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert text.count("__gpu$xla.gpu.triton") == 3
    assert f"{T}x{T}" not in text
