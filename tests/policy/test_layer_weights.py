"""Layers' weights apart from their stack: the same results, in the same memory."""

import jax
import numpy as np
import pytest
from tiny_models import TINY_CONFIG, tiny_params

from cipo_jax.policy import model
from cipo_jax.policy.layer_weights import (
    APART,
    PRODUCTS,
    layers_apart,
    takes_layers_apart,
)
from cipo_jax.policy.sharding import make_mesh


@pytest.fixture(scope="module")
def params() -> model.Params:
    mesh = make_mesh(1, 1, 1, devices=jax.devices()[:1])
    return jax.device_put(tiny_params(TINY_CONFIG), model.param_shardings(TINY_CONFIG, mesh))


def test_hidden_states_do_not_depend_on_it(params: model.Params) -> None:
    tokens = np.arange(12, dtype=np.int32).reshape(2, 6)
    positions = np.broadcast_to(np.arange(6, dtype=np.int32), (2, 6))

    @jax.jit
    def run(params: model.Params) -> jax.Array:
        ones = np.ones_like(tokens)
        return model.hidden_states(TINY_CONFIG, params, tokens, positions, ones)[0]

    got, wanted = run(layers_apart(params)), run(params)
    assert np.ptp(wanted) > 1
    np.testing.assert_allclose(got, wanted, rtol=0, atol=2e-6)


def test_every_product_is_apart_and_only_these(params: model.Params) -> None:
    apart = layers_apart(params)
    matrices = {name for name, x in params["layers"].items() if getattr(x, "ndim", 0) > 2}
    assert set(apart[APART]) == set(PRODUCTS) == matrices
    assert apart["layers"].keys() == params["layers"].keys() - matrices
    assert apart["embedding"] is params["embedding"]


def test_layers_are_views_of_the_stack(params: model.Params) -> None:
    stack = params["layers"]["gate"]
    views = layers_apart(params)[APART]["gate"]
    begins = stack.addressable_shards[0].data.unsafe_buffer_pointer()
    for i, view in enumerate(views):
        at = view.addressable_shards[0].data.unsafe_buffer_pointer()
        assert at == begins + i * stack[0].nbytes


def test_of_shapes_they_are_shapes(params: model.Params) -> None:
    def shape(x: jax.Array) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)

    got, wanted = layers_apart(jax.tree.map(shape, params)), layers_apart(params)
    assert jax.tree.map(lambda x: (x.shape, x.dtype, x.sharding), got) == jax.tree.map(
        lambda x: (x.shape, x.dtype, x.sharding), wanted
    )


def test_one_device_of_a_cpu_takes_them_apart() -> None:
    assert takes_layers_apart(make_mesh(1, 1, 1, devices=jax.devices()[:1]))
    assert not takes_layers_apart(make_mesh(2, 1, 1, devices=jax.devices()[:2]))
