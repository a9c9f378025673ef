"""The two device programs of sampling: prefill, and a chunk of decode steps.

Prompts are left-padded to a common width W, so that all rows append to the cache at the same
column. Prefill runs each prompt once and repeats its cache for the group's samples. It leaves out
the prompt's last token: that one is the first decode input, so a step is always "feed a token,
write its keys and values, draw the next". A chunk ends early when every row is done.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import struct

from cipo_jax.policy.model import KVCache, ModelConfig, Params, empty_cache, hidden_states, unembed
from cipo_jax.policy.sharding import Rules, constrain
from cipo_jax.sampling.choose import choose_tokens, request_keys


@dataclasses.dataclass(frozen=True)
class DecodeSettings:
    """What is fixed when the programs are compiled.

    Attributes:
      max_new_tokens: C, the most tokens of a completion, stop token included.
      chunk: decode steps per call of `decode_chunk`.
      temperature: see `choose_tokens`.
      stop_ids: tokens that end a completion; at least one.
    """

    max_new_tokens: int
    chunk: int
    temperature: float
    stop_ids: tuple[int, ...]


@struct.dataclass
class DecodeState:
    """All rows being decoded.

    Attributes:
      cache: keys and values of prompt and completion.
      tokens: [B, C] int32, the completions; 0 where nothing was sampled yet.
      logprobs: [B, C] float32, likewise.
      lengths: [B] int32, tokens sampled so far.
      done: [B] bool, a stop token was sampled or the row is empty.
      last: [B] int32, the token to feed next.
      positions: [B] int32, its position.
      keys: [B] request keys.
      step: [] int32, decode steps taken.
    """

    cache: KVCache
    tokens: jax.Array
    logprobs: jax.Array
    lengths: jax.Array
    done: jax.Array
    last: jax.Array
    positions: jax.Array
    keys: jax.Array
    step: jax.Array


def prefill(
    config: ModelConfig,
    rules: Rules,
    settings: DecodeSettings,
    samples: int,
    params: Params,
    prompts: jax.Array,
    lengths: jax.Array,
    request_ids: jax.Array,
    key: jax.Array,
) -> DecodeState:
    """Runs P prompts and sets up B = P * samples rows, prompt-major.

    Args:
      prompts: [P, W] int32, left-padded.
      lengths: [P] int32, tokens in each prompt; 0 marks an empty slot, done from the start.
      request_ids: [B] int32.
      key: the call's key.
    """
    P, W = prompts.shape
    C = settings.max_new_tokens
    column = jnp.arange(W)[None, :] - (W - lengths[:, None])
    positions, segments = jnp.maximum(column, 0), (column >= 0).astype(jnp.int32)

    # The last column is fed by the first decode step, and the last sampled token is never fed.
    cache = empty_cache(config, P, W - 1 + C, rules)
    if W > 1:
        _, filled = hidden_states(
            config,
            params,
            prompts[:, :-1],
            positions[:, :-1],
            segments[:, :-1],
            cache,
            rules,
        )
        assert filled is not None
        cache = filled
    kv_axes = ("layers", "batch", "tokens", "kv_heads", "head_dim")
    cache = dataclasses.replace(
        cache,
        k=constrain(jnp.repeat(cache.k, samples, axis=1), rules, kv_axes),
        v=constrain(jnp.repeat(cache.v, samples, axis=1), rules, kv_axes),
        positions=jnp.repeat(cache.positions, samples, axis=0),
        segments=jnp.repeat(cache.segments, samples, axis=0),
    )
    B = P * samples
    lengths = jnp.repeat(lengths, samples)
    return DecodeState(
        cache=cache,
        tokens=constrain(jnp.zeros((B, C), jnp.int32), rules, ("batch", "tokens")),
        logprobs=constrain(jnp.zeros((B, C), jnp.float32), rules, ("batch", "tokens")),
        lengths=jnp.zeros((B,), jnp.int32),
        done=lengths == 0,
        last=jnp.repeat(prompts[:, -1], samples),
        positions=lengths - 1,
        keys=request_keys(key, request_ids),
        step=jnp.zeros((), jnp.int32),
    )


def decode_chunk(
    config: ModelConfig,
    rules: Rules,
    settings: DecodeSettings,
    params: Params,
    state: DecodeState,
) -> DecodeState:
    """Up to `settings.chunk` decode steps; rows that are done keep their completion."""
    first = state.step
    stop_ids = jnp.asarray(settings.stop_ids, jnp.int32)

    def unfinished(state: DecodeState) -> jax.Array:
        within = jnp.minimum(first + settings.chunk, settings.max_new_tokens)
        return (state.step < within) & ~jnp.all(state.done)

    def step(state: DecodeState) -> DecodeState:
        live = ~state.done
        hidden, cache = hidden_states(
            config,
            params,
            state.last[:, None],
            state.positions[:, None],
            jnp.ones_like(state.last)[:, None],
            state.cache,
            rules,
        )
        assert cache is not None
        logits = unembed(config, params, hidden[:, 0], rules)
        token, logprob = choose_tokens(logits, state.keys, state.lengths, settings.temperature)
        token = jnp.where(live, token, 0)
        # All live rows have sampled the same number of tokens, so the column is shared.
        column = (0, state.step)
        return DecodeState(
            cache=cache,
            tokens=jax.lax.dynamic_update_slice(state.tokens, token[:, None], column),
            logprobs=jax.lax.dynamic_update_slice(
                state.logprobs, jnp.where(live, logprob, 0.0)[:, None], column
            ),
            lengths=state.lengths + live,
            done=state.done | jnp.isin(token, stop_ids),
            last=token,
            positions=state.positions + live,
            keys=state.keys,
            step=state.step + 1,
        )

    return jax.lax.while_loop(unfinished, step, state)
