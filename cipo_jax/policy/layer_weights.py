"""Weights stacked over layers, as training has them, or apart, as sampling reads them.

Training scans the layers. Both XLA:CPU and XLA:GPU copy a layer's weights out of the stack before
they multiply with them, which takes as long as the product where rows are few. So there, sampling
has for each product a tuple of its weight in each layer, an array of its own:

    on one device of a CPU   views of the stack, which take no time and no memory. The layers are
                             scanned still; each chooses among the arrays by its number
    on GPUs                  copies. The layers are computed one after the other, without a loop

What is small (norms, biases) stays stacked. Not decided here: which products there are, see
`model`; when copies are made (`sampling/weights`).
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


def copies_layers(mesh: Mesh) -> bool:
    """Whether sampling on the mesh has copies of the layers' weights."""
    return bool(mesh.devices.flat[0].platform == "gpu")


def views_layers(mesh: Mesh) -> bool:
    """Whether it has views of them."""
    return mesh.size == 1 and mesh.devices.flat[0].platform == "cpu"


def layers_apart(
    params: dict[str, Any], of_stack: Callable[[Any], tuple[Any, ...]] = tuple
) -> dict[str, Any]:
    """The parameters with the weights of products as `params["apart"]`, an `Apart`.

    Args:
      of_stack: a stack -> what stands for its layers: by default their arrays, `views` of them, or
        `shapes`.
    """
    layers = dict(params["layers"])
    apart = {name: of_stack(layers.pop(name)) for name in PRODUCTS}
    return {**params, "layers": layers, APART: apart}


def views(stack: jax.Array) -> tuple[jax.Array, ...]:
    """Of a stack on a CPU, which they keep in memory."""
    own = _of_one_layer(stack.sharding)
    memory = np.asarray(stack)  # its own, on a CPU; a layer is copied where it is not aligned
    return tuple(jax.device_put(layer, own, may_alias=True) for layer in memory)


def shapes(stack: jax.ShapeDtypeStruct) -> tuple[jax.ShapeDtypeStruct, ...]:
    """Of a stack's layers, each with its sharding."""
    own = _of_one_layer(stack.sharding)
    return (jax.ShapeDtypeStruct(stack.shape[1:], stack.dtype, sharding=own),) * len(stack)


def _of_one_layer(sharding: Any) -> NamedSharding:
    # On one device without the axes' names: what a program returns would have them too, and its
    # second call would be told from its first.
    spec = P() if sharding.mesh.size == 1 else P(*sharding.spec[1:])
    return NamedSharding(sharding.mesh, spec)


def one_by_one(params: dict[str, Any]) -> list[tuple[dict[str, Any], Apart]]:
    """Of parameters whose layers are apart: each layer's own, without and with products."""
    apart: Apart = params[APART]
    return [
        (
            jax.tree.map(lambda x, i=i: x[i], params["layers"]),
            {name: weights[i : i + 1] for name, weights in apart.items()},
        )
        for i in range(len(apart[PRODUCTS[0]]))
    ]


def of_layer(
    layer: jax.Array, weights: Sequence[Sequence[Any]], function: Callable[..., Any], x: jax.Array
) -> Any:
    """`function(x, *weights of the layer)`; `weights` are those of each name, by layer, or of the
    one layer alone."""
    branches = [
        lambda x, chosen=chosen: function(x, *chosen) for chosen in zip(*weights, strict=True)
    ]
    return jax.lax.switch(layer, branches, x)
