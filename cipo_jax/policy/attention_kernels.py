"""Attention of whole rows to themselves, by the best implementation for the devices at hand.

`attend_rows` is the one place that chooses: Pallas splash attention on TPU, cuDNN on GPU and our
own kernels (`triton_attention`) for what cuDNN does not support there, and the portable reference
(`attention.attend`) elsewhere and for what no kernel supports. The log then gives the reason, once.
The kind of devices is that of the mesh, so that a program can be compiled for another machine. Not
decided here: attention to a cache (`cache/attention`).

Kernels know columns, not positions: they need the tokens of a segment side by side with positions
that count up, as in packed rows and in padded ones.

Where a mesh splits rows by tokens (`context`), each device has all keys and values of its rows for
as long as it attends with its own queries: by splash attention on TPU, else by the reference.
"""

import contextlib
import contextvars
import functools
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import PartitionSpec as P

from cipo_jax.policy import attention, context
from cipo_jax.policy.sharding import Rules, spec
from cipo_jax.policy.splash_attention import (
    attend_split,
    splash_attention,
    splash_refuses,
    split_kernel,
)

# JAX interprets Pallas kernels instead of compiling them: for tests without a TPU.
INTERPRET = False
# XLA compiles Triton kernels for this CUDA compute capability and later ones.
TRITON_CAPABILITY = 8.0

Kernel = Callable[..., jax.Array]

_WITHOUT = contextvars.ContextVar("without_kernels", default=False)


def attend_rows(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    positions: jax.Array,
    segments: jax.Array,
    *,
    scale: float,
    window: int | None | jax.Array = None,
    windows: Sequence[int | None] = (),
    soft_cap: float | None = None,
    prefixes: jax.Array | None = None,
    rules: Rules = (),
) -> jax.Array:
    """Attention of each token to the tokens of its segment before it.

    Args:
      q: [B, T, N, H] queries, N a multiple of K.
      k, v: [B, T, K, H] keys and values of the same tokens.
      positions, segments: [B, T] int32; segment 0 is padding. Under rules that split tokens, all
        arrays are in the order of the devices, see `context`.
      scale, window, soft_cap: as in `attention.attend`.
      windows: where `window` is an array: the values it may have; NO_WINDOW stands for None.
      prefixes: [B, T] int32, a second segment that each token sees; no kernel knows any.
      rules: where rows and heads lie on the ambient mesh; () without a mesh.

    Returns:
      [B, T, N, H] in q's dtype; without meaning at padding.
    """
    args = (q, k, v, positions, segments)
    shards = context.token_shards(rules)
    kernel = _kernel(q, soft_cap, shards) if prefixes is None else None
    if kernel is None:
        options: Any = {"scale": scale, "soft_cap": soft_cap}
        if shards == 1:
            options["window"] = window
            out = attention.attend_to_earlier(*args, q_prefixes=prefixes, **options)
        else:
            split = functools.partial(_attend_split, **options)
            size = window if isinstance(window, jax.Array) else attention.window_size(window)
            seconds = () if prefixes is None else (prefixes,)
            out = _on_mesh(split, rules, *args, *seconds, first=(jnp.int32(size), P()))
        return checkpoint_name(out, attention.SAVED_NAME)

    def run(window: int | None, *args: jax.Array) -> jax.Array:
        if shards > 1:
            split = functools.partial(attend_split, scale=scale)
            T, N = q.shape[1:3]
            mask = split_kernel(T, N, window, soft_cap, rules, INTERPRET)
            return _on_mesh(split, rules, *args, first=mask)
        static = functools.partial(kernel, scale=scale, window=window, soft_cap=soft_cap)
        return _on_mesh(static, rules, *args)

    if not isinstance(window, jax.Array):
        return run(window, *args)
    # Kernels skip blocks outside the window, which must be known to the compiler: a branch each.
    sizes = jnp.asarray([attention.window_size(w) for w in windows], jnp.int32)
    branches = [functools.partial(run, w) for w in windows]
    out = jax.lax.switch(jnp.argmax(sizes == window), branches, *args)
    return checkpoint_name(out, attention.SAVED_NAME)


@contextlib.contextmanager
def without_kernels() -> Iterator[None]:
    """Programs traced inside use the reference, whatever the devices."""
    token = _WITHOUT.set(True)
    try:
        yield
    finally:
        _WITHOUT.reset(token)


def platform() -> str:
    """What the program is compiled for: "tpu", "gpu" or "cpu", which has no kernels."""
    if _WITHOUT.get():
        return "cpu"
    mesh = jax.sharding.get_abstract_mesh()
    device = None if mesh.empty else mesh.abstract_device
    return jax.default_backend() if device is None else device.platform


def _kernel(q: jax.Array, soft_cap: float | None, shards: int) -> Kernel | None:
    """The kernel for these queries; None: the reference."""
    devices = platform()
    kernel: Kernel | None
    if devices == "tpu":
        reasons, kernel = splash_refuses(q, shards), _splash
    elif devices == "gpu" and shards > 1:
        kernel, reasons = None, "rows are split by tokens (mesh.context), which no GPU kernel takes"
    elif devices == "gpu":
        reasons, kernel = cudnn_refuses(q, soft_cap), cudnn_attention
        if reasons and not (others := triton_refuses()):
            _log_once(f"attention on gpu: our own kernels are used, not cuDNN, because {reasons}")
            return _triton
        reasons = reasons and f"{reasons}; {others}"
    else:
        return None
    if not reasons:
        return kernel
    _log_once(f"attention on {devices}: the portable implementation is used, because {reasons}")
    return None


@functools.cache
def _log_once(message: str) -> None:
    logging.getLogger(__name__).warning(message)


def _on_mesh(
    kernel: Kernel,
    rules: Rules,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *rest: jax.Array,
    first: tuple[Any, Any] | None = None,
) -> jax.Array:
    """Runs the kernel on each device's own rows, tokens and heads.

    Args:
      rest: positions, segments and so on.
      first: an argument before q, and its specs.
    """
    if not rules:
        return kernel(q, k, v, *rest)
    heads, kv_heads = (
        spec(rules, ("batch", "tokens", axis, "head_dim")) for axis in ("heads", "kv_heads")
    )
    if heads != kv_heads:
        # The tensor axis does not divide the key/value heads, so every device has all of them. The
        # fewest copies with which it does put each next to its queries.
        group, kv = q.shape[2] // k.shape[2], k.shape[2]
        parts = jax.sharding.get_abstract_mesh().shape[heads[2]] if heads[2] else 1
        copies = next(n for n in range(1, group + 1) if group % n == 0 and kv * n % parts == 0)
        k, v = (jnp.repeat(x, copies, axis=2) for x in (k, v))
    rows = P(*heads[:2])
    in_specs: tuple[Any, ...] = (heads, heads, heads, *(rows,) * len(rest))
    args: tuple[Any, ...] = (q, k, v, *rest)
    if first is not None:
        in_specs, args = (first[1], *in_specs), (first[0], *args)
    sharded = jax.shard_map(kernel, in_specs=in_specs, out_specs=heads, check_vma=False)
    return sharded(*args)


def _attend_split(
    window: jax.Array,
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    positions: jax.Array,
    segments: jax.Array,
    prefixes: jax.Array | None = None,
    **options: Any,
) -> jax.Array:
    """The reference on one device's part of the tokens."""
    k, v, k_positions, k_segments = map(context.whole_rows, (k, v, positions, segments))
    keys = (k_positions, k_segments)
    options |= {"window": window, "q_prefixes": prefixes}
    return attention.attend(q, k, v, positions, segments, *keys, **options)


# GPU.


def triton_refuses(device: Any = None) -> str:
    """Why a GPU can't run Triton's kernels; "" if it can. By default, this machine's; a card that
    is not here, for which a program is compiled ahead, is taken to run them."""
    if device is None:
        if jax.default_backend() != "gpu":
            return ""
        device = jax.local_devices()[0]
    capability = str(getattr(device, "compute_capability", "not known"))
    try:
        served = float(capability) >= TRITON_CAPABILITY
    except ValueError:  # of AMD: gfx942, for example
        served = False
    if served:
        return ""
    return f"its compute capability is {capability}, not CUDA's {TRITON_CAPABILITY} or later"


def triton_reads_pages(device: Any) -> bool:
    """Whether Triton's kernel (`cache/gpu_kernel`) reads the cache on this GPU. Logged, once."""
    reasons = triton_refuses(device)
    how = "Triton's kernel reads it"
    if reasons:
        how = f"the portable implementation is used, because {reasons}"
    _log_once(f"attention to the cache on {device.device_kind}: {how}")
    return not reasons


def _splash(*args: jax.Array, **options: Any) -> jax.Array:
    return splash_attention(*args, **options, interpret=INTERPRET)


def _triton(*args: jax.Array, **options: Any) -> jax.Array:
    # Late, because only GPUs need this slow import.
    from cipo_jax.policy.triton_attention import triton_attention

    return triton_attention(*args, **options, interpret=INTERPRET)


def cudnn_refuses(q: jax.Array, soft_cap: float | None) -> str:
    """Why cuDNN can't take these queries; "" if it can."""
    T, H = q.shape[1], q.shape[3]
    if q.dtype not in (jnp.bfloat16, jnp.float16):
        return f"the compute dtype is {q.dtype}, not bfloat16 or float16"
    if soft_cap is not None:
        return "scores have a soft-cap"
    if H % 8 or H > 128:
        return f"head_dim is {H}, no multiple of 8 up to 128"
    if T % 2:
        return f"rows have {T} tokens, no even number"
    if q.shape[2] * H < T:
        return f"its mask of {T} x {T} tokens is larger than the row's queries"
    return ""


def cudnn_attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    positions: jax.Array,
    segments: jax.Array,
    *,
    scale: float,
    window: int | None,
    soft_cap: float | None,
    implementation: Any = "cudnn",
) -> jax.Array:
    """`attend_rows` by cuDNN's flash attention, on one device's arrays.

    Not verified on a GPU, only with JAX's own implementation ("xla") of the same call, against the
    reference. Segments and windows go in as a mask, which JAX hands to cuDNN as a bias
    [B, 1, T, T]; the public interface has no segment ids. Every head reads all of it, and no block
    is left out because it is of another segment.
    """
    assert soft_cap is None
    # Counted from 1, so that padding sees padding and no row of the mask is empty.
    mask = attention.visible(positions, segments + 1, positions, segments + 1, window)
    return jax.nn.dot_product_attention(
        q, k, v, mask=mask[:, None], scale=scale, is_causal=True, implementation=implementation
    )
