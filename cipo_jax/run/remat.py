"""What `model.remat="auto"` means: the cheapest recomputation with which the update fits a device.

Policies are tried by the FLOPs that they compute again (`forecast/counts`). What is certain not to
fit, by the update's state, its gradient and what is kept for the backward pass, is passed over;
others are compiled, and the compiler's plan decides. "full" is what is left. The policies
themselves are in `policy/model`; `memory_plan` says what counts as the update's memory.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cipo_jax.config.keys import Config
from cipo_jax.config.resolve import changed_config
from cipo_jax.policy import sharding
from cipo_jax.policy.model import ModelConfig
from cipo_jax.run.devices.memory import device_memory
from cipo_jax.run.forecast.counts import repeated_flops
from cipo_jax.run.hosts.processes import Hosts
from cipo_jax.run.memory_plan import (
    SPARE,
    Program,
    Say,
    Shapes,
    compile_update,
    least_bytes,
    open_shapes,
)
from cipo_jax.run.sizes import GIB
from cipo_jax.run.watch.heartbeat import Heartbeat


def numbers_kept(model: ModelConfig, row_tokens: int) -> dict[str, int]:
    """{policy: how many numbers are kept of a token in one layer for the backward pass, at least},
    those that compute least again first, in rows that are one sequence of `row_tokens`."""
    D, M = model.d_model, model.mlp_dim
    heads, kv = model.num_heads * model.head_dim, 2 * model.num_kv_heads * model.head_dim
    # What q, k, v and the other products give; the last of a layer only where a norm needs it.
    projected, products = heads + kv, D + 2 * M + (D if model.post_norms else 0)
    kept = {
        "none": D + projected + products + heads,
        "dots": D + projected + products,
        "attention": D + projected + heads,
        "full": D,
    }
    seen = np.arange(1, row_tokens + 1)

    def again(policy: str) -> float:
        return repeated_flops(dataclasses.replace(model, remat=policy), seen)

    return {policy: kept[policy] for policy in sorted(kept, key=again)}


def with_remat(config: Config, hosts: Hosts) -> Config:
    """`config` with the policy that "auto" means on all devices; the first host prints it. Called
    by all hosts, which take that of the first.

    Raises:
      CipoError: as `memory_plan.open_shapes`.
    """
    if config.model.remat != "auto":
        return config
    with Heartbeat(config.log.heartbeat_seconds, prints=hosts.first) as heartbeat:
        heartbeat.begin("start", "the update to be compiled, for model.remat=auto")
        say: Say = functools.partial(print, flush=True) if hosts.first else lambda line: None
        own = jax.local_devices()[0]  # JAX tells the memory of this host's devices alone
        memory = device_memory(own)
        bytes_ = None if memory is None else memory.bytes
        config, _ = choose_remat(config, jax.devices(), bytes_, say)
    return changed_config(config, {"model.remat": hosts.first_says(config.model.remat)})


def choose_remat(
    config: Config, devices: list[Any], device_bytes: int | None, say: Say
) -> tuple[Config, Program | None]:
    """`config` with the policy that "auto" means, and the compiled update if there is one; `say` is
    told the policy and the reason. With another policy, `config` as it is.

    Args:
      device_bytes: of each of the devices; None: not known.
    """
    if config.model.remat != "auto":
        return config, None

    def with_policy(policy: str) -> Config:
        return changed_config(config, {"model.remat": policy})

    full = with_policy("full")
    if device_bytes is None:
        say("remat        full: a device's memory is not known")
        return full, None
    room, have = (1 - SPARE) * device_bytes, f"{device_bytes / GIB:.2f} GiB"
    shapes = open_shapes(full, devices)
    least = least_bytes(shapes)
    for policy, kept in kept_bytes(shapes).items():
        if policy == "full":
            break
        if least + kept > room:
            say(f"remat        {policy}: needs at least {(least + kept) / GIB:.2f} of {have}")
            continue
        say(f"remat        {policy}: to be compiled")
        chosen = with_policy(policy)
        program = compile_update(open_shapes(chosen, devices), say)
        needed = program.argument_bytes + program.temporary_bytes
        if needed <= room:
            why = f"computes least again of what fits, {needed / GIB:.2f} of {have}"
            say(f"remat        {policy}: {why}")
            return chosen, program
    say(
        f"remat        full: all that computes less again needs more than {1 - SPARE:.0%} of {have}"
    )
    return full, None


def kept_bytes(shapes: Shapes) -> dict[str, int]:
    """{policy: bytes} that a device keeps of a microbatch for the backward pass, at least, in the
    order of `numbers_kept`."""
    batch, mesh, model = shapes.config.batch, shapes.policy.mesh, shapes.policy.model
    of_layers = numbers_kept(model, batch.row_tokens)
    width = jnp.dtype(model.compute_dtype).itemsize * model.num_layers
    tokens = batch.microbatch_rows * batch.row_tokens
    shards = sharding.row_count(mesh) * mesh.shape[sharding.TOKENS]
    residual = of_layers["full"]  # not split over the tensor axis
    return {
        policy: int(width * tokens / shards * (residual + (kept - residual) / mesh.shape["tensor"]))
        for policy, kept in of_layers.items()
    }
