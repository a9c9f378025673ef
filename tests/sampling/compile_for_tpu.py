"""Compiles the engine's two programs for a TPU topology without having one, and prints as json what
a test wants to know of each: bytes per device, and copies as large as the cache.

    python compile_for_tpu.py v5e:2x4 1,1,8

A program of its own, because libtpu serves one process at a time and reads the environment when it
is loaded.
"""

import functools
import json
import re
import sys
from typing import Any

import jax
import numpy as np
from jax.experimental.topologies import get_topology_desc
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from cipo_jax.policy import model, paged, sharding
from cipo_jax.sampling import decode, plan
from cipo_jax.sampling.choose import Choice

# Heads, widths and vocabulary of Qwen3-4B, but four layers: the scan makes the rest the same.
CONFIG = model.ModelConfig(
    vocab_size=151_936,
    num_layers=4,
    d_model=2560,
    num_heads=32,
    num_kv_heads=8,
    head_dim=128,
    mlp_dim=9728,
    qk_norm=True,
    tie_embeddings=True,
    param_dtype="bfloat16",
    compute_dtype="bfloat16",
)
SLOTS, TABLE_WIDTH, PAGE_SIZE, CACHE_PAGES = 64, 272, 64, 4096


def main(topology: str, sizes: tuple[int, ...]) -> None:
    # The two cores of a v4 chip make one device, as on real ones.
    options = {"chip_config_name": "megacore"} if topology.startswith("v4") else {}
    devices = get_topology_desc(topology, platform="tpu", **options).devices
    mesh = sharding.make_mesh(*sizes, devices=devices)
    rules = sharding.logical_rules(mesh, CONFIG.axis_sizes)
    shards = sharding.row_count(mesh)
    whole, by_row = sharding.replicated(mesh), NamedSharding(mesh, P(sharding.ROWS))

    def abstract(tree: Any, shardings: Any) -> Any:
        return jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), tree, shardings
        )

    params = abstract(model.abstract_params(CONFIG), model.param_shardings(CONFIG, mesh))
    pages = jax.eval_shape(
        lambda: paged.empty_pages(
            CONFIG.num_layers,
            CACHE_PAGES * shards,
            PAGE_SIZE,
            CONFIG.num_kv_heads,
            CONFIG.head_dim,
            "bfloat16",
        )
    )
    pages = abstract(pages, NamedSharding(mesh, sharding.spec(rules, paged.PAGES_AXES)))
    nothing: list[list] = [[] for _ in range(shards)]
    chunk = plan.chunk_plan(
        nothing, SLOTS, [], nothing, slots=SLOTS, width=TABLE_WIDTH, page_size=PAGE_SIZE
    )
    chunk = abstract(chunk, plan.plan_shardings(whole, by_row))
    slots = jax.tree.map(lambda x: abstract(x, whole), decode.empty_slots(SLOTS * shards))
    stretch = plan.prefill_arrays(nothing, 8, 512, TABLE_WIDTH)
    stretch = tuple(abstract(x, by_row) for x in stretch)

    decode_chunk = jax.jit(
        functools.partial(decode.decode_chunk, CONFIG, rules, Choice(stop_ids=(1,)), 32),
        donate_argnums=(1, 2),
    )
    prefill = jax.jit(functools.partial(decode.prefill, CONFIG, rules, 64), donate_argnums=1)
    pool = int(np.prod(pages.shape)) // (shards * sizes[2])
    with jax.set_mesh(mesh):
        report = {
            "decode": _report(decode_chunk.lower(params, pages, slots, chunk), pool),
            "prefill": _report(prefill.lower(params, pages, *stretch), pool),
        }
    print(json.dumps({"pool_bytes": 2 * pool, **report}))


def _report(lowered: jax.stages.Lowered, pool: int) -> dict[str, Any]:
    compiled = lowered.compile()
    memory = compiled.memory_analysis()
    text = compiled.as_text() or ""
    copied = [
        line.strip()[:200]
        for line in text.splitlines()
        if (shape := re.search(r"= \w+\[([\d,]+)\]\S* copy(?:-start)?\(", line))
        and np.prod([int(n) for n in shape[1].split(",")]) >= pool
    ]
    return {
        "argument_bytes": memory.argument_size_in_bytes,
        "alias_bytes": memory.alias_size_in_bytes,
        "temp_bytes": memory.temp_size_in_bytes,
        "pool_copies": copied,
        "kernels": text.count('custom_call_target="tpu_custom_call"'),
    }


if __name__ == "__main__":
    main(sys.argv[1], tuple(int(n) for n in sys.argv[2].split(",")))
