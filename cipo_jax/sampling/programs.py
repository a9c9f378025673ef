"""The engine's device programs from shapes alone, for planning memory before anything is allocated.

By default they are the largest of each kind: the engine also compiles some with fewer rows.
What the programs compute is in `decode`; how the engine calls them, in `engine`.
"""

import functools
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from cipo_jax.policy import sharding
from cipo_jax.policy.cache.pages import page_specs
from cipo_jax.policy.model import ModelConfig
from cipo_jax.sampling.decode import decode_chunk, empty_cache, empty_slots, prefill
from cipo_jax.sampling.plan import chunk_plan, plan_shardings, prefill_arrays
from cipo_jax.sampling.settings import (
    EngineSettings,
    prefill_rows,
    prefill_widths,
    row_bucket,
    table_width,
)
from cipo_jax.sampling.weights import abstract_weights


def abstract_cache(config: ModelConfig, mesh: Mesh, settings: EngineSettings) -> Any:
    """Shapes, dtypes and shardings of the engine's cache."""
    with jax.set_mesh(mesh):
        pages = jax.eval_shape(functools.partial(empty_cache, config, mesh, settings))
    specs = page_specs(pages, sharding.logical_rules(mesh, config.axis_sizes))
    return jax.tree.map(lambda x, spec: _abstract(x, NamedSharding(mesh, spec)), pages, specs)


def lower_decode(
    config: ModelConfig, mesh: Mesh, settings: EngineSettings, live: int = 0
) -> jax.stages.Lowered:
    """The decode chunk for `live` requests on each row shard; 0: with all slots live."""
    s, shards = settings, sharding.row_count(mesh)
    rules = sharding.logical_rules(mesh, config.axis_sizes)
    whole, by_row = sharding.replicated(mesh), NamedSharding(mesh, P(sharding.ROWS))
    per_shard = -(-s.slots // shards)
    nothing: list[list] = [[] for _ in range(shards)]
    sizes = {"slots": per_shard, "width": table_width(s), "page_size": s.page_size}
    rows = row_bucket(per_shard, live or per_shard)
    chunk = chunk_plan(nothing, rows, [], nothing, **sizes)
    chunk = jax.tree.map(_abstract, chunk, plan_shardings(whole, by_row))
    slots = jax.tree.map(lambda x: _abstract(x, whole), empty_slots(per_shard * shards))
    weights, cache = abstract_weights(config, mesh), abstract_cache(config, mesh, s)
    decoding = functools.partial(decode_chunk, config, rules, s.choice, s.chunk)
    with jax.set_mesh(mesh):
        return jax.jit(decoding, donate_argnums=(1, 2)).lower(weights, cache, slots, chunk)


def lower_prefill(
    config: ModelConfig,
    mesh: Mesh,
    settings: EngineSettings,
    width: int,
    context_pages: int,
    stretches: int = 0,
) -> jax.stages.Lowered:
    """A prefill of stretches of `width` tokens, on each row shard; 0: as many as one call may hold.

    Args:
      width: one of `settings.prefill_widths`.
      context_pages: see `decode.prefill`. Programs with kernels do not depend on it.
    """
    s, shards = settings, sharding.row_count(mesh)
    rules = sharding.logical_rules(mesh, config.axis_sizes)
    by_row = NamedSharding(mesh, P(sharding.ROWS))
    rows = prefill_rows(s, shards, width, stretches)
    arrays = prefill_arrays([[] for _ in range(shards)], rows, width, table_width(s))
    placed = [_abstract(x, by_row) for x in arrays]
    weights, cache = abstract_weights(config, mesh), abstract_cache(config, mesh, s)
    filling = functools.partial(prefill, config, rules, context_pages)
    with jax.set_mesh(mesh):
        return jax.jit(filling, donate_argnums=1).lower(weights, cache, *placed)


def lower_programs(
    config: ModelConfig, mesh: Mesh, settings: EngineSettings
) -> dict[str, jax.stages.Lowered]:
    """{"decode chunk", "prefill 16", ... by width}; prefills with the longest context, that of a
    request that was evicted shortly before its end."""
    context = table_width(settings)
    return {"decode chunk": lower_decode(config, mesh, settings)} | {
        f"prefill {width}": lower_prefill(config, mesh, settings, width, context)
        for width in prefill_widths(settings)
    }


def _abstract(x: Any, sharding: jax.sharding.Sharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
