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
from safetensors.numpy import load_file

from cipo_jax.policy import model, sharding
from cipo_jax.policy.huggingface import config as hf_config
from cipo_jax.policy.huggingface import export as hf_export
from cipo_jax.policy.huggingface import load as hf_load

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


# A head width other than hidden_size / heads, where the architecture can say so.
_WIDE = {"head_dim": 16}
_GEMMA = {**_WIDE, "pad_token_id": None, "query_pre_attn_scalar": 10, "sliding_window": 8}
# architecture -> config class, network class, and what it has over `SIZES`.
TRANSFORMERS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "qwen3": ("Qwen3Config", "Qwen3ForCausalLM", _WIDE),
    "qwen2": ("Qwen2Config", "Qwen2ForCausalLM", {}),
    "llama": ("LlamaConfig", "LlamaForCausalLM", _WIDE),
    "mistral": ("MistralConfig", "MistralForCausalLM", {**_WIDE, "sliding_window": None}),
    "gemma2": ("Gemma2Config", "Gemma2ForCausalLM", _GEMMA),
    "gemma3": ("Gemma3TextConfig", "Gemma3ForCausalLM", _GEMMA),
}


def tiny_transformer(architecture: str = "qwen3", seed: int = 0, **overrides: Any) -> Any:
    """A random transformers model on the CPU. Needs torch.

    Args:
      architecture: a key of `TRANSFORMERS`.
      overrides: keys of its transformers config, over `SIZES`.
    """
    import torch
    import transformers

    config_class, network_class, own = TRANSFORMERS[architecture]
    config = getattr(transformers, config_class)(**{**SIZES, **own, **overrides})
    network = getattr(transformers, network_class)(config).eval()
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, value in network.named_parameters():
            noise = torch.randn(value.shape, generator=random)
            if "norm" in key:  # Gemma's norms add the 1 themselves
                value.copy_((0 if architecture.startswith("gemma") else 1) + 0.2 * noise)
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
    hf_export.export_hf(tiny_params(config, seed), config, directory)
    return config


def rewrite_config(directory: Path, **changes: Any) -> None:
    """Changes keys of `directory`/config.json; None removes the key."""
    file = directory / "config.json"
    values = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({k: v for k, v in values.items() if v is not None}))


def one_device() -> jax.sharding.Mesh:
    return sharding.make_mesh(1, 1, 1, devices=jax.devices()[:1])


def load(directory: Path, **options: str) -> tuple[model.ModelConfig, model.Params]:
    """A checkpoint's config and its parameters on one device; `options` of `config_from_hf`."""
    config = hf_config.config_from_hf(directory, **options)
    return config, hf_load.load_params(directory, config, one_device())


def assert_same_files(got: Path, wanted: Path) -> None:
    """The tensors of two checkpoint directories are equal: names, dtypes, bits."""
    read = [
        {k: v for file in sorted(d.glob("*.safetensors")) for k, v in load_file(file).items()}
        for d in (got, wanted)
    ]
    assert read[0].keys() == read[1].keys()
    for name, value in read[1].items():
        assert read[0][name].dtype == value.dtype, name
        np.testing.assert_array_equal(read[0][name], value, err_msg=name)


def assert_transformers_agrees(
    directory: Path, config: model.ModelConfig, params: model.Params
) -> None:
    """transformers reads the checkpoint and computes our logits. Needs torch."""
    import torch
    import transformers

    network = transformers.AutoModelForCausalLM.from_pretrained(directory).float().eval()
    tokens = np.random.default_rng(0).integers(0, config.vocab_size, (1, 40)).astype(np.int32)
    with torch.no_grad():
        theirs = network(torch.tensor(tokens).long()).logits.numpy()
    positions = np.arange(40, dtype=np.int32)[None]
    hidden, _ = model.hidden_states(config, params, tokens, positions, np.ones_like(tokens))
    ours = np.asarray(model.unembed(config, params, hidden))
    assert np.abs(theirs).max() > 1  # not trivially small
    assert np.abs(ours - theirs).max() <= 2e-4
