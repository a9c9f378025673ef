"""Attention of packed rows to themselves on CUDA GPUs, forward and backward, by kernels of our own.

They serve what cuDNN does not: rows of any length, soft caps, wide heads, float32. A program takes
a block of queries (or of keys, for their gradients) and loops over the blocks of the other side
that lie in the same segments, within the window, and in the past (or in the future). So the work
follows the segments, and no array [T, T] exists. One program adds up what a group's queries give
their keys: nothing is added atomically, and a run repeats itself on one card.

The backward pass is two kernels, one that adds up over keys and one over queries. Both need the
scores, so that it multiplies seven times where one kernel would five times.

Compared with the reference in interpret mode, and compiled for H100 and L4; not timed.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from cipo_jax.policy import attention

# Bytes of a block of queries, forward and backward, where more blocks are held: what a card with
# 99 KiB of shared memory a program can take.
FORWARD_BYTES, BACKWARD_BYTES = 32 << 10, 16 << 10
# Tokens of a block at most, by bytes of a number; float32 does without tensor cores.
BLOCK_TOKENS = {2: 128, 4: 32}


class Options(NamedTuple):
    """What is static in a call.

    Attributes:
      window: tokens that a query sees.
      queries, backward_queries: of a block, see `query_blocks`.
      interpret: JAX runs the kernels, without a GPU.
    """

    scale: float
    window: int
    soft_cap: float | None
    queries: int
    backward_queries: int
    interpret: bool

    @property
    def keys(self) -> int:
        return keys_of(self.queries)

    @property
    def backward(self) -> "Options":
        """With the blocks of the backward pass."""
        return self._replace(queries=self.backward_queries)


def triton_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    positions: jax.Array,
    segments: jax.Array,
    *,
    scale: float,
    window: int | None,
    soft_cap: float | None,
    interpret: bool = False,
) -> jax.Array:
    """`attention_kernels.attend_rows`, on one device's arrays; 0 at padding."""
    del positions
    sees, blocks = attention.window_size(window), query_blocks(q.shape[3], q.dtype.itemsize)
    options = Options(scale, sees, soft_cap, *blocks, interpret)
    return _attend(options, q, k, v, segments, *segment_bounds(segments))


def query_blocks(H: int, itemsize: int) -> tuple[int, int]:
    """Queries of a block, forward and backward."""
    width, most = power_of_two(H) * itemsize, BLOCK_TOKENS[itemsize]
    forward, backward = (min(most, max(16, n // width)) for n in (FORWARD_BYTES, BACKWARD_BYTES))
    return forward, backward


def keys_of(queries: int) -> int:
    """Keys of a block, beside so many queries."""
    return max(16, queries // 2)


def segment_bounds(segments: jax.Array) -> tuple[jax.Array, jax.Array]:
    """[B, T] int32 each: the first column of each column's segment, and the one after its last."""
    columns = jnp.broadcast_to(jnp.arange(segments.shape[1], dtype=jnp.int32), segments.shape)
    differs = segments[:, 1:] != segments[:, :-1]
    begins = jnp.pad(differs, ((0, 0), (1, 0)), constant_values=True)
    ends = jnp.pad(differs, ((0, 0), (0, 1)), constant_values=True)
    first = jax.lax.cummax(jnp.where(begins, columns, 0), axis=1)
    after = jnp.where(ends, columns + 1, segments.shape[1])
    return first, jax.lax.cummin(after, axis=1, reverse=True)


def power_of_two(n: int) -> int:
    """The first power of two that is not less; the sizes of all that a kernel holds are such."""
    return 1 << (n - 1).bit_length()


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(options: Options, q: jax.Array, *rest: jax.Array) -> jax.Array:
    return _forward(options, q, *rest)[0]


def _forward(options: Options, q: jax.Array, *rest: jax.Array) -> tuple[jax.Array, Any]:
    B, T, N, _ = q.shape
    out, logsum = pl.pallas_call(
        functools.partial(_attend_block, options=options),
        grid=(pl.cdiv(T, options.queries), N, B),
        out_shape=[
            jax.ShapeDtypeStruct(q.shape, q.dtype),
            jax.ShapeDtypeStruct((B, N, T), jnp.float32),
        ],
        **_how(options),
    )(q, *rest)
    out, logsum = (checkpoint_name(x, attention.SAVED_NAME) for x in (out, logsum))
    return out, (q, *rest, out, logsum)


def _backward(options: Options, saved: Any, slope: jax.Array) -> tuple[Any, ...]:
    options = options.backward
    q, k, v, *rows, out, logsum = saved
    (B, T, N, _), K = q.shape, k.shape[2]
    # What the softmax takes from every score's gradient, [B, N, T].
    mean = jnp.einsum("btnh,btnh->bnt", out, slope, preferred_element_type=jnp.float32)
    args = (q, k, v, *rows, slope, logsum, mean)
    dq = pl.pallas_call(
        functools.partial(_queries_gradient, options=options),
        grid=(pl.cdiv(T, options.queries), N, B),
        out_shape=jax.ShapeDtypeStruct(q.shape, q.dtype),
        **_how(options),
    )(*args)
    dk, dv = pl.pallas_call(
        functools.partial(_keys_gradient, options=options),
        grid=(pl.cdiv(T, options.keys), K, B),
        out_shape=[jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (k, v)],
        **_how(options),
    )(*args)
    return dq, dk, dv, None, None, None


_attend.defvjp(_forward, _backward)


def _how(options: Options) -> dict[str, Any]:
    parameters = triton.CompilerParams(num_warps=8 if options.queries > 64 else 4, num_stages=2)
    return {"compiler_params": parameters, "interpret": options.interpret}


# In the kernels: q_ref, slope_ref, out_ref [B, T, N, H]; k_ref, v_ref [B, T, K, H]; the references
# of segments, first and after [B, T] int32, see `segment_bounds`; logsum_ref and mean_ref [B, N, T]
# float32.

product = functools.partial(triton.dot, precision=jax.lax.Precision.HIGHEST)


def _load(ref: Any, row: Any, columns: jax.Array, head: Any) -> jax.Array:
    """[columns, H padded with zeros]; 0 beyond the row."""
    T, H = ref.shape[1], ref.shape[3]
    dims = jnp.arange(power_of_two(H))
    mask = (columns < T)[:, None] & (dims < H)[None, :]
    return triton.load(ref.at[row, columns[:, None], head, dims[None, :]], mask=mask, other=0.0)


def _store(ref: Any, row: Any, columns: jax.Array, head: Any, value: jax.Array) -> None:
    T, H = ref.shape[1], ref.shape[3]
    dims = jnp.arange(power_of_two(H))
    mask = (columns < T)[:, None] & (dims < H)[None, :]
    place = ref.at[row, columns[:, None], head, dims[None, :]]
    triton.store(place, value.astype(ref.dtype), mask=mask)


def _load_line(ref: Any, *place: Any) -> jax.Array:
    """Numbers of a block of columns; 0 beyond the row."""
    return triton.load(ref.at[place], mask=place[-1] < ref.shape[-1], other=0)


def _load_keys(
    k_ref: Any, v_ref: Any, segments_ref: Any, row: Any, columns: jax.Array, head: Any
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Keys, values and segments of a block of columns."""
    k, v = (_load(ref, row, columns, head) for ref in (k_ref, v_ref))
    return k, v, _load_line(segments_ref, row, columns)


def nothing_added(q: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """What `add_block` begins with, for queries [queries, H]."""
    zeros = jnp.zeros(q.shape[:1], jnp.float32)
    return zeros + attention.MASKED, zeros, jnp.zeros(q.shape, jnp.float32)


def add_block(
    carry: tuple[jax.Array, ...], scores: jax.Array, seen: jax.Array, values: jax.Array
) -> tuple[jax.Array, ...]:
    """A turn of a softmax over blocks of keys.

    Args:
      carry: for each query the largest score so far, the sum of the scores' exponentials less it,
        and [queries, H] the values weighted by these.
      scores, seen: [queries, keys]; `seen` may be [1, keys].
      values: [keys, H].
    """
    top, total, mixed = carry
    scores = jnp.where(seen, scores, attention.MASKED)
    new_top = jnp.maximum(top, jnp.max(scores, axis=1))
    weights = jnp.where(seen, jnp.exp(scores - new_top[:, None]), 0.0)
    shrink = jnp.exp(top - new_top)
    total = total * shrink + jnp.sum(weights, axis=1)
    mixed = mixed * shrink[:, None] + product(weights.astype(values.dtype), values)
    return new_top, total, mixed


def _scores(
    q: jax.Array,
    k: jax.Array,
    columns: tuple[jax.Array, jax.Array],
    segments: tuple[jax.Array, jax.Array],
    options: Options,
) -> tuple[jax.Array, jax.Array]:
    """[queries, keys] scores, soft-capped, and which of them count."""
    (mine, theirs), (own, others) = columns, segments
    distance = mine[:, None] - theirs[None, :]
    seen = (own[:, None] == others[None, :]) & (others > 0)[None, :]
    seen &= (distance >= 0) & (distance < options.window)
    scores = product(q, k, trans_b=True) * options.scale
    return attention.soft_capped(scores, options.soft_cap), seen


def _key_blocks(first_ref: Any, row: Any, begin: Any, options: Options) -> tuple[Any, Any]:
    """The blocks of keys that a block of queries from column `begin` on may see."""
    T = first_ref.shape[1]
    oldest = jnp.maximum(first_ref[row, begin], begin - (options.window - 1))
    last = jnp.minimum(begin + options.queries, T)
    return oldest // options.keys, (last + options.keys - 1) // options.keys


def _attend_block(
    q_ref: Any,
    k_ref: Any,
    v_ref: Any,
    segments_ref: Any,
    first_ref: Any,
    after_ref: Any,
    out_ref: Any,
    logsum_ref: Any,
    *,
    options: Options,
) -> None:
    del after_ref
    begin, head, row = pl.program_id(0) * options.queries, pl.program_id(1), pl.program_id(2)
    shared = head // (q_ref.shape[2] // k_ref.shape[2])
    mine = begin + jnp.arange(options.queries)
    q, own = _load(q_ref, row, mine, head), _load_line(segments_ref, row, mine)

    def turn(i: jax.Array, carry: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        theirs = i * options.keys + jnp.arange(options.keys)
        k, v, others = _load_keys(k_ref, v_ref, segments_ref, row, theirs, shared)
        scores, seen = _scores(q, k, (mine, theirs), (own, others), options)
        return add_block(carry, scores, seen, v)

    blocks = _key_blocks(first_ref, row, begin, options)
    top, total, mixed = jax.lax.fori_loop(*blocks, turn, nothing_added(q))
    total = jnp.maximum(total, 1e-30)  # padding sees nothing
    _store(out_ref, row, mine, head, mixed / total[:, None])
    place = logsum_ref.at[row, head, mine]
    triton.store(place, top + jnp.log(total), mask=mine < q_ref.shape[1])


def _slopes(
    scores: jax.Array,
    seen: jax.Array,
    q_side: tuple[jax.Array, ...],
    v: jax.Array,
    options: Options,
) -> tuple[jax.Array, jax.Array]:
    """[queries, keys] weights of the softmax, and the gradient of unscaled scores."""
    slope, logsum, mean = q_side
    weights = jnp.where(seen, jnp.exp(scores - logsum[:, None]), 0.0)
    gradient = weights * (product(slope, v, trans_b=True) - mean[:, None])
    if options.soft_cap is not None:
        gradient *= 1.0 - (scores / options.soft_cap) ** 2
    return weights, gradient * options.scale


def _queries_gradient(
    q_ref: Any,
    k_ref: Any,
    v_ref: Any,
    segments_ref: Any,
    first_ref: Any,
    after_ref: Any,
    slope_ref: Any,
    logsum_ref: Any,
    mean_ref: Any,
    dq_ref: Any,
    *,
    options: Options,
) -> None:
    del after_ref
    begin, head, row = pl.program_id(0) * options.queries, pl.program_id(1), pl.program_id(2)
    shared = head // (q_ref.shape[2] // k_ref.shape[2])
    mine = begin + jnp.arange(options.queries)
    q, own = _load(q_ref, row, mine, head), _load_line(segments_ref, row, mine)
    lines = (_load_line(ref, row, head, mine) for ref in (logsum_ref, mean_ref))
    q_side = (_load(slope_ref, row, mine, head), *lines)

    def turn(i: jax.Array, dq: jax.Array) -> jax.Array:
        theirs = i * options.keys + jnp.arange(options.keys)
        k, v, others = _load_keys(k_ref, v_ref, segments_ref, row, theirs, shared)
        scores, seen = _scores(q, k, (mine, theirs), (own, others), options)
        _, gradient = _slopes(scores, seen, q_side, v, options)
        return dq + product(gradient.astype(k.dtype), k)

    blocks = _key_blocks(first_ref, row, begin, options)
    dq = jax.lax.fori_loop(*blocks, turn, jnp.zeros(q.shape, jnp.float32))
    _store(dq_ref, row, mine, head, dq)


def _keys_gradient(
    q_ref: Any,
    k_ref: Any,
    v_ref: Any,
    segments_ref: Any,
    first_ref: Any,
    after_ref: Any,
    slope_ref: Any,
    logsum_ref: Any,
    mean_ref: Any,
    dk_ref: Any,
    dv_ref: Any,
    *,
    options: Options,
) -> None:
    del first_ref
    begin, shared, row = pl.program_id(0) * options.keys, pl.program_id(1), pl.program_id(2)
    group, T = q_ref.shape[2] // k_ref.shape[2], q_ref.shape[1]
    theirs = begin + jnp.arange(options.keys)
    k, v, others = _load_keys(k_ref, v_ref, segments_ref, row, theirs, shared)
    last = jnp.minimum(begin + options.keys, T) - 1
    end = jnp.minimum(after_ref[row, last], last + options.window)
    first_block = begin // options.queries
    blocks = (end + options.queries - 1) // options.queries - first_block

    def turn(i: jax.Array, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        dk, dv = carry
        head = shared * group + i // blocks  # one query head of the group after the other
        mine = (first_block + i % blocks) * options.queries + jnp.arange(options.queries)
        q, own = _load(q_ref, row, mine, head), _load_line(segments_ref, row, mine)
        lines = (_load_line(ref, row, head, mine) for ref in (logsum_ref, mean_ref))
        q_side = (_load(slope_ref, row, mine, head), *lines)
        scores, seen = _scores(q, k, (mine, theirs), (own, others), options)
        weights, gradient = _slopes(scores, seen, q_side, v, options)
        dv += product(weights.astype(v.dtype), q_side[0], trans_a=True)
        dk += product(gradient.astype(q.dtype), q, trans_a=True)
        return dk, dv

    zeros = jnp.zeros(k.shape, jnp.float32)
    dk, dv = jax.lax.fori_loop(0, group * blocks, turn, (zeros, zeros))
    _store(dk_ref, row, theirs, shared, dk)
    _store(dv_ref, row, theirs, shared, dv)


# Matrix products of a block of queries with a block of keys, by the name that a kernel has in a
# compiled program.
PRODUCTS = {_attend_block.__name__: 2, _queries_gradient.__name__: 3, _keys_gradient.__name__: 4}


def most_flops(kernel: str, q_shape: tuple[int, ...], itemsize: int) -> float:
    """FLOPs of a call where each row is one segment without a window; else it computes less.

    Args:
      kernel: one of `PRODUCTS`.
      q_shape: [B, T, N, H].
      itemsize: bytes of one of q's numbers.
    """
    B, T, N, H = q_shape
    forward, backward = query_blocks(H, itemsize)
    queries = forward if kernel == _attend_block.__name__ else backward
    keys = keys_of(queries)
    # A block of queries meets all blocks of keys up to its own last column, and those meet it.
    met = sum(pl.cdiv(min(begin + queries, T), keys) for begin in range(0, T, queries))
    return PRODUCTS[kernel] * 2.0 * B * N * power_of_two(H) * met * queries * keys
