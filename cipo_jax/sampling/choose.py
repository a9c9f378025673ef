"""How one token is drawn from logits.

Keys are folded from (request id, position in the completion), so a completion is a function of the
parameters, its prompt, its id and the call's key alone: not of its row, its neighbours, or the
number of rows decoded together.
"""

import jax
import jax.numpy as jnp


def request_keys(key: jax.Array, request_ids: jax.Array) -> jax.Array:
    """[B] keys, one per request id ([B] int32)."""
    return jax.vmap(lambda request: jax.random.fold_in(key, request))(request_ids)


def choose_tokens(
    logits: jax.Array, keys: jax.Array, position: jax.Array, temperature: float
) -> tuple[jax.Array, jax.Array]:
    """Samples a token per row, and its log-prob under the distribution it was drawn from.

    Args:
      logits: [B, V] float32.
      keys: [B] from `request_keys`.
      position: [B] int32, index of the token within its completion.
      temperature: divides the logits; 0 takes the most likely token, with log-probs at 1.

    Returns:
      tokens [B] int32, logprobs [B] float32.
    """
    if temperature == 0:
        scaled, tokens = logits, jnp.argmax(logits, axis=-1)
    else:
        scaled = logits / temperature
        keys = jax.vmap(jax.random.fold_in)(keys, position)
        tokens = jax.vmap(jax.random.categorical)(keys, scaled)
    chosen = jnp.take_along_axis(scaled, tokens[:, None], axis=-1)[:, 0]
    return tokens.astype(jnp.int32), chosen - jax.nn.logsumexp(scaled, axis=-1)
