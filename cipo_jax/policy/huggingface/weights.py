"""Which stored tensor of a Hugging Face checkpoint holds which of our parameters, in which layout.
Files are read in `load` and written in `export`."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from cipo_jax.policy.model import ModelConfig

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
# Without norms after attention and MLP, this is the name of the norm before the MLP.
_AFTER_ATTENTION = "model.layers.{}.post_attention_layernorm.weight"
# Parameter path -> name of the stored tensor, and for each of its dimensions the dimensions of our
# (single-layer) parameter that are merged into it. torch keeps linear weights as [outputs, inputs].
_TENSORS: dict[str, tuple[str, tuple[tuple[int, ...], ...]]] = {
    "embedding": (EMBEDDING, ((0,), (1,))),
    "layers/attention_norm/scale": ("model.layers.{}.input_layernorm.weight", ((0,),)),
    "layers/q": ("model.layers.{}.self_attn.q_proj.weight", ((1, 2), (0,))),
    "layers/k": ("model.layers.{}.self_attn.k_proj.weight", ((1, 2), (0,))),
    "layers/v": ("model.layers.{}.self_attn.v_proj.weight", ((1, 2), (0,))),
    "layers/o": ("model.layers.{}.self_attn.o_proj.weight", ((2,), (0, 1))),
    "layers/q_bias": ("model.layers.{}.self_attn.q_proj.bias", ((0, 1),)),
    "layers/k_bias": ("model.layers.{}.self_attn.k_proj.bias", ((0, 1),)),
    "layers/v_bias": ("model.layers.{}.self_attn.v_proj.bias", ((0, 1),)),
    "layers/o_bias": ("model.layers.{}.self_attn.o_proj.bias", ((0,),)),
    "layers/q_norm/scale": ("model.layers.{}.self_attn.q_norm.weight", ((0,),)),
    "layers/k_norm/scale": ("model.layers.{}.self_attn.k_norm.weight", ((0,),)),
    "layers/post_attention_norm/scale": (_AFTER_ATTENTION, ((0,),)),
    "layers/mlp_norm/scale": ("model.layers.{}.pre_feedforward_layernorm.weight", ((0,),)),
    "layers/gate": ("model.layers.{}.mlp.gate_proj.weight", ((1,), (0,))),
    "layers/up": ("model.layers.{}.mlp.up_proj.weight", ((1,), (0,))),
    "layers/down": ("model.layers.{}.mlp.down_proj.weight", ((1,), (0,))),
    "layers/post_mlp_norm/scale": ("model.layers.{}.post_feedforward_layernorm.weight", ((0,),)),
    "final_norm/scale": ("model.norm.weight", ((0,),)),
    "head": (HEAD, ((1,), (0,))),
}

SINGLE_FILE, INDEX_FILE = "model.safetensors", "model.safetensors.index.json"


def stacked(path: str) -> bool:
    """Whether the parameter holds all layers along its first dimension."""
    return path.startswith("layers/")


def stored_names(path: str, config: ModelConfig) -> list[str]:
    """The stored tensors of a parameter: one, or one per layer."""
    template = _TENSORS[path][0]
    if path == "layers/mlp_norm/scale" and not config.post_norms:
        template = _AFTER_ATTENTION
    return [template.format(i) for i in range(config.num_layers)] if stacked(path) else [template]


def stored_dims(path: str) -> tuple[tuple[int, ...], ...]:
    """For each dimension of the stored tensor, the dimensions of our (single-layer) parameter."""
    return _TENSORS[path][1]


def stored_shape(path: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The stored tensor's shape, for one layer of a parameter of `shape`."""
    return tuple(math.prod(shape[d] for d in group) for group in stored_dims(path))


def stored_layout(path: str, value: np.ndarray) -> np.ndarray:
    """One layer of a parameter as it is stored; contiguous, as `save_file` needs it."""
    dims = stored_dims(path)
    order = [d for group in dims for d in group]
    return np.ascontiguousarray(value.transpose(order).reshape(stored_shape(path, value.shape)))


def in_stored_order(
    flat: Mapping[str, Any], config: ModelConfig
) -> Iterator[tuple[str, str, int | None]]:
    """(stored name, parameter path, layer), embedding first, then layer by layer."""
    paths = [path for path in _TENSORS if path in flat]
    in_layers = [path for path in paths if stacked(path)]
    for path in paths:
        if path == in_layers[0]:
            for layer in range(config.num_layers):
                for p in in_layers:
                    yield stored_names(p, config)[layer], p, layer
        if not stacked(path):
            yield stored_names(path, config)[0], path, None
