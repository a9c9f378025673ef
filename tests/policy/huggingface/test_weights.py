"""Names and layouts of stored tensors, against torch's conventions written out by hand."""

import dataclasses

import flax.traverse_util
import numpy as np
import pytest
from tiny_models import TINY_CONFIG

from cipo_jax.policy import model
from cipo_jax.policy.huggingface.weights import (
    in_stored_order,
    stacked,
    stored_dims,
    stored_layout,
    stored_names,
    stored_shape,
)

CONFIG = dataclasses.replace(TINY_CONFIG, num_layers=2, attention_bias=True, post_norms=True)
FLAT = flax.traverse_util.flatten_dict(model.abstract_params(CONFIG), sep="/")


def test_weights_are_stored_as_outputs_by_inputs_with_heads_merged() -> None:
    D, N, H = 3, 4, 2
    q = np.arange(D * N * H).reshape(D, N, H)
    assert stored_shape("layers/q", q.shape) == (N * H, D)
    np.testing.assert_array_equal(stored_layout("layers/q", q), q.reshape(D, N * H).T)
    o = np.arange(N * H * D).reshape(N, H, D)
    np.testing.assert_array_equal(stored_layout("layers/o", o), o.reshape(N * H, D).T)
    bias = np.arange(N * H).reshape(N, H)
    np.testing.assert_array_equal(stored_layout("layers/q_bias", bias), bias.reshape(-1))
    embedding = np.arange(6).reshape(3, 2)
    np.testing.assert_array_equal(stored_layout("embedding", embedding), embedding)


def test_every_dimension_is_stored_once() -> None:
    for path, leaf in FLAT.items():
        shape = leaf.shape[1:] if stacked(path) else leaf.shape
        dims = sorted(d for group in stored_dims(path) for d in group)
        assert dims == list(range(len(shape))), path
        assert np.prod(stored_shape(path, shape)) == np.prod(shape)
        assert stored_layout(path, np.zeros(shape)).flags.c_contiguous


@pytest.mark.parametrize("post_norms", [False, True])
def test_the_norm_before_the_mlp_has_two_names(post_norms: bool) -> None:
    config = dataclasses.replace(CONFIG, post_norms=post_norms)
    kind = "pre_feedforward_layernorm" if post_norms else "post_attention_layernorm"
    wanted = [f"model.layers.{i}.{kind}.weight" for i in range(2)]
    assert stored_names("layers/mlp_norm/scale", config) == wanted


def test_tensors_are_written_layer_by_layer() -> None:
    order = list(in_stored_order(FLAT, CONFIG))
    names = [name for name, _, _ in order]
    assert len(set(names)) == len(names)
    assert sorted(names) == sorted(n for path in FLAT for n in stored_names(path, CONFIG))
    assert order[0] == ("model.embed_tokens.weight", "embedding", None)
    layers = [layer for _, _, layer in order if layer is not None]
    assert layers == sorted(layers) and set(layers) == {0, 1}
