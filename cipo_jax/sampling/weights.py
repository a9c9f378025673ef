"""The parameters as the device programs read them: made of the training's, and as shapes.

    own_form   in the compute dtype, on the devices where they lie; for GPUs with the layers apart
    placed     on the shards of the engine's mesh; on one device of a CPU with views of the layers

`policy/layer_weights` says why layers are apart. On GPUs one program casts and copies, so that a
stack in the compute dtype never exists beside the layers.
"""

import functools

import jax
from jax.sharding import Mesh

from cipo_jax.policy import model
from cipo_jax.policy.layer_weights import (
    APART,
    copies_layers,
    layers_apart,
    shapes,
    views,
    views_layers,
)
from cipo_jax.policy.model import ModelConfig, Params, cast_weights


def own_form(config: ModelConfig, mesh: Mesh, params: Params) -> Params:
    """The parameters in the form that `placed` takes, on their own devices; unchanged if they have
    it. `mesh`: the engine's."""
    apart = copies_layers(mesh)
    if APART in params:
        return params
    if config.param_dtype == config.compute_dtype:  # what is not apart is the training's own
        return layers_apart(params, _layers) if apart else params
    return _cast(params, config.compute_dtype, apart)


@jax.jit
def _layers(stack: jax.Array) -> tuple[jax.Array, ...]:
    return tuple(stack)


@functools.partial(jax.jit, static_argnums=(1, 2))
def _cast(params: Params, dtype: str, apart: bool) -> Params:
    cast = cast_weights(params, dtype)
    return layers_apart(cast) if apart else cast


def placed(config: ModelConfig, mesh: Mesh, params: Params) -> Params:
    """What `own_form` gives, on the engine's mesh."""
    params = jax.device_put(params, shardings(config, mesh))
    return layers_apart(params, views) if views_layers(mesh) else params


def shardings(config: ModelConfig, mesh: Mesh) -> Params:
    """Where the engine's mesh has the leaves of what `own_form` gives."""
    return jax.tree.map(lambda x: x.sharding, _own_form_shapes(config, mesh))


def abstract_weights(config: ModelConfig, mesh: Mesh) -> Params:
    """Shapes, dtypes and shardings of the parameters as the programs read them."""
    weights = _own_form_shapes(config, mesh)
    return layers_apart(weights, shapes) if views_layers(mesh) else weights


def extra_weights(config: ModelConfig, mesh: Mesh, training: Mesh) -> Params:
    """Those of `abstract_weights` that sampling has beside the training's, whose mesh is given, and
    None in place of the others."""
    weights = abstract_weights(config, mesh)
    if config.param_dtype != config.compute_dtype:
        return weights
    if copies_layers(mesh):
        return {APART: weights[APART]} if mesh == training else weights
    return jax.tree.map(  # what lies where it did is not copied
        lambda x, there: None if x.sharding.is_equivalent_to(there, x.ndim) else x,
        _own_form_shapes(config, mesh),
        model.param_shardings(config, training),
    )


def _own_form_shapes(config: ModelConfig, mesh: Mesh) -> Params:
    cast = functools.partial(cast_weights, dtype=config.compute_dtype)
    weights = jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        jax.eval_shape(cast, model.abstract_params(config)),
        model.param_shardings(config, mesh),
    )
    return layers_apart(weights, shapes) if copies_layers(mesh) else weights
