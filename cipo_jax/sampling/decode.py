"""The two device programs of sampling: a chunk of prefill, and a chunk of decode steps.

Both take the pool of pages and return it with new tokens in it; donated, it is updated in place.
Prefill leaves out a prompt's last token, which is the first decode input: a decode step is always
"feed a token, write its keys and values, draw the next".

The state of a request on the device is a few numbers in its slot. A decode chunk runs the rows that
the host names, so a few live requests cost a small batch whatever their slots are.

Not decided here: which rows and pages a call gets (`schedule`), how a token is drawn (`choose`).
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.sharding import Mesh

from cipo_jax.policy.cache.attention import PagedCache, WorkList
from cipo_jax.policy.cache.pages import Pages, copy_pages, empty_pages
from cipo_jax.policy.model import ModelConfig, Params, hidden_states, unembed
from cipo_jax.policy.random_keys import wrap_key_data
from cipo_jax.policy.sharding import Rules, constrain, row_count
from cipo_jax.sampling.choose import Choice, choose_tokens
from cipo_jax.sampling.settings import EngineSettings, cache_dtype, pages_per_shard


@struct.dataclass
class Slots:
    """The state of the request in each of S slots.

    Attributes:
      last: [S] int32, the token to feed next.
      position: [S] int32, its position.
      sampled: [S] int32, tokens sampled so far.
      limit: [S] int32, tokens to sample at most.
      live: [S] bool, not finished yet.
      temperature: [S] float32.
      request: [S] int32, request id.
      key: [S, 2] uint32, key data of the request's call.
    """

    last: jax.Array
    position: jax.Array
    sampled: jax.Array
    limit: jax.Array
    live: jax.Array
    temperature: jax.Array
    request: jax.Array
    key: jax.Array


@struct.dataclass
class ChunkPlan:
    """What the host decides for one decode chunk of B rows.

    Attributes:
      fresh: the initial state of newly filled slots.
      is_fresh: [S] bool, which these are.
      rows: [B] int32, the slot of each row; S for an empty row.
      table: [B, W] int32, the pages of each row.
      work: the pages that rows hold or will reach in this chunk.
      copy_from, copy_to: [n] int32 per row shard, pages to copy before the first step.
      copies: [1] int32 per row shard, how many.
    """

    fresh: Slots
    is_fresh: jax.Array
    rows: jax.Array
    table: jax.Array
    work: WorkList
    copy_from: jax.Array
    copy_to: jax.Array
    copies: jax.Array


@struct.dataclass
class ChunkResult:
    """What a chunk sampled, row by row.

    Attributes:
      tokens: [chunk, B] int32; a row's tokens are its first ones, the rest is 0.
      logprobs: [chunk, B] float32.
      sampled: [B] int32, tokens of each row's completion so far.
      live: [B] bool, not finished.
    """

    tokens: jax.Array
    logprobs: jax.Array
    sampled: jax.Array
    live: jax.Array


def prefill(
    config: ModelConfig,
    rules: Rules,
    context_pages: int,
    params: Params,
    pages: Pages,
    tokens: jax.Array,
    start: jax.Array,
    lengths: jax.Array,
    table: jax.Array,
) -> Pages:
    """Writes the keys and values of a stretch of each row's prompt.

    Args:
      context_pages: table columns that may hold tokens before the stretches.
      tokens: [B, T] int32, right-padded.
      start: [B] int32, position of each stretch's first token.
      lengths: [B] int32, tokens in each stretch; 0 for an empty row.
      table: [B, W] int32.
    """
    column = jnp.arange(tokens.shape[1], dtype=jnp.int32)[None]
    segments = (column < lengths[:, None]).astype(jnp.int32)
    cache = PagedCache(pages=pages, table=table, context_pages=context_pages)
    positions = start[:, None] + column
    _, filled = hidden_states(config, params, tokens, positions, segments, cache, rules)
    assert filled is not None
    return filled.pages


def decode_chunk(
    config: ModelConfig,
    rules: Rules,
    choice: Choice,
    chunk: int,
    params: Params,
    pages: Pages,
    slots: Slots,
    plan: ChunkPlan,
) -> tuple[Pages, Slots, ChunkResult]:
    """Up to `chunk` decode steps; ends early when every row has finished."""
    pages = copy_pages(pages, plan.copy_from, plan.copy_to, plan.copies, rules)

    def begin(fresh: jax.Array, old: jax.Array) -> jax.Array:
        mask = plan.is_fresh.reshape(-1, *(1,) * (old.ndim - 1))
        return jnp.where(mask, fresh, old)

    slots = jax.tree.map(begin, plan.fresh, slots)
    B = len(plan.rows)

    def gather(x: jax.Array) -> jax.Array:
        rows = x.at[plan.rows].get(mode="fill", fill_value=0)
        return constrain(rows, rules, ("batch", *(None,) * (x.ndim - 1)))

    rows: Slots = jax.tree.map(gather, slots)
    keys = jax.vmap(jax.random.fold_in)(wrap_key_data(rows.key), rows.request)
    stop_ids = jnp.asarray(choice.stop_ids, jnp.int32)
    out = (jnp.zeros((chunk, B), jnp.int32), jnp.zeros((chunk, B), jnp.float32))

    def unfinished(carry: tuple) -> jax.Array:
        step, _, rows, _ = carry
        return (step < chunk) & jnp.any(rows.live)

    def advance(carry: tuple) -> tuple:
        step, pages, rows, (tokens, logprobs) = carry
        live = rows.live
        cache = PagedCache(pages=pages, table=plan.table, work=plan.work)
        fed = (rows.last[:, None], rows.position[:, None], live.astype(jnp.int32)[:, None])
        hidden, filled = hidden_states(config, params, *fed, cache, rules)
        assert filled is not None
        logits = unembed(config, params, hidden[:, 0], rules)
        token, logprob = choose_tokens(logits, keys, rows.sampled, rows.temperature, choice, rules)
        token, logprob = jnp.where(live, token, 0), jnp.where(live, logprob, 0.0)
        position, sampled = rows.position + live, rows.sampled + live
        live &= ~jnp.isin(token, stop_ids) & (sampled < rows.limit)
        rows = dataclasses.replace(rows, last=token, position=position, sampled=sampled, live=live)
        out = tokens.at[step].set(token), logprobs.at[step].set(logprob)
        return step + 1, filled.pages, rows, out

    start = (jnp.zeros((), jnp.int32), pages, rows, out)
    _, pages, rows, (tokens, logprobs) = jax.lax.while_loop(unfinished, advance, start)
    slots = jax.tree.map(lambda all_, some: all_.at[plan.rows].set(some, mode="drop"), slots, rows)
    result = ChunkResult(tokens=tokens, logprobs=logprobs, sampled=rows.sampled, live=rows.live)
    return pages, slots, result


def empty_slots(count: int) -> Slots:
    """Slots in which nothing is live; NumPy arrays."""
    names = ("last", "position", "sampled", "limit", "request")
    arrays: dict[str, Any] = {name: np.zeros(count, np.int32) for name in names}
    arrays |= {"live": np.zeros(count, np.bool_), "temperature": np.zeros(count, np.float32)}
    arrays["key"] = np.zeros((count, 2), np.uint32)
    return Slots(**arrays)


def empty_cache(
    config: ModelConfig, mesh: Mesh, settings: EngineSettings, rules: Rules = ()
) -> Pages:
    """The engine's cache, all zeros."""
    s, shards = settings, row_count(mesh)
    count = pages_per_shard(s, shards) * shards
    dtype = cache_dtype(s, config.compute_dtype, mesh)
    sizes = (config.num_kv_heads, config.head_dim)
    device = mesh.devices.flat[0]
    return empty_pages(config.num_layers, count, s.page_size, *sizes, dtype, rules, device)
