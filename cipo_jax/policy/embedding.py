"""Embeddings of tokens whose rows are split over devices by tokens, from a table that is split too.

Each device looks up what it has of the table, a part of the vocabulary or of D, for all tokens of
its neighbours' rows; results are then exchanged, and the table stays where it is. (The compiler
alone would gather the table.) Where rows are whole, `model` leaves the look-up to the compiler.
"""

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from cipo_jax.policy.sharding import TOKENS, Rules, axis_names, spec


def look_up(table: jax.Array, tokens: jax.Array, rules: Rules, dtype: str) -> jax.Array:
    """The tokens' rows of the table.

    Args:
      table: [V, D].
      tokens: [B, T] int32.
      rules: of the ambient mesh; they split tokens.
      dtype: of the result.

    Returns:
      [B, T, D], split by rows and tokens.
    """
    split = spec(rules, ("vocab", "vocab_embed"))
    vocab_axes = axis_names(split[0])
    others = tuple(axis for axis in vocab_axes if axis != TOKENS)

    def on_a_device(table: jax.Array, tokens: jax.Array) -> jax.Array:
        place = tokens
        if vocab_axes:
            place = tokens - jax.lax.axis_index(vocab_axes) * len(table)
        own = (place >= 0) & (place < len(table))
        x = jnp.take(table, jnp.clip(place, 0, len(table) - 1), axis=0)
        # One device has a token, so that the sum is exact in any dtype.
        x = jnp.where(own[..., None], x, 0).astype(dtype)
        if others:
            x = jax.lax.psum(x, others)
        if TOKENS in vocab_axes:
            x = jax.lax.psum_scatter(x, TOKENS, scatter_dimension=1, tiled=True)
        else:
            x = jax.lax.all_to_all(x, TOKENS, split_axis=1, concat_axis=2, tiled=True)
        return jax.lax.all_to_all(x, "fsdp", split_axis=0, concat_axis=2, tiled=True)

    rows = spec(rules, ("batch_by_data", None))
    out = P(*spec(rules, ("batch", "tokens")), None)
    return jax.shard_map(on_a_device, in_specs=(split, rows), out_specs=out)(table, tokens)
