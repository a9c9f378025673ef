"""Weights of matrix products, stacked over layers or apart.

Training stacks them: layers are scanned. XLA:CPU copies a layer's weights out of the stack before
it multiplies with them, which takes as long as the product where rows are few. So sampling on a
CPU takes each layer's weights as arrays of their own, and a scanned layer chooses among them by its
number. They are views of the stack: this takes no time and no memory.

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
