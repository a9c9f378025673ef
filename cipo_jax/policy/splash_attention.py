"""Attention of packed rows to themselves on TPUs, forward and backward, by JAX's Pallas kernel.

The kernel's mask says which blocks are computed at all; segments are compared within a block. Where
a mesh splits rows by tokens, each device has its part of the mask, which knows the columns of its
queries, and all keys, in the order of the row.

Compared with the reference in interpret mode, and compiled for TPU v5e; not timed on one.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from cipo_jax.policy import attention, context
from cipo_jax.policy.sharding import TOKENS, Rules, spec

BLOCKS = (512, 256, 128)  # tokens of a block; the first that divides a device's tokens is used


def splash_refuses(q: jax.Array, shards: int = 1) -> str:
    """Why the kernel can't take these queries; "" if it can.

    Args:
      shards: into how many parts their tokens are split.
    """
    T, H = q.shape[1], q.shape[3]
    if T % (shards * BLOCKS[-1]):
        whose = f"a device has {T / shards:g} tokens of a row" if shards > 1 else ""
        return f"{whose or f'rows have {T} tokens'}, no multiple of {BLOCKS[-1]}"
    if H % 64:
        return f"head_dim is {H}, no multiple of 64"
    return ""


def splash_attention(
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
    """`attention_kernels.attend_rows`, on one device's arrays of whole rows."""
    del positions
    T, N = q.shape[1:3]
    kernel = _kernel(T, N, window, soft_cap, 1, interpret)
    return _run(kernel, q, k, v, segments, segments, scale)


def split_kernel(
    T: int,
    N: int,
    window: int | None,
    soft_cap: float | None,
    rules: Rules,
    interpret: bool = False,
) -> tuple[Any, Any]:
    """The kernel for queries [B, T, N, H] in the order of the devices, which has the mask as
    arrays, and the PartitionSpecs of these."""
    mesh = jax.sharding.get_abstract_mesh()
    axis: Any = spec(rules, ("heads",))[0]
    heads = N // (mesh.shape[axis] if axis else 1)
    kernel = _kernel(T, heads, window, soft_cap, context.token_shards(rules), interpret)
    return kernel, kernel.manual_sharding_spec(NamedSharding(mesh, P(None, TOKENS)))


def attend_split(
    kernel: Any,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    positions: jax.Array,
    segments: jax.Array,
    *,
    scale: float,
) -> jax.Array:
    """`attention_kernels.attend_rows`, on one device's part of heads and tokens.

    Args:
      kernel: the device's part of `split_kernel`'s.
    """
    del positions
    shards = jax.lax.axis_size(TOKENS)
    whole = (context.to_rows(context.whole_rows(x), shards) for x in (k, v, segments))
    k, v, k_segments = whole
    return _run(kernel, q, k, v, segments, k_segments, scale)


def _kernel(
    T: int, N: int, window: int | None, soft_cap: float | None, shards: int, interpret: bool
) -> Any:
    # Late, because only TPUs need this slow import.
    from jax.experimental.pallas.ops.tpu import splash_attention as splash

    mask: Any = (
        splash.CausalMask((T, T))
        if window is None
        else splash.LocalMask((T, T), window_size=(window - 1, 0), offset=0)
    )
    if shards > 1:
        mask.q_sequence = context.columns(T, shards)
    block = next(size for size in BLOCKS if T // shards % size == 0)
    return splash.make_splash_mha(
        splash.MultiHeadMask([mask] * N),
        block_sizes=splash.BlockSizes(
            block_q=block,
            block_kv=block,
            block_kv_compute=block,
            block_q_dkv=block,
            block_kv_dkv=block,
            block_kv_dkv_compute=block,
            block_q_dq=block,
            block_kv_dq=block,
        ),
        attn_logits_soft_cap=soft_cap,
        head_shards=1,
        q_seq_shards=shards,
        residual_checkpoint_name=attention.SAVED_NAME,
        interpret=interpret,
    )


def _run(
    kernel: Any,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    q_segments: jax.Array,
    k_segments: jax.Array,
    scale: float,
) -> jax.Array:
    from jax.experimental.pallas.ops.tpu import splash_attention as splash

    def row(q: jax.Array, k: jax.Array, v: jax.Array, *segments: jax.Array) -> jax.Array:
        return kernel(q, k, v, segment_ids=splash.SegmentIds(*segments))

    # The kernel does not scale, and wants heads before tokens.
    scaled = (q.astype(jnp.float32) * scale).astype(q.dtype)
    q, k, v = (jnp.swapaxes(x, 1, 2) for x in (scaled, k, v))
    return jnp.swapaxes(jax.vmap(row)(q, k, v, q_segments, k_segments), 1, 2)
