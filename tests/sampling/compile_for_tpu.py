"""Compiles the engine's two programs for a TPU topology without having one, and prints as json what
a test wants to know of each: bytes per device, copies as large as the cache, and the most entries
that an all-gather results in.

    python compile_for_tpu.py v5e:2x4 1,1,8 128    topology, mesh, head_dim

A program of its own, because libtpu serves one process at a time and reads the environment when it
is loaded.
"""

import dataclasses
import json
import re
import sys
from typing import Any

import jax
import numpy as np

from cipo_jax.policy import model, sharding
from cipo_jax.run.devices.topology import topology_devices
from cipo_jax.sampling.choose import Choice
from cipo_jax.sampling.programs import abstract_cache, lower_decode, lower_prefill
from cipo_jax.sampling.settings import EngineSettings

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
SLOTS, TABLE_WIDTH, PAGE_SIZE, CACHE_PAGES = 64, 272, 64, 4096  # of a row shard
STRETCHES, WIDTH, CONTEXT_PAGES = 8, 512, 64


def main(topology: str, data: int, fsdp: int, tensor: int, head_dim: int) -> None:
    config = dataclasses.replace(CONFIG, head_dim=head_dim)
    mesh = sharding.make_mesh(data, fsdp, tensor, devices=topology_devices(topology))
    shards = sharding.row_count(mesh)
    settings = EngineSettings(
        max_prompt_tokens=(TABLE_WIDTH - 64) * PAGE_SIZE,
        max_new_tokens=64 * PAGE_SIZE,
        choice=Choice(stop_ids=(1,)),
        slots=SLOTS * shards,
        chunk=32,
        page_size=PAGE_SIZE,
        cache_tokens=CACHE_PAGES * PAGE_SIZE * shards,
        prefill_tokens=STRETCHES * WIDTH * shards,
    )
    [cache] = abstract_cache(config, mesh, settings)
    pool = int(np.prod(cache.shape)) // (shards * tensor)
    prefill = lower_prefill(config, mesh, settings, WIDTH, CONTEXT_PAGES)
    report = {
        "decode": _report(lower_decode(config, mesh, settings), pool),
        "prefill": _report(prefill, pool),
    }
    print(json.dumps({"pool_bytes": 2 * pool, **report}))


def _report(lowered: jax.stages.Lowered, pool: int) -> dict[str, Any]:
    compiled = lowered.compile()
    memory: Any = compiled.memory_analysis()
    text = compiled.as_text() or ""
    copied = [
        line.strip()[:200]
        for line in text.splitlines()
        if (shape := re.search(r"= \w+\[([\d,]+)\]\S* copy(?:-start)?\(", line))
        and np.prod([int(n) for n in shape[1].split(",")]) >= pool
    ]
    gathered = [
        int(np.prod([int(n) for n in shape.split(",") if n]))
        for kind in re.findall(r"= (.*?) all-gather(?:-start)?\(", text)
        for shape in re.findall(r"\w+\[([\d,]*)\]", kind)
    ]
    return {
        "largest_gathered": max(gathered, default=0),
        "argument_bytes": memory.argument_size_in_bytes,
        "alias_bytes": memory.alias_size_in_bytes,
        "temp_bytes": memory.temp_size_in_bytes,
        "pool_copies": copied,
        "kernels": text.count('custom_call_target="tpu_custom_call"'),
    }


if __name__ == "__main__":
    main(sys.argv[1], *(int(n) for n in sys.argv[2].split(",")), int(sys.argv[3]))
