"""The rotary part of config.json: both layouts, and back. What is refused is in test_config.py."""

import math
from pathlib import Path

import pytest
import tiny_models
from tiny_models import rewrite_config

from cipo_jax.policy.config import RopeScaling
from cipo_jax.policy.huggingface.config import config_from_hf
from cipo_jax.policy.huggingface.rope import read_rope, scaling_values

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 1000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
F32 = {"param_dtype": "float32", "compute_dtype": "float32", "remat": "none"}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    tiny_models.save_tiny_model_without_torch(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize(
    ("layout", "wanted"),
    [
        ({"rope_theta": 1e6}, (1e6, None)),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}, (1e6, None)),
        ({"rope_parameters": {"rope_type": "default"}, "rope_theta": 1e6}, (1e6, None)),
        ({}, (1e4, None)),
        (
            {"rope_theta": 500, "rope_scaling": {"type": "linear", "factor": 2}},
            (500.0, RopeScaling("linear", 2.0)),
        ),
        (
            {"rope_scaling": {k: v for k, v in LLAMA3.items() if k != "rope_theta"}},
            (1e4, RopeScaling("llama3", 8.0, 1.0, 4.0, 32)),
        ),
        ({"rope_parameters": LLAMA3}, (1e3, RopeScaling("llama3", 8.0, 1.0, 4.0, 32))),
    ],
    ids=["v4", "v5", "mixed", "absent", "v4-linear", "v4-llama3", "v5-llama3"],
)
def test_rope_layouts(layout: dict, wanted: tuple, saved: Path) -> None:
    rewrite_config(saved, **{"rope_theta": None, "rope_scaling": None, **layout})
    config = config_from_hf(saved, **F32)
    assert (config.rope_theta, config.rope_scaling) == wanted


GEMMA3 = {
    "architectures": ["Gemma3ForCausalLM"],
    "hidden_activation": "gelu_pytorch_tanh",
    "sliding_window": 512,
    "num_hidden_layers": 7,
    "rope_theta": None,
    "layer_types": None,
}


@pytest.mark.parametrize(
    ("layout", "wanted"),
    [
        ({}, (1e6, None, 1e4)),
        (
            {
                "rope_theta": 2e6,
                "rope_scaling": {"rope_type": "linear", "factor": 8.0},
                "rope_local_base_freq": 5e3,
            },
            (2e6, RopeScaling("linear", 8.0), 5e3),
        ),
        (
            {
                "rope_parameters": {
                    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 2e6},
                    "sliding_attention": {"rope_type": "default", "rope_theta": 5e3},
                }
            },
            (2e6, RopeScaling("linear", 8.0), 5e3),
        ),
    ],
    ids=["absent", "v4", "v5"],
)
def test_rope_of_gemma3(layout: dict, wanted: tuple, saved: Path) -> None:
    rewrite_config(saved, **{**GEMMA3, **layout})
    config = config_from_hf(saved, **F32)
    assert (config.rope_theta, config.rope_scaling, config.local_rope_theta) == wanted


def test_yarn(saved: Path) -> None:
    yarn = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
    rewrite_config(saved, rope_scaling=yarn)
    scaling = config_from_hf(saved, **F32).rope_scaling
    assert scaling == RopeScaling(
        "yarn", 4.0, original_max_positions=32, attention_factor=0.1 * math.log(4) + 1
    )


@pytest.mark.parametrize(
    "scaling",
    [
        None,
        RopeScaling("linear", 4.0),
        RopeScaling("llama3", 8.0, 1.0, 4.0, 32),
        RopeScaling("yarn", 4.0, original_max_positions=32, truncate=False, attention_factor=1.5),
    ],
    ids=lambda s: "none" if s is None else s.kind,
)
def test_what_is_written_is_read_back(scaling: RopeScaling | None) -> None:
    values = {"rope_theta": 1e5, "rope_scaling": scaling_values(scaling)}
    assert read_rope(Path("config.json"), values, local=False) == (1e5, scaling, None)
