"""The random keys of a run.

All are threefry keys, whatever JAX's default is (`JAX_DEFAULT_PRNG_IMPL`; rbg is usual on TPU):
their draws do not depend on the batch, the mesh or the backend, and so neither does a completion.
"""

import jax
import jax.numpy as jnp
import numpy as np

_IMPLEMENTATION = "threefry2x32"


def random_key(seed: int) -> jax.Array:
    """The key of `seed`, 0 <= seed < 2**64; different seeds have different keys."""
    return wrap_key_data(jnp.array([seed >> 32, seed & 0xFFFFFFFF], jnp.uint32))


def key_data(key: jax.Array) -> np.ndarray:
    """The [2] uint32 that `wrap_key_data` makes a key of.

    Raises:
      ValueError: it is a key of another kind.
    """
    data = np.asarray(jax.random.key_data(key))
    if data.shape != (2,):
        raise ValueError(f"key: got {key}, wanted a single {_IMPLEMENTATION} key, see random_key")
    return data


def wrap_key_data(data: jax.Array) -> jax.Array:
    """[..., 2] uint32 -> [...] keys."""
    return jax.random.wrap_key_data(data, impl=_IMPLEMENTATION)
