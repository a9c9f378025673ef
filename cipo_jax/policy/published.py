"""Shapes of published models, by hub id: what a plan needs of a model whose files are not here.

From each model's config.json. They are read where a model is loaded (`huggingface/config`); these
are for proposals and benchmarks alone.
"""

import re
from typing import Any

_QWEN3: dict[str, Any] = {
    "vocab_size": 151_936,
    "num_kv_heads": 8,
    "head_dim": 128,
    "rope_theta": 1e6,
    "qk_norm": True,
    "tie_embeddings": True,
}
# Arguments of `ModelConfig`, from large to small.
SHAPES: dict[str, dict[str, Any]] = {
    "Qwen/Qwen3-32B": _QWEN3
    | {"num_layers": 64, "d_model": 5120, "num_heads": 64, "mlp_dim": 25_600}
    | {"tie_embeddings": False},
    "Qwen/Qwen3-14B": _QWEN3
    | {"num_layers": 40, "d_model": 5120, "num_heads": 40, "mlp_dim": 17_408}
    | {"tie_embeddings": False},
    "meta-llama/Llama-3.1-8B": {
        "vocab_size": 128_256,
        "num_layers": 32,
        "d_model": 4096,
        "num_heads": 32,
        "num_kv_heads": 8,
        "head_dim": 128,
        "mlp_dim": 14_336,
        "rope_theta": 5e5,
        "norm_eps": 1e-5,
    },
    "ByteDance-Seed/Seed-Coder-8B-Base": {
        "vocab_size": 155_136,
        "num_layers": 32,
        "d_model": 4096,
        "num_heads": 32,
        "num_kv_heads": 8,
        "head_dim": 128,
        "mlp_dim": 14_336,
        "rope_theta": 5e5,
    },
    "Qwen/Qwen3-4B": _QWEN3 | {"num_layers": 36, "d_model": 2560, "num_heads": 32, "mlp_dim": 9728},
    "Qwen/Qwen3-1.7B": _QWEN3
    | {"num_layers": 28, "d_model": 2048, "num_heads": 16, "mlp_dim": 6144},
    "Qwen/Qwen3-0.6B": _QWEN3
    | {"num_layers": 28, "d_model": 1024, "num_heads": 16, "mlp_dim": 3072},
    "Qwen/Qwen2.5-0.5B": {
        "vocab_size": 151_936,
        "num_layers": 24,
        "d_model": 896,
        "num_heads": 14,
        "num_kv_heads": 2,
        "head_dim": 64,
        "mlp_dim": 4864,
        "rope_theta": 1e6,
        "attention_bias": True,
        "tie_embeddings": True,
    },
    "HuggingFaceTB/SmolLM2-135M": {
        "vocab_size": 49_152,
        "num_layers": 30,
        "d_model": 576,
        "num_heads": 9,
        "num_kv_heads": 3,
        "head_dim": 64,
        "mlp_dim": 1536,
        "rope_theta": 1e5,
        "norm_eps": 1e-5,
        "tie_embeddings": True,
    },
}


def shape_of(source: str) -> dict[str, Any] | None:
    """The shape of a hub id, with or without "@revision"; that of a tuned model is that of the one
    it was made from. None: not known."""

    def plain(name: str) -> str:
        return re.sub(r"-(Base|Instruct|Reasoning)$", "", name.partition("@")[0])

    known = {plain(name): shape for name, shape in SHAPES.items()}
    return known.get(plain(source))
