"""What a compiled program needs."""

import math

import jax
import jax.numpy as jnp
import pytest

from cipo_jax.config import default_config
from cipo_jax.config.resolve import resolve
from cipo_jax.run.devices.topology import paper_devices
from cipo_jax.run.memory_plan import compile_program, open_shapes
from cipo_jax.sampling.weights import abstract_weights


def test_temporaries_count_where_the_compilers_peak_leaves_them_out() -> None:
    def step(x: jax.Array, count: jax.Array) -> tuple[jax.Array, jax.Array]:
        a = jnp.sin(x @ x)
        return x + jnp.sort(a @ a.T, axis=0) @ a, count

    x, count = jnp.zeros((64, 64)), jnp.zeros(())
    lowered = jax.jit(step, donate_argnums=(0, 1)).lower(x, count)
    said: list[str] = []
    program = compile_program("step", lowered, said.append)
    assert program.argument_bytes == x.nbytes + count.nbytes
    assert program.temporary_bytes >= 2 * x.nbytes  # XLA:CPU has a peak without them
    assert program.work.flops >= 3 * 2 * 64**3 and said[0].startswith("step ")


def test_a_mesh_that_splits_rows_updates_on_it_and_samples_whole_ones() -> None:
    raw = default_config()
    raw.mesh.fsdp, raw.mesh.context, raw.mesh.tensor = 2, 2, 2
    shapes = open_shapes(resolve(raw), jax.devices())
    tokens = shapes.update().abstract_batch.tokens
    (_, _, R, T), batch = tokens.shape, shapes.config.batch
    assert tokens.sharding.shard_shape(tokens.shape)[2:] == (R // 2, T // 2)
    assert R == batch.microbatch_rows == 2 and batch.row_tokens == T and T % 32 == 0
    _, mesh, _ = shapes.sampler
    assert dict(mesh.shape) == {"data": 1, "fsdp": 4, "context": 1, "tensor": 2}


@pytest.mark.parametrize("topology", ["v5p:2x2x1", "v5p:2x2x2"])
def test_chips_that_share_no_tensor_hold_all_weights_while_sampling(topology: str) -> None:
    """On one host and on two: no decode step gathers them."""
    raw = default_config()
    raw.model.param_dtype = raw.model.compute_dtype = "bfloat16"
    raw.sampling.tensor = 2
    shapes = open_shapes(resolve(raw), paper_devices(topology))
    model, mesh, _ = shapes.sampler
    assert mesh.shape["fsdp"] == 1 and 2 * mesh.shape["data"] == mesh.size
    weights = abstract_weights(model, mesh)["layers"]["gate"]
    shard = weights.sharding.shard_shape(weights.shape)
    assert 2 * math.prod(shard) == weights.size
