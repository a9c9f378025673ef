"""How one token is drawn from logits.

Keys are folded from (call, request id, index of the token in its completion), so a completion does
not depend on its slot, its neighbours, or the order in which requests arrive.

A token is drawn by inverting the cumulative distribution with one uniform number a row, which gives
the normaliser of the log-probs as a by-product; Gumbel noise would take V random numbers.

Not decided here: when a completion ends (`decode`, and for stop strings `engine`).
"""

import dataclasses
import math

import jax
import jax.numpy as jnp

from cipo_jax.policy.sharding import Rules, constrain

MASKED = -1e30
# About how many entries are in one cumulative sum; bounds its rounding error.
BLOCK = 256
# Blocks avoid straddling this many shards of the vocabulary: a straddling block makes the
# partitioner gather all probabilities of a row on every device.
SHARDS = 16


@dataclasses.dataclass(frozen=True)
class Choice:
    """Which tokens may be drawn. The defaults leave the policy's distribution as it is.

    Attributes:
      stop_ids: tokens that end a completion.
      top_k: only the k most likely tokens; 0: all.
      top_p: only the most likely tokens that together have at least this probability.
      min_p: only tokens with at least this share of the most likely one's probability.
      min_new_tokens: no stop token before this many tokens, and no stop string is complete with
        so few.
    """

    stop_ids: tuple[int, ...]
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    min_new_tokens: int = 0


def choose_tokens(
    logits: jax.Array,
    keys: jax.Array,
    index: jax.Array,
    temperature: jax.Array,
    choice: Choice,
    rules: Rules = (),
) -> tuple[jax.Array, jax.Array]:
    """Draws a token per row, and its log-prob under the distribution it was drawn from.

    Args:
      logits: [B, V] float32.
      keys: [B], a key per request.
      index: [B] int32, of the token within its completion.
      temperature: [B] float32, divides the logits; 0 takes the most likely token, with log-probs
        at 1.

    Returns:
      tokens [B] int32, logprobs [B] float32.
    """
    V = logits.shape[-1]
    if choice.min_new_tokens:
        early = (index < choice.min_new_tokens)[:, None]
        stops = jnp.isin(jnp.arange(V), jnp.asarray(choice.stop_ids, jnp.int32))
        logits = jnp.where(early & stops, MASKED, logits)
    scaled = logits / jnp.where(temperature > 0, temperature, 1.0)[:, None]
    scaled = _truncate(scaled, choice)

    uniform = jax.vmap(lambda key, i: jax.random.uniform(jax.random.fold_in(key, i)))(keys, index)
    drawn, log_z = _invert(scaled, uniform, rules)
    tokens = jnp.where(temperature > 0, drawn, jnp.argmax(scaled, axis=-1))
    chosen = jnp.take_along_axis(scaled, tokens[:, None], axis=-1)[:, 0]
    return tokens.astype(jnp.int32), chosen - log_z


def _invert(
    logits: jax.Array, uniform: jax.Array, rules: Rules = ()
) -> tuple[jax.Array, jax.Array]:
    """Tokens [B] at the cumulative probability `uniform` [B], and logsumexp [B] of the logits.

    In two levels: first the block of vocabulary entries, then the entry within it.
    """
    B, V = logits.shape
    size = block_size(V)
    top = logits.max(axis=-1)
    weights = jnp.exp(logits - top[:, None])
    weights = jnp.pad(weights, ((0, 0), (0, -V % size))).reshape(B, -1, size)
    # Few numbers, gathered at once: a cumulative sum over shards is several exchanges.
    sums = constrain(weights.sum(axis=-1), rules, ("batch", None))  # [B, blocks]
    until = jnp.cumsum(sums, axis=-1)
    total = until[:, -1]
    point = jnp.minimum(uniform * total, jnp.nextafter(total, jnp.zeros_like(total)))
    block = jnp.sum(until <= point[:, None], axis=-1)
    before = jnp.take_along_axis(until, jnp.maximum(block - 1, 0)[:, None], axis=-1)[:, 0]
    before = jnp.where(block > 0, before, 0)
    inside = jnp.take_along_axis(weights, block[:, None, None], axis=1)[:, 0]  # [B, size]
    entry = jnp.sum(jnp.cumsum(inside, axis=-1) <= (point - before)[:, None], axis=-1)
    # The two sums round differently: past the block's last entry, its likeliest one is taken.
    entry = jnp.where(entry < size, entry, jnp.argmax(inside, axis=-1))
    return block * size + entry, top + jnp.log(total)


def block_size(vocab_size: int) -> int:
    """Entries of a block: the size nearest to `BLOCK` that divides each of `SHARDS` shards; if none
    is near, `BLOCK`, with the last block padded. The same on every mesh, and so are the sums."""
    if vocab_size <= BLOCK:
        return vocab_size
    shard, rest = divmod(vocab_size, SHARDS)
    sizes = [] if rest else [n for n in range(BLOCK // 8, BLOCK * 8 + 1) if shard % n == 0]
    return min(sizes, key=lambda n: abs(math.log(n / BLOCK)), default=BLOCK)


def _truncate(logits: jax.Array, choice: Choice) -> jax.Array:
    """Masks what top-k, top-p and min-p leave out; each acts on what the one before it left."""
    if choice.top_k:
        kth = jax.lax.top_k(logits, min(choice.top_k, logits.shape[-1]))[0][:, -1:]
        logits = jnp.where(logits >= kth, logits, MASKED)
    if choice.top_p < 1:
        ordered = jnp.sort(logits, axis=-1, descending=True)
        probs = jax.nn.softmax(ordered, axis=-1)
        # An entry is in if those before it do not yet have top_p.
        inside = jnp.cumsum(probs, axis=-1) - probs < choice.top_p
        least = jnp.min(jnp.where(inside, ordered, jnp.inf), axis=-1, keepdims=True)
        logits = jnp.where(logits >= least, logits, MASKED)
    if choice.min_p > 0:
        floor = logits.max(axis=-1, keepdims=True) + jnp.log(choice.min_p)
        logits = jnp.where(logits >= floor, logits, MASKED)
    return logits
