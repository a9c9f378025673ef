"""Log-probs and entropies of given tokens, without ever having the logits of all of them.

Logits exist for BLOCK tokens at a time, and are computed again in the backward pass. Each device
works on its own rows and its share of the vocabulary: the head's weights are gathered over the fsdp
axis once, before the blocks, and their gradient is reduced once, after them. (The compiler alone
would do both in every block.) Devices that share rows by their tokens split the vocabulary instead,
where it divides: each has the hidden states of whole rows, which are smaller than a whole head.
`model.token_logprobs` decides which token a hidden state predicts.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from cipo_jax.policy import attention
from cipo_jax.policy.context import whole_rows
from cipo_jax.policy.layers import project
from cipo_jax.policy.sharding import ROWS, TOKENS, Rules, axis_names, spec

BLOCK = 512  # tokens of a row whose logits are held at once

Scores = tuple[jax.Array, jax.Array]


@dataclasses.dataclass(frozen=True)
class Head:
    """How hidden states become a distribution.

    Attributes:
      transposed: the weights are [V, D], as a tied embedding's, and not [D, V].
      temperature: logits are divided by it, after the soft-cap.
      soft_cap: see `attention.soft_capped`.
      vocab_axes: inside `shard_map`, the mesh axes that the vocabulary is split over.
      own_axes: likewise, those along which devices differ in their weights or their rows.
    """

    transposed: bool
    temperature: float
    soft_cap: float | None
    vocab_axes: tuple[str, ...] = ()
    own_axes: tuple[str, ...] = ()


def score_tokens(
    head: Head, weights: jax.Array, hidden: jax.Array, targets: jax.Array, rules: Rules = ()
) -> Scores:
    """Log-prob of each target, and the entropy of the distribution it is drawn from.

    Args:
      weights: [D, V] or [V, D], see `Head`; used in `hidden`'s dtype.
      hidden: [B, T, D], normalised; under a mesh, B is a multiple of the row shards, and T of the
        token shards.
      targets: [B, T] int32.

    Returns:
      logprobs, entropy: [B, T] float32; entropy in nats.
    """
    if not rules:
        return _score(head, weights.astype(hidden.dtype), hidden, targets)
    axes = ("vocab", "vocab_embed") if head.transposed else ("vocab_embed", "vocab")
    split, rows = spec(rules, axes), spec(rules, ("batch", "tokens"))
    embed_axes, vocab_axes = (axis_names(split[axes.index(x)]) for x in ("vocab_embed", "vocab"))
    of_tokens = axis_names(rows[1])
    whole = TOKENS in vocab_axes  # rows, with a part of the vocabulary
    own = tuple(dict.fromkeys((*ROWS, *of_tokens, *vocab_axes)))

    def on_a_device(weights: jax.Array, hidden: jax.Array, targets: jax.Array) -> Scores:
        weights = weights.astype(hidden.dtype)
        if embed_axes:
            at = axes.index("vocab_embed")
            weights = jax.lax.all_gather(weights, embed_axes, axis=at, tiled=True)
        # Replicated values count as each device's own from here on: gradients are summed there.
        others = tuple(axis for axis in own if axis not in (*embed_axes, *vocab_axes))
        weights = _own(weights, others)
        if whole:
            hidden, targets = whole_rows(hidden), whole_rows(targets)
        others = tuple(axis for axis in vocab_axes if axis != TOKENS)
        hidden, targets = _own(hidden, others), _own(targets, others)
        of_device = dataclasses.replace(head, vocab_axes=vocab_axes, own_axes=own)
        return _score(of_device, weights, hidden, targets)

    out = spec(rules, ("batch", None)) if whole else rows
    sharded = jax.shard_map(
        on_a_device, in_specs=(split, P(*rows, None), rows), out_specs=(out, out)
    )
    return sharded(weights, hidden, targets)


def _own(x: jax.Array, axes: tuple[str, ...]) -> jax.Array:
    return jax.lax.pcast(x, axes, to="varying") if axes else x


def _score(head: Head, weights: jax.Array, hidden: jax.Array, targets: jax.Array) -> Scores:
    T = hidden.shape[1]
    if T <= BLOCK:
        return _score_block(head, weights, hidden, targets)
    blocks = (attention.split_tokens(x, BLOCK) for x in (hidden, targets))
    logprobs, entropy = _score_blocks(head, weights, *blocks)
    return attention.join_tokens(logprobs, T), attention.join_tokens(entropy, T)


def _score_block(head: Head, weights: jax.Array, hidden: jax.Array, targets: jax.Array) -> Scores:
    """Scores from the weights and rows that this device has."""
    logits = project(hidden, weights.T if head.transposed else weights, dtype=jnp.float32)
    logits = attention.soft_capped(logits, head.soft_cap) / head.temperature
    axes = head.vocab_axes
    top = jax.lax.stop_gradient(logits.max(axis=-1))
    place = targets
    if axes:
        top = jax.lax.pmax(top, axes)
        place = targets - jax.lax.axis_index(axes) * logits.shape[-1]
    over_vocab = functools.partial(jax.lax.psum, axis_name=axes) if axes else lambda x: x
    log_z = top + jnp.log(over_vocab(jnp.exp(logits - top[..., None]).sum(axis=-1)))
    size = logits.shape[-1]
    chosen = jnp.take_along_axis(logits, jnp.clip(place, 0, size - 1)[..., None], axis=-1)[..., 0]
    chosen = over_vocab(jnp.where((place >= 0) & (place < size), chosen, 0.0))
    mean_logit = over_vocab(jnp.sum(jnp.exp(logits - log_z[..., None]) * logits, axis=-1))
    return chosen - log_z, log_z - mean_logit


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _score_blocks(head: Head, weights: jax.Array, hidden: jax.Array, targets: jax.Array) -> Scores:
    """Blocks [n, B, block, ...] one after the other."""
    return jax.lax.map(lambda block: _score_block(head, weights, *block), (hidden, targets))


def _forward(
    head: Head, weights: jax.Array, hidden: jax.Array, targets: jax.Array
) -> tuple[Scores, tuple[jax.Array, ...]]:
    return _score_blocks(head, weights, hidden, targets), (weights, hidden, targets)


def _backward(
    head: Head, saved: tuple[jax.Array, ...], cotangents: Scores
) -> tuple[jax.Array, jax.Array, None]:
    """Sums the blocks' weight gradients in float32."""
    weights, hidden, targets = saved

    def block(total: jax.Array, given: tuple[Any, ...]) -> tuple[jax.Array, jax.Array]:
        hidden, targets, cotangents = given
        _, pull = jax.vjp(lambda w, h: _score_block(head, w, h, targets), weights, hidden)
        of_weights, of_hidden = pull(cotangents)
        return total + of_weights.astype(jnp.float32), of_hidden

    zeros = jax.lax.pcast(jnp.zeros(weights.shape, jnp.float32), head.own_axes, to="varying")
    total, of_hidden = jax.lax.scan(block, zeros, (hidden, targets, cotangents))
    return total.astype(weights.dtype), of_hidden, None


_score_blocks.defvjp(_forward, _backward)
