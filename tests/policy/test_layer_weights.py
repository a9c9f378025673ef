"""Layers' weights apart from their stack: the same results, in the same memory."""

import dataclasses

import jax
import numpy as np
import pytest
from tiny_models import TINY_CONFIG, tiny_params

from cipo_jax.policy import attention_kernels, model
from cipo_jax.policy.layer_weights import (
    APART,
    PRODUCTS,
    layers_apart,
    shapes,
    views,
    views_layers,
)
from cipo_jax.policy.sharding import make_mesh


@pytest.fixture(scope="module")
def params() -> model.Params:
    mesh = make_mesh(1, 1, 1, devices=jax.devices()[:1])
    return jax.device_put(tiny_params(TINY_CONFIG), model.param_shardings(TINY_CONFIG, mesh))


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_hidden_states_do_not_depend_on_it(
    params: model.Params, platform: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scanned, or one layer after the other, each with its own window and rotation."""
    config = dataclasses.replace(TINY_CONFIG, windows=(3, None, 5), local_rope_theta=100.0)
    monkeypatch.setattr(attention_kernels, "INTERPRET", True)
    tokens = np.arange(12, dtype=np.int32).reshape(2, 6)
    positions = np.broadcast_to(np.arange(6, dtype=np.int32), (2, 6))

    @jax.jit
    def run(params: model.Params) -> jax.Array:
        ones = np.ones_like(tokens)
        return model.hidden_states(config, params, tokens, positions, ones)[0]

    wanted = run(params)
    monkeypatch.setattr(model, "platform", lambda: platform)
    got = run(layers_apart(params))
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
    layers = layers_apart(params, views)[APART]["gate"]
    begins = stack.addressable_shards[0].data.unsafe_buffer_pointer()
    for i, view in enumerate(layers):
        at = view.addressable_shards[0].data.unsafe_buffer_pointer()
        assert at == begins + i * stack[0].nbytes


def test_of_shapes_they_are_shapes(params: model.Params) -> None:
    def shape(x: jax.Array) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)

    got = layers_apart(jax.tree.map(shape, params), shapes)
    wanted = layers_apart(params, views)
    assert jax.tree.map(lambda x: (x.shape, x.dtype, x.sharding), got) == jax.tree.map(
        lambda x: (x.shape, x.dtype, x.sharding), wanted
    )


def test_one_device_of_a_cpu_has_views() -> None:
    assert views_layers(make_mesh(1, 1, 1, devices=jax.devices()[:1]))
    assert not views_layers(make_mesh(2, 1, 1, devices=jax.devices()[:2]))
