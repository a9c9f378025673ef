"""The portable attention against a double loop, and its query blocks against the whole."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cipo_jax.policy import attention

B, T, N, K, H = 3, 12, 4, 2, 8
SCALE = H**-0.5
POSITIONS = np.array(
    [
        [0, 1, 2, 3, 0, 1, 2, 3, 4, 0, 0, 0],  # two packed sequences, then padding
        [0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8],  # left padding
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11],
    ],
    np.int32,
)
SEGMENTS = np.array(
    [
        [1, 1, 1, 1, 2, 2, 2, 2, 2, 0, 0, 0],
        [0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1],
        [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1],
    ],
    np.int32,
)


def random_qkv(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    shapes = ((B, T, N, H), (B, T, K, H), (B, T, K, H))
    q, k, v = (random.standard_normal(shape).astype(np.float32) for shape in shapes)
    return 3 * q, k, v  # sharp enough that a wrong key shows


def double_loop(
    q, k, v, q_positions, q_segments, k_positions, k_segments, *, scale, window=None, soft_cap=None
) -> np.ndarray:
    """Attention token by token in float64; rows of padding are left 0."""
    out = np.zeros(q.shape)
    for b in range(q.shape[0]):
        for t in range(q.shape[1]):
            seen = [
                s
                for s in range(k.shape[1])
                if k_segments[b, s] == q_segments[b, t] != 0
                and 0 <= q_positions[b, t] - k_positions[b, s] < (window or T)
            ]
            if not seen:
                continue
            for n in range(q.shape[2]):
                head = n // (q.shape[2] // k.shape[2])
                scores = np.array([q[b, t, n] @ k[b, s, head] for s in seen], np.float64)
                scores *= scale
                if soft_cap:
                    scores = soft_cap * np.tanh(scores / soft_cap)
                weights = np.exp(scores - scores.max())
                out[b, t, n] = weights / weights.sum() @ v[b, seen, head]
    return out


@pytest.mark.parametrize(
    "options",
    [
        {"scale": SCALE},
        {"scale": 0.2},
        {"scale": SCALE, "window": 3},
        {"scale": SCALE, "window": 1},
        {"scale": SCALE, "window": 100},
        {"scale": SCALE, "soft_cap": 2.0},
        {"scale": 0.5, "soft_cap": 2.0, "window": 4},
    ],
    ids=str,
)
def test_equals_double_loop(options: dict) -> None:
    q, k, v = random_qkv()
    rows = (POSITIONS, SEGMENTS) * 2
    got = attention.attend(q, k, v, *rows, **options)
    wanted = double_loop(q, k, v, *rows, **options)
    assert np.isfinite(got).all()  # padding included
    real = SEGMENTS > 0
    np.testing.assert_allclose(got[real], wanted[real], atol=2e-6)
    if "window" in options:  # a number of the program, or data
        traced = options | {"window": jnp.asarray(options["window"])}
        np.testing.assert_array_equal(attention.attend(q, k, v, *rows, **traced), got)


def test_equals_double_loop_with_fewer_queries_than_keys() -> None:
    """As in decoding: keys lie in cache columns, some of them still empty (segment 0)."""
    q, k, v = random_qkv(1)
    q, q_positions, q_segments = q[:, :2], POSITIONS[:, 7:9], SEGMENTS[:, 7:9]
    k_segments = np.where(np.arange(T) < 9, SEGMENTS, 0)
    got = attention.attend(q, k, v, q_positions, q_segments, POSITIONS, k_segments, scale=SCALE)
    wanted = double_loop(q, k, v, q_positions, q_segments, POSITIONS, k_segments, scale=SCALE)
    np.testing.assert_allclose(got, wanted, atol=2e-6)


def test_visible() -> None:
    mask = attention.visible(
        *(jnp.array([x], jnp.int32) for x in ([0, 1, 0, 0], [1, 1, 2, 0], [0, 1, 0, 0])),
        jnp.array([[1, 1, 2, 0]], jnp.int32),
    )
    wanted = [[1, 0, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0]]
    np.testing.assert_array_equal(mask[0], np.array(wanted, bool))


@pytest.mark.parametrize("block", [1, 4, 6])
def test_query_blocks_equal_the_whole(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    qkv = random_qkv()
    probe = np.random.default_rng(2).standard_normal((B, T, N, H)) * (SEGMENTS > 0)[..., None, None]

    def score(q, k, v):
        out = attention.attend(q, k, v, POSITIONS, SEGMENTS, POSITIONS, SEGMENTS, scale=SCALE)
        return jnp.sum(out * probe), out

    def run():
        (_, out), grads = jax.value_and_grad(score, argnums=(0, 1, 2), has_aux=True)(*qkv)
        return out, *grads

    whole = run()
    monkeypatch.setattr(attention, "QUERY_BLOCK", block)
    assert "scan" in str(jax.make_jaxpr(score)(*qkv))  # it does go by blocks
    for got, wanted in zip(run(), whole, strict=True):
        np.testing.assert_allclose(got, wanted, atol=3e-6)


@pytest.mark.parametrize("prefixes", [None, np.where(SEGMENTS == 2, 1, SEGMENTS)])
def test_blocks_of_columns_equal_the_whole(
    prefixes: np.ndarray | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "COLUMN_BLOCK", 5)
    q, k, v = random_qkv()

    def whole(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        rows = (POSITIONS, SEGMENTS) * 2
        return attention.attend(q, k, v, *rows, scale=SCALE, window=6, q_prefixes=prefixes)

    def blocks(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        options = {"scale": SCALE, "window": 6, "q_prefixes": prefixes}
        return attention.attend_to_earlier(q, k, v, POSITIONS, SEGMENTS, **options)

    of_tokens = SEGMENTS[..., None, None] > 0
    values = [np.where(of_tokens, f(q, k, v), 0) for f in (whole, blocks)]
    np.testing.assert_allclose(values[1], values[0], atol=1e-6)
    loss = [lambda *a, f=f: jnp.sum(jnp.where(of_tokens, f(*a), 0) ** 2) for f in (whole, blocks)]
    gradients = [jax.jit(jax.grad(f, (0, 1, 2)))(q, k, v) for f in loss]
    for got, wanted in zip(gradients[1], gradients[0], strict=True):
        np.testing.assert_allclose(got, wanted, atol=1e-5)
    # The last block alone reads all keys.
    shapes = str(jax.make_jaxpr(blocks)(q, k, v))
    assert f"{K},2,5,5]" in shapes and f"{K},2,5,10]" in shapes and f"{K},2,2,12]" in shapes


def test_a_shared_prefix_is_seen() -> None:
    q, k, v = random_qkv()
    rows = (POSITIONS, SEGMENTS) * 2
    alone = attention.attend(q, k, v, *rows, scale=SCALE)
    sees = attention.attend(q, k, v, *rows, scale=SCALE, q_prefixes=np.where(SEGMENTS == 2, 1, 0))
    # The second segment of the first row: up to its position it sees the first as well.
    one = double_loop(q, k, v, *(POSITIONS, SEGMENTS * 0 + (SEGMENTS > 0)) * 2, scale=SCALE)
    np.testing.assert_allclose(sees[0, 4:9], one[0, 4:9], atol=1e-5)
    np.testing.assert_array_equal(sees[0, :4], alone[0, :4])
    np.testing.assert_array_equal(sees[1:, 3:], alone[1:, 3:])


def test_lengths_that_no_block_divides_are_not_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "QUERY_BLOCK", 5)
    q, k, v = random_qkv()
    got = attention.attend(q, k, v, POSITIONS, SEGMENTS, POSITIONS, SEGMENTS, scale=SCALE)
    wanted = double_loop(q, k, v, POSITIONS, SEGMENTS, POSITIONS, SEGMENTS, scale=SCALE)
    np.testing.assert_allclose(got[2], wanted[2], atol=2e-6)


def test_bfloat16_scores_are_float32() -> None:
    """bfloat16 inputs lose only their own rounding: the softmax is not rounded on top."""
    q, k, v = (jnp.asarray(x, jnp.bfloat16) for x in random_qkv())
    got = attention.attend(q, k, v, POSITIONS, SEGMENTS, POSITIONS, SEGMENTS, scale=SCALE)
    wide = (np.asarray(x, np.float32) for x in (q, k, v))
    wanted = double_loop(*wide, POSITIONS, SEGMENTS, POSITIONS, SEGMENTS, scale=SCALE)
    assert got.dtype == jnp.bfloat16
    attend = functools.partial(attention.attend, scale=SCALE)
    jaxpr = str(jax.make_jaxpr(attend)(q, k, v, *(POSITIONS, SEGMENTS) * 2))
    assert f"f32[{B},{K},{N // K},{T},{T}] = exp" in jaxpr
    real = SEGMENTS > 0
    np.testing.assert_allclose(np.asarray(got, np.float32)[real], wanted[real], atol=0.03)
