"""The look-up of tokens that are split over devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding

from cipo_jax.policy import embedding, sharding

B, T, D = 4, 8, 16


# Split by vocabulary over context x tensor; by D over fsdp x context, and by vocabulary over tensor
# or not at all.
@pytest.mark.parametrize("V", [24, 26, 25])
@pytest.mark.parametrize("sizes", [(1, 2, 2, 2), (2, 1, 1, 4)])
def test_look_up_takes_the_tokens_rows(sizes: tuple[int, ...], V: int) -> None:
    rng = np.random.default_rng(0)
    table = rng.normal(size=(V, D)).astype(np.float32)
    tokens = rng.integers(0, V, (B, T)).astype(np.int32)
    slopes = rng.normal(size=(B, T, D)).astype(np.float32)
    mesh = sharding.make_mesh(*sizes)
    axes = {"embed": D, "heads": 4, "kv_heads": 4, "mlp": 8, "vocab": V}
    rules = sharding.logical_rules(mesh, axes)

    def score(table: jax.Array, tokens: jax.Array) -> tuple[jax.Array, jax.Array]:
        found = embedding.look_up(table, tokens, rules, "float32")
        return jnp.sum(found * slopes), found

    with jax.set_mesh(mesh):
        split = NamedSharding(mesh, sharding.spec(rules, ("vocab", "vocab_embed")))
        placed = jax.device_put(table, split)
        (_, found), slope = jax.jit(jax.value_and_grad(score, has_aux=True))(placed, tokens)
    np.testing.assert_array_equal(found, table[tokens])
    assert found.addressable_shards[0].data.shape == (B // np.prod(sizes[:2]), T // sizes[3], D)
    wanted = np.zeros_like(table)
    np.add.at(wanted, tokens, slopes)
    np.testing.assert_allclose(slope, wanted, atol=1e-5)
