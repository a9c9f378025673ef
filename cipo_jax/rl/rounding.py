"""Parameters of 16 bits, updated by rounding at random.

A bfloat16 number has 8 significant bits: with the usual learning rates an update is far below half
a step between neighbours, and rounding to the nearest leaves almost every weight where it was. Here
the updated value is rounded up or down with the probability that makes its mean exact (stochastic
rounding; Gupta et al. 2015, arXiv 1502.02551), so that small updates add up. The optimiser itself
computes in float32 and keeps its second moment in float32: a bfloat16 one cannot decay at b2 near
1. (Ours. A float32 copy of the weights would round once per update instead, but takes more memory
than float32 parameters do, which are there for whoever wants it.)

The draws are a function of the seed and the number of updates: a resumed run repeats them.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

Params = Any

_LOW_BITS = np.uint32(0xFFFF)  # of a float32, which bfloat16 has not


def round_at_random(values: jax.Array, key: jax.Array) -> jax.Array:
    """float32 `values` as bfloat16: one of the two neighbours, the mean over keys is the value."""
    bits = jax.lax.bitcast_convert_type(values, jnp.uint32)
    noise = jax.random.bits(key, values.shape, jnp.uint16).astype(jnp.uint32)
    rounded = jax.lax.bitcast_convert_type((bits + noise) & ~_LOW_BITS, jnp.float32)
    return jnp.where(jnp.isfinite(values), rounded, values).astype(jnp.bfloat16)


def rounded_at_random(
    chain: optax.GradientTransformation, make_key: Callable[[], jax.Array]
) -> optax.GradientTransformation:
    """`chain` for bfloat16 parameters; its state is that of `chain` for float32 ones.

    Args:
      chain: of transformations, the last of which has the number of updates as its state's `count`.
      make_key: makes the key of the draws, where the update is traced.
    """

    def init(params: Params) -> Any:
        return chain.init(_float32(params))

    def update(grads: Params, state: Any, params: Params | None = None) -> tuple[Params, Any]:
        if params is None:
            raise ValueError("rounding needs the parameters")
        updates, after = chain.update(_float32(grads), state, _float32(params))
        key = jax.random.fold_in(make_key(), state[-1].count)
        leaves, tree = jax.tree.flatten(params)
        keys = jax.tree.unflatten(tree, [jax.random.fold_in(key, i) for i in range(len(leaves))])

        def to_neighbour(p: jax.Array, u: jax.Array, key: jax.Array) -> jax.Array:
            if p.dtype != jnp.bfloat16:
                return u
            old = p.astype(jnp.float32)
            # The difference is added in float32 again: the sum is the neighbour.
            return round_at_random(old + u, key).astype(jnp.float32) - old

        return jax.tree.map(to_neighbour, params, updates, keys), after

    return optax.GradientTransformation(init, update)


def _float32(tree: Params) -> Params:
    return jax.tree.map(lambda x: x.astype(jnp.float32), tree)
