"""FLOPs and bytes of a run's programs, counted from shapes: what a roofline is made of.

The FLOPs of a pass are those of `watch/speed`, which MFU is measured by.
"""

import jax
import jax.numpy as jnp
import numpy as np

from cipo_jax.policy.config import ModelConfig
from cipo_jax.policy.model import abstract_params
from cipo_jax.run.watch.speed import attention_flops, forward_flops

WEIGHT_PASSES = 3  # over the links for a microbatch: forward, backward, and the gradient back


def count_parameters(model: ModelConfig) -> int:
    return sum(x.size for x in jax.tree.leaves(abstract_params(model)))


def step_bytes(model: ModelConfig, cached_as: str, live_tokens: float) -> float:
    """What a decode step has to read: the weights, in the compute dtype, and the keys and values of
    `live_tokens` tokens, as if no layer had a window."""
    parameters = count_parameters(model)
    if not model.tie_embeddings:
        parameters -= model.vocab_size * model.d_model  # of the input table only rows are read
    token = 2 * model.num_layers * model.num_kv_heads * model.head_dim
    weight_bytes = parameters * jnp.dtype(model.compute_dtype).itemsize
    return weight_bytes + live_tokens * token * jnp.dtype(cached_as).itemsize


def head_flops(model: ModelConfig, tokens: int) -> float:
    """Those of `forward_flops` that make logits."""
    return 2.0 * model.d_model * model.vocab_size * tokens


def layer_flops(model: ModelConfig, seen: np.ndarray) -> float:
    """Those of `forward_flops` in the layers: all but the head's."""
    return forward_flops(model, count_parameters(model), seen) - head_flops(model, seen.size)


def repeated_flops(model: ModelConfig, seen: np.ndarray) -> float:
    """What the backward pass computes again: logits, whose blocks are not kept, and of the layers
    what `model.remat` says. The last product of a layer is among it only if a norm follows, since
    nothing else needs its result; other products with weights count whole where any of their
    results are needed. Scores that attention's own backward pass makes anew do not count.

    Args:
      model: with a policy other than "auto".
      seen: [n] as in `forward_flops`, in rows of more than one block of `policy/logprobs`.
    """
    products = 2.0 * model.num_layers * model.d_model * seen.size  # with one column of weights
    attention, head = attention_flops(model, seen), head_flops(model, seen.size)
    last = 0.0 if model.post_norms else products * model.mlp_dim
    whole = layer_flops(model, seen) - last
    qkv = products * (model.num_heads + 2 * model.num_kv_heads) * model.head_dim
    layers = {
        "none": 0.0,
        "dots": attention,
        "attention": whole - attention - qkv,
        "full": whole,
    }
    return head + layers[model.remat]


def weights_over_links(model: ModelConfig, shards: int, tensor: int) -> float:
    """Bytes that a chip gets over its links in a microbatch: the weights in bfloat16 for each of
    WEIGHT_PASSES, but for the part that it holds.

    Args:
      shards: over which a layer's weights are split and gathered: fsdp x context.
    """
    whole = 2 * count_parameters(model) / tensor
    return WEIGHT_PASSES * whole * (shards - 1) / shards


def gradients_over_links(model: ModelConfig, shards: int, tensor: int, replicas: int) -> float:
    """Bytes that a chip gets over its links in a microbatch to sum the gradient of its part of the
    weights, in bfloat16, over `replicas` of it: an all-reduce, which sends each part on twice.

    Args:
      shards: as in `weights_over_links`.
    """
    own = 2 * count_parameters(model) / tensor / shards
    return 2 * own * (replicas - 1) / replicas
