"""What layers are made of: norm, matrix product, activations, initialisers, look-up of parameters.
`model` decides how they are put together, and the shapes of the weights."""

import math
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp

from cipo_jax.policy.config import ModelConfig

ACTIVATIONS = {"silu": jax.nn.silu, "gelu_pytorch_tanh": jax.nn.gelu}  # gelu: the tanh form


def kernel_init(scale: float = 1.0, inputs: int = 1) -> nn.initializers.Initializer:
    """Normal with variance scale^2 / fan-in; the first `inputs` dimensions are contracted."""

    def init(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        fan_in = math.prod(shape[:inputs])
        return scale * fan_in**-0.5 * jax.random.normal(key, shape, dtype)

    return init


def parameter(
    module: nn.Module,
    name: str,
    init: nn.initializers.Initializer,
    axes: tuple[str, ...],
    shape: tuple[int, ...],
    dtype: str,
) -> jax.Array:
    """The module's parameter `name`, whose dimensions have the logical names `axes`.

    Once parameters exist they are only looked up: `Module.param` would trace `init` each time to
    compare shapes, a fifth of what it takes to trace a decode step.

    Raises:
      KeyError: there are parameters, but not this one.
    """
    if module.is_initializing():
        boxed = nn.with_logical_partitioning(init, axes)
        return cast(jax.Array, module.param(name, boxed, shape, dtype))
    value = cast(jax.Array | None, module.get_variable("params", name))
    if value is None:
        raise KeyError("/".join((*module.path, name)))
    return value


class RMSNorm(nn.Module):
    """Root-mean-square norm over the last dimension, in float32."""

    config: ModelConfig

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        plus_one = self.config.norm_plus_one
        init = nn.initializers.zeros if plus_one else nn.initializers.ones
        scale = parameter(self, "scale", init, ("norm",), (x.shape[-1],), self.config.param_dtype)
        x32 = x.astype(jnp.float32)
        inverse = jax.lax.rsqrt(jnp.mean(x32 * x32, axis=-1, keepdims=True) + self.config.norm_eps)
        if plus_one:
            return (x32 * inverse * (1 + scale.astype(jnp.float32))).astype(x.dtype)
        return (x32 * inverse).astype(x.dtype) * scale.astype(x.dtype)


def project(
    x: jax.Array, weight: jax.Array, inputs: int = 1, dtype: Any = None, flat: bool = True
) -> jax.Array:
    """Contracts the last `inputs` dimensions of x with the first of weight, as one matrix product
    with results in `dtype`; None: in that of the arguments.

    Flattened by hand, unless not `flat`: XLA:CPU turns the weight gradient of the unflattened
    product into transposed copies and a product four times slower. Two dimensions that are both
    split over devices must not be flattened into one, which cannot be split so.
    """
    fan_in, others = math.prod(weight.shape[:inputs]), x.shape[:-inputs]
    rows = x.reshape(*((-1,) if flat else others), fan_in)
    product = jnp.matmul(rows, weight.reshape(fan_in, -1), preferred_element_type=dtype)
    return product.reshape(*others, *weight.shape[inputs:])
