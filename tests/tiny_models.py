"""Tiny random checkpoints on disk, for tests that need a model directory.

Every tensor is random, norm scales and biases included, at a scale that gives logits of size 1 to
10: an untrained initialisation (ones, zeros, tiny weights) would hide swapped or forgotten tensors.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cipo_jax.policy import hf_weights, model

SIZES: dict[str, Any] = {
    "vocab_size": 128,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "tie_word_embeddings": False,
    "bos_token_id": None,
    "eos_token_id": None,
}


def tiny_transformer(architecture: str = "qwen3", seed: int = 0, **overrides: Any) -> Any:
    """A random transformers model on the CPU. Needs torch.

    Args:
      architecture: "qwen3", "qwen2" or "llama".
      overrides: keys of its transformers config, over `SIZES`.
    """
    import torch
    import transformers

    name = {"qwen3": "Qwen3", "qwen2": "Qwen2", "llama": "Llama"}[architecture]
    # A head width other than hidden_size / heads, where the architecture can say so.
    head_dim = {} if architecture == "qwen2" else {"head_dim": 16}
    config = getattr(transformers, f"{name}Config")(**{**SIZES, **head_dim, **overrides})
    network = getattr(transformers, f"{name}ForCausalLM")(config).eval()
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, value in network.named_parameters():
            noise = torch.randn(value.shape, generator=random)
            if "norm" in key:
                value.copy_(1 + 0.2 * noise)
            elif key.endswith("bias"):
                value.copy_(0.3 * noise)
            else:
                value.copy_(noise * value.shape[-1] ** -0.5 * 1.5)
    return network


def save_tiny_model(
    directory: Path, architecture: str = "qwen3", seed: int = 0, **overrides: Any
) -> Any:
    """Saves `tiny_transformer(...)` as a checkpoint in `directory`, and returns it."""
    network = tiny_transformer(architecture, seed, **overrides)
    network.save_pretrained(directory)
    return network


TINY_CONFIG = model.ModelConfig(
    vocab_size=128,
    num_layers=3,
    d_model=32,
    num_heads=4,
    num_kv_heads=2,
    head_dim=16,
    mlp_dim=48,
    qk_norm=True,
    max_positions=256,
)


def tiny_params(config: model.ModelConfig, seed: int = 0) -> model.Params:
    """Random parameters, unsharded, in which no norm scale is one and no bias zero."""
    random = np.random.default_rng(seed)

    def leaf(path: tuple, x: jax.ShapeDtypeStruct) -> jax.Array:
        name = jax.tree_util.keystr(path)
        noise = random.standard_normal(x.shape).astype(np.float32)
        if "scale" in name:
            value = 1 + 0.2 * noise
        elif "bias" in name:
            value = 0.3 * noise
        else:
            value = 1.5 * noise * config.d_model**-0.5
        return jax.numpy.asarray(value, x.dtype)

    return jax.tree_util.tree_map_with_path(leaf, model.abstract_params(config))


def save_tiny_model_without_torch(
    directory: Path, seed: int = 0, **overrides: Any
) -> model.ModelConfig:
    """Saves a random Qwen3-architecture checkpoint in `directory` and returns its config.

    Args:
      overrides: fields of `ModelConfig`, over `TINY_CONFIG`.
    """
    config = dataclasses.replace(TINY_CONFIG, **overrides)
    hf_weights.export_hf(tiny_params(config, seed), config, directory)
    return config


def rewrite_config(directory: Path, **changes: Any) -> None:
    """Changes keys of `directory`/config.json; None removes the key."""
    file = directory / "config.json"
    values = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({k: v for k, v in values.items() if v is not None}))
