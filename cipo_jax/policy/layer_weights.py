"""Weights stacked over layers, as training has them, or not stacked, for sampling.

Training scans the layers. Both XLA:CPU and XLA:GPU copy a layer's weights out of the stack before
they multiply with them, which takes as long as the product where rows are few. So sampling takes
them in another form:

    layers_apart      on a CPU: each layer's weights of products are arrays of their own, among
                      which a scanned layer chooses by its number. They are views of the stack:
                      this takes no time and no memory
    separate_layers   on a GPU: all parameters of each layer, computed one after the other, without
                      a loop

Not decided here: which products there are, see `model`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

# {name: the weight of each layer}
Apart = dict[str, tuple[Any, ...]]

APART = "apart"
PRODUCTS = ("q", "k", "v", "o", "gate", "up", "down")


def takes_layers_apart(mesh: Mesh) -> bool:
    """Whether sampling on the mesh does: on one device of a CPU."""
    return mesh.size == 1 and mesh.devices.flat[0].platform == "cpu"


def layers_apart(params: dict[str, Any]) -> dict[str, Any]:
    """The parameters with the weights of products as `params["apart"]`, an `Apart`. Of arrays they
    are views, which keep the stack in memory; of shapes they are shapes."""
    layers = dict(params["layers"])
    apart = {name: _views(layers.pop(name)) for name in PRODUCTS}
    return {**params, "layers": layers, APART: apart}


def separate_layers(params: dict[str, Any]) -> dict[str, Any]:
    """The parameters with a tuple of each layer's own instead of the stack of all layers', for
    `model.hidden_states`."""
    stacked, tree = jax.tree.flatten(params["layers"])
    layers = tuple(jax.tree.unflatten(tree, leaves) for leaves in zip(*stacked, strict=True))
    return {**params, "layers": layers}


def _views(stack: Any) -> tuple[Any, ...]:
    whole = NamedSharding(stack.sharding.mesh, P())
    if isinstance(stack, jax.ShapeDtypeStruct):
        one = jax.ShapeDtypeStruct(stack.shape[1:], stack.dtype, sharding=whole)
        return (one,) * len(stack)
    memory = np.asarray(stack)  # its own, on a CPU; a layer is copied where it is not aligned
    return tuple(jax.device_put(layer, whole, may_alias=True) for layer in memory)


def of_layer(
    layer: jax.Array, weights: Sequence[Sequence[Any]], function: Callable[..., Any], x: jax.Array
) -> Any:
    """`function(x, *weights of the layer)`; `weights` are those of each name, by layer."""
    branches = [
        lambda x, chosen=chosen: function(x, *chosen) for chosen in zip(*weights, strict=True)
    ]
    return jax.lax.switch(layer, branches, x)
