"""The memory that a train step needs on each device, planned without allocating the model.

    python benchmarks/plan_memory.py --shape=qwen3-4b --mesh=1,8,1
    python benchmarks/plan_memory.py --source=checkpoints/Qwen3-4B --mesh=2,2,2 --row-tokens=8192

This compiles the update that training runs (policy loss of both streams, optimiser, donated state)
for virtual CPU devices, from shapes alone. Arguments, outputs and aliased bytes are the same on any
kind of device. Temporaries are those of XLA's CPU compiler. It computes bfloat16 products in
float32, and attention by the portable reference, so accelerators need less.
"""

import argparse
import dataclasses
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from cipo_jax.config.keys import Batch, Config, Correction, Data, Model, Optimizer, Rollout
from cipo_jax.policy import published, sharding
from cipo_jax.policy.huggingface.config import config_from_hf
from cipo_jax.policy.model import ModelConfig
from cipo_jax.run.memory_plan import planned_bytes
from cipo_jax.run.update import Policy, make_policy_update, make_score

SHAPES: dict[str, dict[str, Any]] = {
    "qwen3-32b": published.SHAPES["Qwen/Qwen3-32B"],
    "qwen3-14b": published.SHAPES["Qwen/Qwen3-14B"],
    "llama-8b": published.SHAPES["meta-llama/Llama-3.1-8B"],
    "qwen3-4b": published.SHAPES["Qwen/Qwen3-4B"],
    "qwen3-1.7b": published.SHAPES["Qwen/Qwen3-1.7B"],
    "qwen3-0.6b": published.SHAPES["Qwen/Qwen3-0.6B"],
    "qwen2.5-0.5b": published.SHAPES["Qwen/Qwen2.5-0.5B"],
    "smollm2-135m": published.SHAPES["HuggingFaceTB/SmolLM2-135M"],
}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument("--source", type=Path, help="directory with a config.json; no weights read")
    model.add_argument("--shape", choices=SHAPES)
    parser.add_argument(
        "--mesh", type=_sizes, default=(1, 8, 1), help="data,fsdp,tensor or these,context"
    )
    parser.add_argument("--rows", type=int, default=8, help="of a microbatch, over all devices")
    parser.add_argument("--row-tokens", type=int, default=4096)
    parser.add_argument("--param-dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--compute-dtype", default="bfloat16", choices=("float32", "bfloat16"))
    parser.add_argument("--remat", default="full", help="as config.model.remat")
    parser.add_argument("--optimizer", default="adamw", help="as config.optimizer.name")
    parser.add_argument("--json", action="store_true", help="print one json object")
    options = parser.parse_args(argv)

    mesh = sharding.make_mesh(*options.mesh, devices=target_devices(math.prod(options.mesh)))
    dtypes = {
        "param_dtype": options.param_dtype,
        "compute_dtype": options.compute_dtype,
        "remat": options.remat,
    }
    if options.source:
        shape = config_from_hf(options.source, **dtypes)
    else:
        shape = ModelConfig(**SHAPES[options.shape], **dtypes)
    planned = plan(shape, mesh, options.rows, options.row_tokens, options.optimizer)
    if options.json:
        print(json.dumps(dataclasses.asdict(planned)))
        return
    name = options.shape or options.source
    print(f"{name}: {planned.parameters:,} parameters, mesh {sharding.describe(mesh)}")
    print(f"microbatches of {options.rows} x {options.row_tokens} tokens, remat {options.remat}")
    for field in dataclasses.fields(planned):
        value = getattr(planned, field.name)
        if field.name.endswith("_bytes"):
            label = field.name.removesuffix("_bytes").replace("_", " ")
            print(f"  {label:12} {value / 2**30:10.3f} GiB per device  ({value:,})")
    print(f"compiled in {planned.seconds:.0f} s")


@dataclasses.dataclass(frozen=True)
class Plan:
    """Bytes are those of one device; of the program, as the compiler reports them.

    Attributes:
      state_bytes: parameters, optimiser state, step, by their shardings.
      batch_bytes: the batch, by its sharding.
      argument_bytes: both, as the program takes them.
      alias_bytes: of the results, what takes the place of donated arguments.
      peak_bytes: arguments, results that take no argument's place, and temporaries.
    """

    parameters: int
    state_bytes: int
    batch_bytes: int
    argument_bytes: int
    output_bytes: int
    alias_bytes: int
    temporary_bytes: int
    peak_bytes: int
    seconds: float


def target_devices(count: int) -> list[jax.Device]:
    """The devices to compile for. Must run before anything else uses JAX."""
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", count)
    return jax.devices()[:count]


def plan(
    model_config: ModelConfig,
    mesh: jax.sharding.Mesh,
    rows: int,
    row_tokens: int,
    optimizer: str = "adamw",
) -> Plan:
    """Lowers and compiles the update for a step of eight microbatches, half of each stream."""
    m = model_config
    config = Config(
        model=Model(param_dtype=m.param_dtype, compute_dtype=m.compute_dtype, remat=m.remat),
        data=Data(max_completion_tokens=row_tokens // 2),
        rollout=Rollout(problems_per_step=4, group_size=rows),
        correction=Correction(group_size=rows),
        optimizer=Optimizer(name=optimizer),
        batch=Batch(row_tokens=row_tokens, microbatch_rows=rows),
    )
    policy = Policy(
        mesh=mesh,
        model=m,
        score=make_score(m, mesh, config.sampling.temperature),
        longest_prompt=row_tokens // 2,
        longest_correction_prompt=row_tokens // 2,
        longest_completion=row_tokens // 2,
    )
    began = time.monotonic()
    update = make_policy_update(config, policy, optax.constant_schedule(1e-6))
    compiled = update.lower().compile()
    memory = compiled.memory_analysis()
    assert memory is not None, "this backend does not plan memory"
    return Plan(
        parameters=sum(x.size for x in jax.tree.leaves(update.abstract.params)),
        state_bytes=sum(map(_bytes_per_device, jax.tree.leaves(update.abstract))),
        batch_bytes=sum(map(_bytes_per_device, jax.tree.leaves(update.abstract_batch))),
        argument_bytes=memory.argument_size_in_bytes,
        output_bytes=memory.output_size_in_bytes,
        alias_bytes=memory.alias_size_in_bytes,
        temporary_bytes=memory.temp_size_in_bytes,
        peak_bytes=sum(planned_bytes(compiled)),
        seconds=time.monotonic() - began,
    )


def _sizes(text: str) -> tuple[int, ...]:
    sizes = tuple(map(int, text.split(",")))
    if len(sizes) not in (3, 4):
        raise ValueError  # which argparse reports
    return sizes


def _bytes_per_device(leaf: jax.ShapeDtypeStruct) -> int:
    assert leaf.sharding is not None
    shape = leaf.sharding.shard_shape(leaf.shape)
    return int(np.prod(shape, dtype=np.int64)) * leaf.dtype.itemsize


if __name__ == "__main__":
    main()
