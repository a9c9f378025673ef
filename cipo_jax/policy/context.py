"""Rows split over devices by their tokens (context parallelism): in which order, and what of other
devices' tokens a device needs.

A row of T tokens is cut into 2 C stripes of T / 2 C. Of C devices, device c has stripes c and
2 C - 1 - c: an early and a late one, so that causal attention, for which a late token costs more,
is the same work for each. Only attention looks across tokens. For it, every device gathers the keys
and values of whole rows, which with grouped queries are small next to the activations.

`model.token_logprobs` changes the order and changes it back; nothing outside of it knows one that
is not the row's own. Not decided here: what attention computes with (`attention_kernels`).
"""

import jax
import jax.numpy as jnp
import numpy as np

from cipo_jax.policy.sharding import TOKENS, Rules, constrain
from cipo_jax.types import CipoError


def token_shards(rules: Rules) -> int:
    """C: into how many parts the tokens of a row are split on the ambient mesh."""
    if not rules or dict(rules)["tokens"] is None:
        return 1
    return jax.sharding.get_abstract_mesh().shape[TOKENS]


def check_row_tokens(row_tokens: int, shards: int, name: str) -> None:
    """Refuses rows that cannot be cut into stripes.

    Args:
      name: of the value, for the message.

    Raises:
      CipoError: 2 C does not divide the row.
    """
    if shards > 1 and row_tokens % (2 * shards):
        raise CipoError(
            f"{name}: got {row_tokens}, wanted a multiple of {2 * shards}, twice mesh.context, "
            "over which the tokens of a row are split"
        )


def spread(x: jax.Array, rules: Rules) -> jax.Array:
    """Tokens [B, T] of rows, split as the rules say, in the order of the devices.

    Raises:
      CipoError: as `check_row_tokens`.
    """
    shards = token_shards(rules)
    check_row_tokens(x.shape[1], shards, "tokens of a row")
    return x if shards == 1 else constrain(to_devices(x, shards), rules, ("batch", "tokens"))


def in_rows(x: jax.Array, rules: Rules) -> jax.Array:
    """The inverse of `spread`, of the tokens' values [B, T]."""
    shards = token_shards(rules)
    return x if shards == 1 else constrain(to_rows(x, shards), rules, ("batch", "tokens"))


def to_devices(x: jax.Array, shards: int) -> jax.Array:
    """Tokens [B, T, ...] from the order of the row to that of the devices."""
    stripes = x.reshape(x.shape[0], 2, shards, -1, *x.shape[2:])
    return jnp.stack([stripes[:, 0], stripes[:, 1, ::-1]], axis=2).reshape(x.shape)


def to_rows(x: jax.Array, shards: int) -> jax.Array:
    """The inverse of `to_devices`."""
    stripes = x.reshape(x.shape[0], shards, 2, -1, *x.shape[2:])
    return jnp.concatenate([stripes[:, :, 0], stripes[:, ::-1, 1]], axis=1).reshape(x.shape)


def columns(T: int, shards: int) -> np.ndarray:
    """[T] int32: the column in the row of each token in the order of the devices."""
    stripes = np.arange(T, dtype=np.int32).reshape(2, shards, -1)
    return np.stack([stripes[0], stripes[1, ::-1]], axis=1).reshape(T)


def whole_rows(x: jax.Array) -> jax.Array:
    """Inside `shard_map`: a device's tokens [B, T / C, ...] and all others', in the devices'
    order."""
    return jax.lax.all_gather(x, TOKENS, axis=1, tiled=True)
