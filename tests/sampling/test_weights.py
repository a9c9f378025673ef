"""The parameters as the programs read them, on meshes of CPUs that stand for GPUs."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from tiny_models import TINY_CONFIG, tiny_params

from cipo_jax.policy import model, sharding
from cipo_jax.policy.layer_weights import APART, PRODUCTS
from cipo_jax.policy.model import ModelConfig
from cipo_jax.sampling import weights

CAST = dataclasses.replace(TINY_CONFIG, compute_dtype="bfloat16")


@pytest.fixture
def on_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "copies_layers", lambda mesh: True)
    monkeypatch.setattr(weights, "views_layers", lambda mesh: False)


@functools.cache
def meshes() -> tuple[jax.sharding.Mesh, jax.sharding.Mesh]:
    """Of training and of sampling, over the same devices."""
    return sharding.make_mesh(1, 4, 2), sharding.make_mesh(4, 1, 2)


@functools.cache
def trained() -> model.Params:
    return jax.device_put(tiny_params(TINY_CONFIG), model.param_shardings(TINY_CONFIG, meshes()[0]))


@pytest.mark.parametrize("config", [TINY_CONFIG, CAST], ids=["same dtype", "cast"])
def test_gpus_have_copies_of_layers_where_the_programs_want_them(
    config: ModelConfig, on_gpus: None
) -> None:
    params, (training, mesh) = trained(), meshes()
    form = weights.own_form(config, mesh, params)
    assert weights.own_form(config, mesh, form) is form
    # Still spread over all devices, so that the copy to another mesh is the only whole one.
    gate = form[APART]["gate"][0]
    wanted = jax.sharding.NamedSharding(training, jax.P("fsdp", "tensor"))
    assert gate.sharding.is_equivalent_to(wanted, gate.ndim)
    got = weights.placed(config, mesh, form)
    wanted = weights.abstract_weights(config, mesh)
    assert jax.tree.map(lambda x: (x.shape, x.dtype, x.sharding), got) == jax.tree.map(
        lambda x: (x.shape, x.dtype, x.sharding), wanted
    )
    for name in PRODUCTS:
        stack = np.asarray(params["layers"][name]).astype(got[APART][name][0].dtype)
        np.testing.assert_array_equal(jax.device_get(got[APART][name]), stack)


def test_only_what_is_apart_is_copied_where_dtypes_agree(on_gpus: None) -> None:
    params, (training, _) = trained(), meshes()
    got = weights.placed(TINY_CONFIG, training, weights.own_form(TINY_CONFIG, training, params))
    own, copied = (
        [shard.data.unsafe_buffer_pointer() for shard in tree["embedding"].addressable_shards]
        for tree in (params, got)
    )
    assert own == copied
    extra = weights.extra_weights(TINY_CONFIG, training, training)
    assert extra == {APART: weights.abstract_weights(TINY_CONFIG, training)[APART]}


def test_what_sampling_has_beside_the_training_s_weights() -> None:
    training, mesh = meshes()
    assert not jax.tree.leaves(weights.extra_weights(TINY_CONFIG, training, training))
    whole = weights.abstract_weights(CAST, training)
    assert weights.extra_weights(CAST, training, training) == whole
    # On another mesh all but the norms, which every device has whole; on one that sees rows whole
    # where training splits them, embedding and head alone.
    other = weights.extra_weights(TINY_CONFIG, mesh, training)
    assert {"q", "k", "v", "o", "gate", "up", "down"} <= _names(other["layers"])
    assert not any("norm" in name for name in _names(other) | _names(other["layers"]))
    split = sharding.make_mesh(1, 2, 2, 2)
    extra = weights.extra_weights(TINY_CONFIG, sharding.whole_row_mesh(split), split)
    assert _names(extra) == {"embedding", "head"}


def _names(tree: model.Params) -> set[str]:
    return {name for name, value in tree.items() if jax.tree.leaves(value)}
