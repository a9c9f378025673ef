"""Compiles a training-like program for TPU v5e without having one, on a mesh given by its sizes;
prints its number of kernels.

A program of its own, because libtpu serves one process at a time and reads the environment when it
is loaded.
"""

import sys

import jax
import jax.numpy as jnp
from jax.experimental.topologies import get_topology_desc
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from cipo_jax.policy import model, sharding

CONFIG = model.ModelConfig(
    vocab_size=512,
    num_layers=4,
    d_model=256,
    num_heads=8,
    num_kv_heads=4,
    head_dim=128,
    mlp_dim=512,
    windows=(512, None, 512, None),
    attention_soft_cap=50.0,
    compute_dtype="bfloat16",
    remat="attention",
)


def main(sizes: list[int]) -> None:
    topology = get_topology_desc("v5e:2x2", platform="tpu")
    mesh = sharding.make_mesh(*sizes, devices=topology.devices)
    rules = sharding.logical_rules(mesh, CONFIG.axis_sizes)
    params = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        model.abstract_params(CONFIG),
        model.param_shardings(CONFIG, mesh),
    )
    split = NamedSharding(mesh, P(*sharding.batch_axes(mesh)))
    row = jax.ShapeDtypeStruct((4, 1024), jnp.int32, sharding=split)

    def loss(params: model.Params, *rows: jax.Array) -> jax.Array:
        return jnp.sum(model.token_logprobs(CONFIG, params, *rows, rules=rules)[0])

    with jax.set_mesh(mesh):
        compiled = jax.jit(jax.grad(loss)).lower(params, row, row, row).compile()
    print(compiled.as_text().count('custom_call_target="tpu_custom_call"'))


if __name__ == "__main__":
    main([int(size) for size in sys.argv[1:]])
